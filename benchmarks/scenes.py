"""Do the scenes contain what they are made for? Three questions, answered by training.

    python -m benchmarks.scenes [--seeds 0 1 2] [--runs runs/scenes] [--result results/scenes.json]

1. Plain CAM finds the telling part and misses the body: its recall on the rest of the body, beside the part's.
2. The masks can be learned: mIoU of the same backbone trained on the true masks, on held-out scenes.
3. The methods differ by more than the spread over seeds: CAM mIoU of each.
"""
import argparse
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F
from consistency_cam.camnet import CAMNet
from consistency_cam.checkpoint import write_json
from consistency_cam.metrics import ConfusionMatrix, cam_mask
from consistency_cam.pipeline import Run, compare, environment, table
from consistency_cam.recipes import recipe
from consistency_cam.scenes import Scenes
from consistency_cam.training import Settings, fit
from consistency_cam.transforms import Augment, Augmented

BACKGROUND = 1  # one output more than the classes: id 0


class Supervised(nn.Module):
    "The CAM network with an output for the background, trained on true masks"
    def __init__(self, net): super().__init__(); self.net = net
    def logits(self, x): return F.interpolate(self.net.cams(x), x.shape[-2:], mode='bilinear', align_corners=False)
    def forward(self, batch, step): return dict(pixels=F.cross_entropy(self.logits(batch['image']), batch['mask'].long(), ignore_index=255))


def supervised(r, pictures, epochs, stride, folder):
    "mIoU on held-out scenes of the recipe's backbone trained on true masks"
    train, val = Scenes(pictures, seed=1, split='train', size=r.size), Scenes(160, seed=0, split='val', size=r.size)
    net = CAMNet(r.backbone, len(train.classes) + BACKGROUND, output_stride=stride, bias=0.)
    task = Supervised(net)
    augment = Augment(r.crop, r.long_side, mean=net.mean.flatten().tolist(), std=net.std.flatten().tolist(), masks=True)
    fit(task, Augmented(train, augment), folder, Settings(epochs=epochs, batch_size=16, lr=.02, momentum=.9), 'true masks')
    matrix = ConfusionMatrix(len(train.classes) + BACKGROUND)
    with torch.no_grad():
        for i in range(len(val)): matrix.update(task.eval().logits(net.normalize(val.image(i)[None]))[0].argmax(0), val.mask(i))
    return dict(miou=round(100 * matrix.miou(), 2), iou={k: round(100 * v, 2) for k, v in matrix.per_class(val.classes).items()}, pictures=pictures, epochs=epochs, output_stride=stride)


def recalls(run):
    "Recall of the right class on telling parts and on the rest of the bodies, at the threshold best for the training mIoU"
    samples, store, threshold = run.samples(run.recipe.train), run.cams(run.recipe.train), run.threshold()
    hits, pixels = torch.zeros(3), torch.zeros(3)
    for i, id in enumerate(samples.ids):
        part, mask = samples.part(i).long(), samples.mask(i).long()
        right = (cam_mask(store.get(id), threshold, mask.shape) == mask).float()
        hits += torch.stack([right[part == k].sum() for k in range(3)]); pixels += torch.stack([(part == k).sum() for k in range(3)])
    background, body, telling = (100 * hits / pixels).tolist()
    return dict(part=round(telling, 1), body=round(body, 1), background=round(background, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of each method (default 0 1 2)')
    parser.add_argument('--methods', nargs='+', default=['cam', 'puzzle-cam', 'consistency-cam'], help='methods (default cam puzzle-cam consistency-cam)')
    parser.add_argument('--runs', type=Path, default=Path('runs/scenes'), help='folder for the runs (default runs/scenes)')
    parser.add_argument('--result', type=Path, default=Path('results/scenes.json'), help='file for the figures (default results/scenes.json)')
    parser.add_argument('--pictures', type=int, default=2000, help='scenes for the training on true masks (default 2000)')
    parser.add_argument('--epochs', type=int, default=6, help='passes over them (default 6)')
    parser.add_argument('--stride', type=int, default=8, help='output stride there (default 8)')
    args = parser.parse_args()
    r = recipe('quick')
    found = compare(r, args.runs, args.methods, args.seeds)
    for row in found['rows']: row['recall'] = recalls(Run(args.runs/f"{row['method']}-{row['seed']}", progress=False))
    found['command'] = 'python -m benchmarks.scenes'
    found['supervised'] = supervised(r, args.pictures, args.epochs, args.stride, args.runs/'supervised')
    write_json(args.result, found)
    print(table(found))
    for row in found['rows']: print(row['title'], row['seed'], row['recall'])
    print('true masks:', found['supervised'])


if __name__ == '__main__': main()
