"""Pictures a second that the dense CRF does over the present classes, and how many masks stay what they were.

    python -m benchmarks.crf [--pictures 32] [--size 375 500] [--workers N] [--rounds 3]

One process over all 21 classes against the pool over the present ones (background and 1 to 3 of 20), on the same
pictures, in turn. Then the pool's masks against those of one process on the same classes.
Limits: 3 times the pictures a second; the same class on 99.5 % of the pixels of every picture.
"""
import argparse, os, statistics, time
import torch
from torch.nn.functional import interpolate
from consistency_cam.crf import crf_many, dense_crf
from consistency_cam.scenes import Scenes

FASTER, ALIKE, CLASSES = 3, .995, 21


def picture(scenes, i, size):
    "(id, (image uint8 (3,H,W), probabilities (21,H,W), ids of the present classes)): a scene, seen by a coarse classifier"
    scene, (H, W) = scenes[i], size
    image, mask = (x[..., (scenes.size - H) // 2:, (scenes.size - W) // 2:][..., :H, :W] for x in (scene.image, scene.mask))
    present = sorted({0, *mask.unique().tolist()})
    generator = torch.Generator().manual_seed(i)
    logits = torch.randn(1, CLASSES, H // 16, W // 16, generator=generator)
    cells = interpolate(mask[None, None].float(), logits.shape[2:], mode='nearest-exact').long()
    logits.scatter_add_(1, cells, torch.full_like(logits[:, :1], 4.))
    return scene.id, (image, interpolate(logits, size, mode='bilinear')[0].softmax(0), present)


def renormalised(image, probs, present):
    "(image, probabilities (K,H,W)), those of the present classes alone"
    return image, probs[present] / probs[present].sum(0)


def timed(jobs, workers):
    "Seconds of wall time, and the results"
    start = time.perf_counter()
    results = dict(crf_many(jobs, workers=workers, progress=False))
    return time.perf_counter() - start, results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pictures', type=int, default=32, help='number of pictures (default 32)')
    parser.add_argument('--size', type=int, nargs=2, default=(375, 500), help='H W of a picture (default 375 500)')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes of the pool (default: one a core)')
    parser.add_argument('--rounds', type=int, default=3, help='times each is measured (default 3)')
    args = parser.parse_args()
    scenes = Scenes(args.pictures, seed=0, size=max(args.size))
    pictures = [picture(scenes, i, args.size) for i in range(args.pictures)]
    every = [(id, (image, probs)) for id, (image, probs, _) in pictures]
    present = [(id, renormalised(*p)) for id, p in pictures]
    one, pool = [], []
    for _ in range(args.rounds):
        one.append(timed(every, 0)[0])
        seconds, pooled = timed(present, args.workers)
        pool.append(seconds)
    single = {id: dense_crf(*arguments) for id, arguments in present}
    alike = [(pooled[id].argmax(0) == p.argmax(0)).float().mean().item() for id, p in single.items()]
    rate = {'one process, all 21 classes': len(every) / statistics.median(one), f'{args.workers} processes, present classes': len(every) / statistics.median(pool)}
    mean = statistics.mean(len(p[2]) for _, p in pictures)
    print(f'{args.pictures} pictures of {args.size[0]}x{args.size[1]}, {mean:.1f} classes present on average with background, {os.cpu_count()} cores, {args.rounds} rounds in turn')
    for name, r in rate.items(): print(f'{name:36} {r:6.2f} pictures/s')
    slow, fast = rate.values()
    print(f'{fast / slow:.2f} times as many, wanted at least {FASTER}; the same class on {min(alike):.2%} of the pixels of the worst picture, wanted {ALIKE:.1%}')


if __name__ == '__main__': main()
