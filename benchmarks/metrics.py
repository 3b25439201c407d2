"""What a sweep over 60 thresholds costs, beside one evaluation at one threshold.

    python -m benchmarks.metrics [--pictures 60] [--rounds 5] [--device cpu]

Both start from the same CAMs: pictures of VOC's size, 20 classes, 1 to 3 of them present, smooth maps as a
network gives them, with a true mask that has a void outline. For every picture the two are timed in turn,
several rounds over, so that whatever else the machine does falls on both alike.
"""
import argparse, statistics, time
import torch
from torch.nn.functional import avg_pool2d, interpolate
from consistency_cam.metrics import ConfusionMatrix, ThresholdSweep, cam_mask

LIMIT = 1.5


def picture(generator, size=(375, 500), classes=20):
    "One picture: CAMs {mask id: (H, W) in 0..1} of 1 to 3 classes, and a true mask (H, W) with void."
    count = int(torch.randint(1, 4, (), generator=generator))
    ids = (torch.randperm(classes, generator=generator)[:count] + 1).tolist()
    cells = torch.randn(1, count, size[0] // 16 + 1, size[1] // 16 + 1, generator=generator)
    maps = interpolate(avg_pool2d(cells, 5, 1, 2), size=size, mode='bilinear')[0].relu()
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5)
    value, index = maps.max(0)
    target = torch.where(value > .3, torch.tensor(ids)[index], 0)
    return dict(zip(ids, maps)), target.masked_fill((value - .3).abs() < .03, 255).to(torch.uint8)


def seconds(work, device):
    "Wall time of one call."
    start = time.perf_counter()
    work()
    if device.type == 'cuda': torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pictures', type=int, default=60, help='number of pictures (default 60)')
    parser.add_argument('--rounds', type=int, default=5, help='times each picture is measured (default 5)')
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (default cpu)')
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    pictures = [picture(generator) for _ in range(args.pictures)]
    pictures = [({i: m.to(args.device) for i, m in cams.items()}, target.to(args.device)) for cams, target in pictures]
    sweep, single = ThresholdSweep(21), ConfusionMatrix(21)
    times = {'one': [], 'sweep': []}
    for turn in range(args.rounds + 1):
        for cams, target in pictures:
            one = seconds(lambda: single.update(cam_mask(cams, .3, target.shape), target), args.device)
            all60 = seconds(lambda: sweep.update(cams, target), args.device)
            if turn: times['one'].append(one); times['sweep'].append(all60)  # the first round warms up
    assert torch.equal(sweep.at(.3).matrix, single.matrix)
    one, all60 = (statistics.median(times[k]) for k in ('one', 'sweep'))
    ratio = sum(times['sweep']) / sum(times['one'])
    present = statistics.mean(len(cams) for cams, _ in pictures)
    print(f'device {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}')
    print(f'{args.pictures} pictures of 375x500, 20 classes, {present:.1f} present on average, {args.rounds} rounds')
    print(f'one evaluation at one threshold: median {1e3 * one:.2f} ms a picture')
    print(f'sweep over {len(sweep.thresholds)} thresholds:         median {1e3 * all60:.2f} ms a picture')
    print(f'ratio of the medians {all60 / one:.2f}, of the total times {ratio:.2f} (wanted: at most {LIMIT})')


if __name__ == '__main__': main()
