"""Do the scenes contain what they are made for? Three questions, answered by training.

    python -m benchmarks.scenes [--seeds 0 1 2] [--runs runs/scenes] [--result results/scenes.json]

1. Plain CAM finds the telling part and misses the body: its recall on the rest of the body, beside the part's.
2. The masks can be learned: mIoU of the same backbone trained on the true masks, on held-out scenes.
3. The methods differ by more than the spread over seeds: CAM mIoU of each.

The recipe is `quick` on 128-pixel scenes, 256 of them, seen eight times (128 steps).
"""
import argparse
import sys
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F
from tqdm import tqdm
from consistency_cam.camnet import CAMNet
from consistency_cam.checkpoint import write_json
from consistency_cam.metrics import ConfusionMatrix, cam_mask
from consistency_cam.pipeline import Run, compare, table
from consistency_cam.recipes import recipe
from consistency_cam.scenes import Scenes
from consistency_cam.training import poly
from consistency_cam.transforms import Augment, Augmented, Batches, collate


SCHEDULE = dict(size=128, crop=128, long_side=(112, 144), tiles=(2, 4), resize_scale=(.75, 1.25), alpha=.15, lr=.004, ramp=1., pictures=256, epochs=8)


class Segmenter(nn.Module):
    "The CAM network's backbone under a small feature-pyramid decoder, for true masks"
    def __init__(self, net, num_classes, width=96):
        super().__init__()
        self.net, self.lateral = net, nn.ModuleList(nn.Conv2d(c, width, 1) for c in net.channels)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def forward(self, x):
        *fine, coarse = zip(self.net.features(x), self.lateral)
        y = coarse[1](coarse[0])
        for f, lateral in reversed(fine): y = lateral(f) + F.interpolate(y, f.shape[-2:], mode='bilinear', align_corners=False)
        return F.interpolate(self.head(y), x.shape[-2:], mode='bilinear', align_corners=False)


def supervised(r, pictures, epochs, batch_size=16, lr=1e-3):
    "IoU on held-out scenes of the recipe's backbone trained on true masks"
    train, val = Scenes(pictures, seed=1, split='train', size=r.size), Scenes(160, seed=0, split='val', size=r.size)
    torch.manual_seed(0)
    net = CAMNet(r.backbone, len(train.classes), output_stride=r.output_stride).freeze()
    model = Segmenter(net, len(train.classes) + 1).to(memory_format=torch.channels_last)
    augment = Augment(r.size, (r.size, r.size), mean=net.mean.flatten().tolist(), std=net.std.flatten().tolist(), masks=True)
    data, steps = Augmented(train, augment), epochs * (pictures // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step, indices in enumerate(tqdm(Batches(pictures, batch_size, steps), desc='true masks', total=steps)):
        for g in optimizer.param_groups: g['lr'] = lr * poly(step, steps) * min(1, (step + 1) / 30)
        batch = collate([data[i] for i in indices])
        x = batch['image'].contiguous(memory_format=torch.channels_last)
        F.cross_entropy(model.train()(x), batch['mask'].long(), ignore_index=255).backward()
        optimizer.step(); optimizer.zero_grad()
    matrix = ConfusionMatrix(len(train.classes) + 1)
    with torch.no_grad():
        for i in range(len(val)): matrix.update(model.eval()(net.normalize(val.image(i)[None]))[0].argmax(0), val.mask(i))
    return dict(miou=round(100 * matrix.miou(), 2), iou={k: round(100 * v, 2) for k, v in matrix.per_class(val.classes).items()}, pictures=pictures, epochs=epochs)


THRESHOLDS = .02, .05, .1, .15, .2, .25, .3, .4, .5

def recalls(run):
    "Recall in percent of the right class on telling parts, on the rest of the bodies, and of background, by threshold"
    samples, store = run.samples(run.recipe.train), run.cams(run.recipe.train)
    hits, pixels = torch.zeros(len(THRESHOLDS), 3), torch.zeros(3)
    for i, id in enumerate(samples.ids):
        part, mask, cams = samples.part(i).long(), samples.mask(i).long(), store.get(id)
        pixels += part.flatten().bincount(minlength=3)
        for t, threshold in enumerate(THRESHOLDS): hits[t] += part[cam_mask(cams, threshold, mask.shape) == mask].bincount(minlength=3)
    background, body, telling = [[round(v, 1) for v in (100 * hits[:, k] / pixels[k]).tolist()] for k in range(3)]
    return dict(thresholds=THRESHOLDS, part=telling, body=body, background=background)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of each method (default 0 1 2)')
    parser.add_argument('--methods', nargs='+', default=['cam', 'puzzle-cam', 'consistency-cam'], help='methods (default cam puzzle-cam consistency-cam)')
    parser.add_argument('--runs', type=Path, default=Path('runs/scenes'), help='folder for the runs (default runs/scenes)')
    parser.add_argument('--result', type=Path, default=Path('results/scenes.json'), help='file for the figures (default results/scenes.json)')
    parser.add_argument('--pictures', type=int, default=1600, help='scenes for the training on true masks (default 1600)')
    parser.add_argument('--epochs', type=int, default=6, help='passes over them (default 6)')
    args = parser.parse_args()
    r = recipe('quick', **SCHEDULE)
    found = compare(r, args.runs, args.methods, args.seeds, command='python -m benchmarks.scenes ' + ' '.join(sys.argv[1:]))
    for row in found['rows']: row['recall'] = recalls(Run(args.runs/f"{row['method']}-{row['seed']}", progress=False))
    found['supervised'] = supervised(r, args.pictures, args.epochs)
    write_json(args.result, found)
    print(table(found))
    at = THRESHOLDS.index(.2)
    for row in found['rows']: print(row['title'], row['seed'], {k: row['recall'][k][at] for k in ('part', 'body', 'background')})
    print('true masks:', found['supervised'])


if __name__ == '__main__': main()
