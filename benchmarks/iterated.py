"""Does iterated learning see what nobody named? Against single-label training, at equal steps and equal precision.

    python -m benchmarks.iterated [--seeds 0 1 2] [--rhos .1 .4 .5 .75] [--runs runs/iterated] [--result results/iterated.json]
    python -m benchmarks.iterated --data voc --root VOC2012 --rhos --runs runs/iterated_voc --result results/iterated_voc.json

Every picture keeps one of its labels, drawn at random; the scenes are those with several things in them. Networks are
trained on these (`single`), on these and their own labels in turns (`iterated`), and, as the upper bound, on all
labels (`all`). On held-out pictures, which are labelled in full, each network takes the lowest threshold at which a
share P of its answers is right; the figure is the share of the unnamed objects above it. A seed changes names,
weights and order, for scenes also the pictures. Wanted: the mean difference of `iterated` and `single` above twice
its standard error.

Each training leaves its backbone in RUNS/ARM-SEED/backbone.safetensors. What was cut off is taken up where it was.
"""
import argparse
import sys
from datetime import date
from functools import cache
from pathlib import Path
import torch
from tqdm import tqdm
from consistency_cam.camnet import CAMNet
from consistency_cam.files.checkpoint import StageFolder, append_metrics, fingerprint, load_state, load_weights
from consistency_cam.files.checkpoint import read_metrics, write_json
from consistency_cam.datasets.imagenet import OneLabel
from consistency_cam.iterated import IteratedLearning, class_logits, first_bias, recall_at_precision, save_backbone
from consistency_cam.experiments.compare import environment, mean_spread
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.tools.training import Settings, fit, total_steps
from consistency_cam.tools.transforms import Augment, Augmented
from consistency_cam.datasets.voc import VOC

PRECISIONS = (.7, .8, .9)


@cache
def scenes(pictures, seed, split, size):
    "The first so many scenes with several things in them, one of them named"
    found = Scenes(4 * pictures, seed, split, size)
    several = (found.labels.sum(1) > 1).nonzero().flatten().tolist()
    return OneLabel(found.subset(several[:pictures]), seed=seed)


def samples(args, seed):
    "Training and held-out pictures, one label each"
    if args.data == 'scenes':
        return scenes(args.pictures, seed, 'train', args.recipe.data.size), scenes(args.held_out, 0,
            'val', args.recipe.data.size)
    return OneLabel(VOC(args.root, 'half_train', masks=False),
        seed=seed), OneLabel(VOC(args.root, 'half_val', masks=False))


def measure(net, single, side):
    "Recall of unnamed and named objects at each precision, percent, and answers per picture at a threshold of one half"
    logits = class_logits(net.eval(), single, side)
    net.train()
    at = lambda wanted: {str(p): round(100 * recall_at_precision(logits, single.full, wanted, p), 2)
        for p in PRECISIONS}
    return dict(unnamed=at(single.unnamed), named=at(single.labels),
        labels=round((logits > 0).sum(1).float().mean().item(), 3))


def train_to(step, task, data, folder, settings, title):
    "Train to a step from the last checkpoint, which may be there or past it already"
    saved = folder/'checkpoint.safetensors'
    state = load_state(saved) if saved.exists() else dict(step=0)
    if state['step'] < step: fit(task, data, folder, settings, title, stop_at=step)
    else: load_weights(task, state['task'], str(saved))


def label_counts(log, since, until):
    "Labels a picture and share of empty sets over the taught steps of a stretch, as means"
    steps = [r for r in log if since <= r['step'] < until and 'taught' in r]
    return {k: round(sum(r[k] for r in steps) / len(steps), 4) for k in ('labels', 'empty')} if steps else {}


def pretrain(args, arm, seed):
    "Train one arm with one seed, or go on with it: what it finds on the way and at the end, and what its teacher says"
    r, (train, held_out) = args.recipe, samples(args, seed)
    rho = float(arm.split()[-1]) if 'rho' in arm else args.rho
    turns = dict(rho=rho, k_teacher=args.turn, k_student=args.turn if 'iterated' in arm else 0,
        with_given=args.with_given and 'iterated' in arm)
    settings = Settings(args.epochs, args.batch_size, args.lr or r.classify.lr / len(train.classes),
        r.classify.momentum, r.classify.weight_decay, save_every=50, log_every=1, seed=seed)
    config = dict(turns, arm=arm, pool=args.pool, epochs=args.epochs, batch_size=args.batch_size, lr=settings.lr,
        marks=args.marks, crop=r.classify.crop)
    stage = StageFolder(args.runs/f'{arm}-{seed}'.replace(', ', '-').replace(' ', '-'), config,
        fingerprint(train.fingerprint(), held_out.fingerprint()))
    if stage.done: return stage.result
    with stage.work():
        torch.manual_seed(seed)
        bias = first_bias(len(train.classes), args.pool, (r.classify.crop // r.output_stride) ** 2)
        net = CAMNet(r.backbone, len(train.classes), args.pool, r.output_stride,
            bias=bias).freeze(stages=r.frozen_stages)
        augment = Augment(r.classify.crop, r.classify.long_side, mean=net.mean.flatten().tolist(),
            std=net.std.flatten().tolist())
        task, data, steps = IteratedLearning(net, **turns), Augmented(train.parent if arm == 'all' else train, augment,
            seed), total_steps(len(train), settings)
        curve, since = stage.folder/'curve.jsonl', 0
        for step in [steps * (m + 1) // args.marks for m in range(args.marks)]:
            train_to(step, task, data, stage.folder, settings, f'{arm}, seed {seed}')
            if step not in [record['step'] for record in read_metrics(curve)]:
                append_metrics(curve, dict(step=step, **measure(net, held_out, r.classify.crop),
                    said=label_counts(read_metrics(stage.folder/'metrics.jsonl'), since, step)))
            since = step
        save_backbone(net, stage.folder/'backbone.safetensors')
        counts = dict(pictures=len(train), held_out=len(held_out), unnamed_objects=int(held_out.unnamed.sum()),
            taught=task.taught.item(), left_out=task.left_out.item())
        return stage.finish(dict(arm=arm, seed=seed, rho=rho, **counts, **read_metrics(curve)[-1],
            training=measure(net, train, r.classify.crop), curve=read_metrics(curve)))


def difference(rows, precision):
    "Recall of the unnamed, iterated less single, paired by seed: mean, its standard error, and their ratio"
    recall = {(row['arm'], row['seed']): row['unnamed'][precision] for row in rows}
    d = torch.tensor([recall['iterated', s] - recall['single', s]
        for a, s in recall if a == 'iterated' and ('single', s) in recall])
    error = (d.std() / len(d) ** .5).item() if len(d) > 1 else float('nan')
    return dict(mean=round(d.mean().item(), 2), error=round(error, 2),
        ratio=round(d.mean().item() / error, 2) if error > 0 else None)


def table(found):
    "The arms as a Markdown table, in percent: mean over the seeds, and spread"
    percent = [f'{100 * p:.0f} %' for p in PRECISIONS]
    lines = ['| training | ' + ' | '.join(f'unnamed found at precision {p}' for p in percent)
        + ' | of the training pictures, at 80 % | answers a picture | left out of what was taught |',
        '|---' * (4 + len(percent)) + '|']
    for arm in dict.fromkeys(row['arm'] for row in found['rows']):
        rows = [row for row in found['rows'] if row['arm'] == arm]
        taught, left_out = (sum(row[k] for row in rows) for k in ('taught', 'left_out'))
        cells = [arm, *(mean_spread([row['unnamed'][str(p)] for row in rows]) for p in PRECISIONS),
            mean_spread([row['training']['unnamed']['0.8'] for row in rows]),
            mean_spread([row['labels'] for row in rows]), f'{100 * left_out / taught:.1f} %' if taught else '–']
        lines.append(f"| {' | '.join(cells)} |")
    gains = [f"{d['mean']} ± {d['error']} at {p}" for p, d in zip(percent, found['difference'].values())]
    return '\n'.join(lines) + (
        f"\n\nIterated less single, paired by seed, with its standard error: {', '.join(gains)}." if gains else '')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', choices=['scenes', 'voc'], default='scenes',
        help='generated scenes, or the half of VOC 2012 in ROOT (default scenes)')
    parser.add_argument('--root', help='for voc: the folder VOC2012')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='(default 0 1 2)')
    parser.add_argument('--rhos', type=float, nargs='*', default=[.1, .4, .5, .75],
        help='further thresholds, with the first seed only (default .1 .4 .5 .75)')
    parser.add_argument('--rho', type=float, default=.25, help='threshold of the arm iterated (default .25)')
    parser.add_argument('--arms', nargs='+', default=['single', 'iterated', 'all'],
        help='trainings to do (default single iterated all)')
    parser.add_argument('--with-given', action='store_true',
        help="iterated: add the given label to the teacher's (default: the teacher's alone)")
    parser.add_argument('--turn', type=int, default=10,
        help='steps of a turn, on the given labels and on the teacher\'s (default 10)')
    parser.add_argument('--pool', default='gap', help='pooling of teacher and student (default gap)')
    parser.add_argument('--pictures', type=int, default=400, help='scenes to train on (default 400)')
    parser.add_argument('--held-out', type=int, default=400, help='scenes to measure on (default 400)')
    parser.add_argument('--epochs', type=int, help='passes over the pictures (default 24 for scenes, 8 for voc)')
    parser.add_argument('--batch-size', type=int, default=16, help='(default 16)')
    parser.add_argument('--lr', type=float,
        help="learning rate of the backbone (default: the recipe's over the number of classes, "
            "as the loss is a sum over them)")
    parser.add_argument('--marks', type=int, default=6, help='times at which a training is measured (default 6)')
    parser.add_argument('--runs', type=Path, default=Path('runs/iterated'),
        help='folder for the trainings (default runs/iterated)')
    parser.add_argument('--result', type=Path, default=Path('results/iterated.json'),
        help='file for the figures (default results/iterated.json)')
    args = parser.parse_args()
    if args.data == 'voc' and not args.root: parser.error('--data voc needs --root VOC2012')
    args.recipe = recipe('voc-quick', root=args.root, crop=160,
        long_side=(128, 192)) if args.data == 'voc' else recipe('quick', size=128, crop=128, long_side=(112, 144))
    args.epochs = args.epochs or (8 if args.data == 'voc' else 24)
    jobs = [(arm, seed) for seed in args.seeds for arm in args.arms] + [(f'iterated, rho {rho}', args.seeds[0])
        for rho in args.rhos]
    settings = {k: v for k, v in vars(args).items() if k not in ('recipe', 'root', 'runs', 'result')}
    found = dict(command=' '.join(['python -m benchmarks.iterated',
        *('VOC2012' if a == args.root else a for a in sys.argv[1:])]), date=str(date.today()),
        settings=settings, **environment(), rows=[])
    for n, (arm, seed) in enumerate(jobs, 1):
        tqdm.write(f'[{n}/{len(jobs)}] {arm}, seed {seed}')
        found['rows'].append(pretrain(args, arm, seed))
    found['difference'] = {str(p): difference(found['rows'], str(p)) for p in PRECISIONS} if {'single',
        'iterated'} <= {*args.arms} else {}
    write_json(args.result, dict(found, table=table(found)))
    print(table(found))


if __name__ == '__main__': main()
