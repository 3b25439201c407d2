"""What a killed process, a full disk, a number that is none or a second process must not do: lose, damage or mix anything."""
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from consistency_cam.camnet import CAMNet
from consistency_cam.affinity import AffinityNet, AffinityTask, BoundaryNet
from consistency_cam.cams import CamStore
from consistency_cam.files.checkpoint import CheckpointError, StageFolder, append_metrics, load_state, hold_lock, read_json, read_metrics, save_state
from consistency_cam.consistency import ConsistencyTask
from consistency_cam.deeplab import DeepLabV3Plus
from consistency_cam.datasets.imagenet import OneLabel
from consistency_cam.iterated import IteratedLearning
from consistency_cam.experiments.pipeline import Run
from consistency_cam.pseudo import walk_cams
from consistency_cam.experiments.recipes import change_recipe, recipe
from consistency_cam.datasets.samples import InputError, WriteError, read_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.segment import SegmentationTask
from consistency_cam.tools.training import Settings, fit, total_steps
from consistency_cam.tools.transforms import Augment, Augmented
from consistency_cam.views import HFlip, Tiles

# New processes are forked from one that has the package loaded and nothing else: as good as new, in a tenth of a second.
PROCESSES = get_context('forkserver')
PROCESSES.set_forkserver_preload(['consistency_cam.cli', 'consistency_cam.experiments.pipeline'])
TASKS = 'cam', 'iterated', 'boundary', 'features', 'deeplab'
SHORT = Settings(epochs=4, batch_size=6, lr=.01, momentum=.9, save_every=2, log_every=1)  # of 20 pictures: 3 steps an epoch, 2 pictures left out


def start(function, *args, **kwargs):
    "A process of its own that does this"
    process = PROCESSES.Process(target=_alone, args=(function, args, kwargs))
    process.start()
    return process


def _alone(function, args, kwargs):
    torch.set_num_threads(1); torch.manual_seed(os.getpid())
    warnings.simplefilter('ignore')
    function(*args, **kwargs)


def status(process):
    "How it ended: 0, or minus the signal that killed it"
    process.join(300)
    return process.exitcode


class Tiny(torch.nn.Module):
    "The smallest net that draws random numbers, counts, and has momentum"
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.BatchNorm2d(8), torch.nn.Dropout(.2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 8))
    def forward(self, batch, step): return dict(cls=torch.nn.functional.binary_cross_entropy_with_logits(self.net(batch['image']), batch['labels']))


def task_of(name, frozen=False):
    "One of the trainings in small, and its pictures"
    torch.manual_seed(1)
    scenes, masks = Scenes(20, seed=0, size=64), name in ('boundary', 'features', 'deeplab')
    camnet = lambda classes=8: CAMNet('test_resnet', classes, pretrained=False).freeze(batch_norm=frozen)
    if name == 'tiny': task = Tiny()
    elif name == 'cam': task = ConsistencyTask(camnet(), [Tiles(2), HFlip()], total_steps(20, SHORT))
    elif name == 'iterated': task, scenes = IteratedLearning(camnet(), .505, 2, 3), OneLabel(scenes)
    elif name == 'deeplab': task = SegmentationTask(DeepLabV3Plus('test_resnet', 9, pretrained=False, norm='group' if frozen else 'batch').freeze(batch_norm=frozen))
    else: task = AffinityTask(dict(boundary=BoundaryNet, features=AffinityNet)[name](camnet(1)), 4)
    for m in task.modules():
        if frozen and isinstance(m, torch.nn.Dropout): m.p = 0.  # each process drops what it likes
    return task, Augmented(scenes, Augment(32, (24, 48), masks=masks))


def train(name, folder, settings=SHORT, kill_at=None, begun=None, order='order', frozen=False, **options):
    "Train, and note the pictures of each step; with `kill_at`, this process kills itself as that step begins; `begun` counts the steps"
    task, data = task_of(name, frozen)
    forward = task.forward
    def watched(batch, step):
        if step == kill_at: os.kill(os.getpid(), signal.SIGKILL)
        if begun is not None: begun.value += 1
        if order: append_metrics(folder/f'{order}.jsonl', dict(step=step, ids=batch['id']))
        return forward(batch, step)
    task.forward = watched
    with StageFolder(folder, dict(task=name)).work():
        if begun is not None: begun.value = 1
        fit(task, data, folder, settings, progress=False, **options)


def flat(state, prefix=''):
    return {k: v for name, value in state.items() for k, v in (flat(value, f'{prefix}{name}/') if isinstance(value, dict) else {f'{prefix}{name}': value}).items()}


def assert_same_state(a, b):
    a, b = (flat(load_state(f/'checkpoint.safetensors')) for f in (a, b))
    assert a.keys() == b.keys()
    assert [k for k in a if not (torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k])] == []


def orders(path): return [json.loads(line) for line in path.read_text().splitlines()]


def log(folder): return [{k: v for k, v in r.items() if k != 'seconds'} for r in read_metrics(folder/'metrics.jsonl')]


@pytest.fixture(scope='module')
def uncut(tmp_path_factory):
    "Folder of a whole training; each is done once"
    root, done = tmp_path_factory.mktemp('uncut'), set()
    def folder(name):
        if name not in done: assert status(start(train, name, root/name)) == 0; done.add(name)
        return root/name
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
@pytest.mark.parametrize('cut, workers', [(6, 0), (5, 1)], ids=['at the end of an epoch', 'in the middle of one'])
def test_killed_training_goes_on_exactly(name, cut, workers, uncut, tmp_path):
    "Weights, optimiser, teacher, random numbers, log and order of pictures are those of the uncut training, however they are loaded"
    whole = uncut(name)
    assert status(start(train, name, tmp_path, kill_at=cut)) == -signal.SIGKILL
    assert load_state(tmp_path/'checkpoint.safetensors')['step'] == cut // 2 * 2
    assert status(start(train, name, tmp_path, replace(SHORT, workers=workers))) == 0
    assert_same_state(whole, tmp_path)
    state = flat(load_state(whole/'checkpoint.safetensors'))
    assert state['step'] == 12 and any(k.startswith('optimizer/') for k in state) and any('teacher' in k for k in state) == (name == 'iterated')
    assert len(log(whole)) == 12 and log(whole) == log(tmp_path)
    order = {r['step']: r['ids'] for r in orders(whole/'order.jsonl')}
    assert len({*map(tuple, order.values())}) == 12
    assert [r for r in orders(tmp_path/'order.jsonl') if r['ids'] != order[r['step']]] == []


OFTEN = replace(SHORT, epochs=5000, save_every=1)


@pytest.mark.slow
def test_training_survives_any_kill(tmp_path, figure):
    "kill -9 at random moments of a training that saves at every step: the checkpoint is whole, never older than before, and the end is as if nothing had been"
    kills, chance, survived, left, step = 60, random.Random(0), 0, 0, 0
    folder = tmp_path/'killed'
    for _ in range(kills):
        begun, old = PROCESSES.RawValue('i'), set(folder.glob('.*.part'))
        process = start(train, 'tiny', folder, OFTEN, begun=begun, order=None)
        steps = chance.randrange(6)
        while begun.value <= steps and process.is_alive(): time.sleep(.001)
        assert not [p for p in old if p.exists()]
        time.sleep(chance.uniform(0, .03))
        process.kill()
        assert status(process) == -signal.SIGKILL
        left += len(list(folder.glob('.*.part')))
        before, saved = step, folder/'checkpoint.safetensors'
        step = load_state(saved)['step'] if saved.exists() else 0
        steps = [r['step'] for r in read_metrics(folder/'metrics.jsonl')]
        assert step >= before and len(steps) >= step and steps == [*range(len(steps))]
        survived += 1
    figure('kills of a training', f'{survived} of {kills} survived: {step} steps, {left} half-written files taken away')
    assert step > kills
    for end in folder, tmp_path/'whole': assert status(start(train, 'tiny', end, OFTEN, order=None, stop_at=step + 3)) == 0
    assert_same_state(folder, tmp_path/'whole')
    assert log(folder) == log(tmp_path/'whole')
    assert not list(folder.glob('.*.part'))


STAGES = recipe('quick', backbone='test_resnet', pretrained='random', batch_norm='trained', frozen_stages=0, lr=.05, pictures=13, val='', size=64, crop=64, long_side=(56, 80), tiles=(2, 4), epochs=3, batch_size=4, scales=(1., 2.), mirror=False, save_every=1, log_every=1,
    pretrain='one-label', pretrain_crop=64, pretrain_long_side=(56, 80), pretrain_epochs=2, pretrain_batch_size=4, pretrain_k_teacher=2, pretrain_k_student=2,
    affinity_crop=64, affinity_long_side=(56, 80), affinity_epochs=2, affinity_batch_size=4, pseudo_crf=False, segment_crf=False,
    segment_crop=64, segment_long_side=(56, 80), segment_epochs=2, segment_batch_size=4)


def run_all(folder, begun=None):
    if begun: begun.set()
    Run(folder, STAGES, progress=False).all_stages()


def products(folder):
    "Everything a run has made, as bytes, but for logs and what holds times"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.suffix in ('.safetensors', '.png') or p.name in ('manifest.json', 'recipe.json') or p.match('evaluate/*/stage.json')}


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')/'run'
    assert status(start(run_all, folder)) == 0
    return folder


def read_everything(folder):
    "Open every file that a run has, as its stages would"
    for p in folder.rglob('*'):
        if p.name.startswith('.') or p.is_dir(): continue
        if p.suffix == '.json': read_json(p)
        elif p.suffix == '.jsonl': read_metrics(p)
        elif p.suffix == '.png': read_mask(p)
        elif p.suffix == '.safetensors': load_state(p)
        else: raise AssertionError(f'{p}: what is this?')


@pytest.mark.slow
def test_run_survives_any_kill(whole_run, tmp_path, figure):
    "kill -9 at random moments of all stages: CAMs, pseudo-labels, manifests, masks and logs are whole, and in the end those of the uncut run"
    kills, chance, survived, folder, runs = 40, random.Random(1), 0, tmp_path/'run', 1
    while survived < kills:
        begun = PROCESSES.Event()
        process = start(run_all, folder, begun)
        assert begun.wait(120)
        process.join(chance.uniform(.2, 1.))
        process.kill()
        if status(process) == 0:
            assert products(folder) == products(whole_run)
            shutil.rmtree(folder); runs += 1
            continue
        assert process.exitcode == -signal.SIGKILL
        read_everything(folder)
        survived += 1
    figure('kills of whole runs', f'{survived} of {kills} survived, in {runs} runs')
    assert status(start(run_all, folder)) == 0
    whole, killed = products(whole_run), products(folder)
    assert whole.keys() == killed.keys() and len(whole) > 5 * 13
    assert [name for name in whole if whole[name] != killed[name]] == []
    assert not list(folder.rglob('.*.part'))


@pytest.mark.slow
def test_stage_done_again_gives_the_same(whole_run, tmp_path):
    "Each stage's folder removed and made again: the same bytes"
    folder = tmp_path/'run'; shutil.copytree(whole_run, folder)
    for stage in 'pretrain', 'classify', 'cams', 'affinity', 'walk', 'pseudo', 'segment', 'masks', 'evaluate': shutil.rmtree(folder/stage); assert status(start(run_all, folder)) == 0
    whole, again = products(whole_run), products(folder)
    assert whole.keys() == again.keys() and [name for name in whole if whole[name] != again[name]] == []


def noting(folder, into):
    "Do a run, and write down each file that is opened for writing in it"
    opened = set()
    sys.addaudithook(lambda event, args: event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR) and opened.add(os.fspath(args[0]) if not isinstance(args[0], int) else ''))
    run_all(folder)
    Path(into).write_text(json.dumps(sorted(f for f in map(str, opened) if f.startswith(str(folder)))))


@pytest.mark.slow
def test_every_file_of_a_run_is_written_whole(tmp_path):
    "Nothing is opened for writing under its own name, but for locks and logs of lines"
    assert status(start(noting, tmp_path/'run', tmp_path/'opened.json')) == 0
    names = [Path(f).name for f in json.loads((tmp_path/'opened.json').read_text())]
    assert len([n for n in names if n.endswith('.part')]) > 5 * 13
    assert {n for n in names if not n.endswith('.part')} == {'.lock', 'metrics.jsonl'}


def limited(size, says, function, *args):
    "Do it where no file can grow beyond `size` bytes, and say what it raises"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try: function(*args)
    except WriteError as e: says.send(str(e))


def test_full_disk_keeps_the_checkpoint(tmp_path):
    "The training stops with one line, the old checkpoint stays, and with room again the end is that of the uncut training"
    hears, says = PROCESSES.Pipe(False)
    for end, settings in ('whole', SHORT), ('full', replace(SHORT, save_every=3)): assert status(start(train, 'tiny', tmp_path/end, settings, order=None, **dict(kill_at=5) if end == 'full' else {})) in (0, -signal.SIGKILL)
    saved = tmp_path/'full'/'checkpoint.safetensors'; before = saved.read_bytes()
    assert status(start(limited, len(before) - 100, says, train, 'tiny', tmp_path/'full')) == 0
    assert hears.poll() and hears.recv() == f'{saved}: cannot be written (File too large); what is finished is kept, make room and run this again'
    assert saved.read_bytes() == before and not list(saved.parent.glob('.*.part'))
    assert status(start(train, 'tiny', tmp_path/'full', order=None)) == 0
    assert_same_state(tmp_path/'whole', tmp_path/'full')
    assert log(tmp_path/'whole') == log(tmp_path/'full')


def lines(path):
    for step in range(1000): append_metrics(path, dict(step=step, loss=.5))


def test_full_disk_leaves_a_log_that_reads(tmp_path):
    path, (hears, says) = tmp_path/'metrics.jsonl', PROCESSES.Pipe(False)
    assert status(start(limited, 1000, says, lines, path)) == 0
    assert hears.poll() and 'metrics.jsonl: cannot be written (File too large)' in hears.recv()
    assert path.stat().st_size == 1000 and not path.read_bytes().endswith(b'\n')
    kept = read_metrics(path)
    assert [r['step'] for r in kept] == [*range(len(kept))] and len(kept) > 20
    append_metrics(path, dict(step=len(kept)))
    assert read_metrics(path) == [*kept, dict(step=len(kept))]


def command(arguments, limit, output):
    "The command line, where no file can grow beyond `limit` bytes"
    from consistency_cam.cli import main
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os._exit(main(arguments))


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['classify', 'cams/train', 'pseudo/train', 'masks/train'])
def test_full_disk_is_one_line_in_every_stage(stage, whole_run, tmp_path):
    "and when there is room again, the run ends as it would have"
    folder = tmp_path/'run'; shutil.copytree(whole_run, folder)
    shutil.rmtree(folder/stage)
    assert status(start(command, ['run', str(folder), '--quiet'], 300, tmp_path/'error')) == 1
    said = (tmp_path/'error').read_text()
    assert said.count('\n') == 1 and said.startswith(f'consistency-cam: error: {folder}/') and 'cannot be written (File too large); what is finished is kept' in said, said
    read_everything(folder)
    assert status(start(run_all, folder)) == 0
    assert products(folder) == products(whole_run)


def hold(path, held):
    with hold_lock(path): held.set(); time.sleep(300)


@pytest.mark.slow
def test_second_process_is_refused_in_every_stage(whole_run, tmp_path):
    "with the number of the first; where that one is killed, nobody is in the way"
    folder, held = tmp_path/'run', PROCESSES.Event(); shutil.copytree(whole_run, folder)
    run, work = Run(folder, progress=False), dict(classify=Run.classify, affinity=Run.affinity, segment=Run.segment, **{f'{s}/train': lambda run, s=s: getattr(run, s)('train') for s in ('cams', 'walk', 'pseudo', 'masks')})
    for stage, do in work.items():
        held = PROCESSES.Event(); (folder/stage/'stage.json').unlink()
        first = start(hold, folder/stage/'.lock', held); assert held.wait(60)
        try:
            with pytest.raises(CheckpointError, match=f'{stage}: process {first.pid} is working here; wait for it or choose another run folder'): do(run)
        finally: first.kill(); first.join()
        do(run)
    assert products(folder) == products(whole_run)


@pytest.mark.slow
@pytest.mark.parametrize('sign', [0, -1], ids=['all zero', 'all negative'])
def test_maps_without_evidence_are_zeros_to_the_end(sign, whole_run, tmp_path):
    "From the network through store, walk and pseudo-labels: zeros, background, a warning and a line that says why there is nothing to learn; nowhere nan"
    folder = tmp_path/'run'; shutil.copytree(whole_run, folder, ignore=shutil.ignore_patterns('cams', 'affinity', 'walk', 'pseudo', 'segment', 'masks', 'evaluate'))
    state = load_state(folder/'classify'/'weights.safetensors'); state['net']['classifier.weight'] = sign * torch.ones_like(state['net']['classifier.weight'])
    blind = Run(folder, change_recipe(STAGES, affinity='none', segment='none'), progress=False)
    # A last map of both signs has evidence under any classifier of one sign: the network's own is made positive.
    features, net = CAMNet.features, None
    save_state(folder/'classify'/'weights.safetensors', state)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(CAMNet, 'features', lambda self, x: [f.abs() for f in features(self, x)])
        store = blind.cams('train')
    for id in store.ids():
        found = store.get(id)
        assert found and all(torch.equal(v, torch.zeros_like(v)) for v in found.values())
    walked = walk_cams(blind.samples('train'), store, CamStore(tmp_path/'walked', store.classes), lambda image: torch.rand(16, 16), blind.pseudo_setting(), workers=0, progress=False)
    assert all(not v.any() and v.isfinite().all() for id in walked.ids() for v in walked.get(id).values())
    with pytest.warns(UserWarning, match='13 of 13 pictures have class maps without any score'): labels = blind.pseudo('train')
    assert all(not read_mask(labels/f'{id}.png').any() for id in store.ids())
    assert read_json(labels/'manifest.json')['result'] == dict(pictures=13, all_zero=13, background=1., unsure=0.)
    for stage in 'cams', 'pseudo': assert 0 < blind.evaluate(stage)['train']['miou'] < 15
    with pytest.raises(InputError, match='the CAMs of all 13 training pictures are zero, there is nothing to learn from them'): Run(folder, STAGES, progress=False).affinity()


def together(rank, port, function, *args):
    "Do it as one of two processes"
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    function(rank, *args)
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()


def two(function, *args):
    "Both processes to their end"
    from torch.distributed import TCPStore
    port = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False).port
    processes = [start(together, rank, port, function, *args) for rank in (0, 1)]
    assert [status(p) for p in processes] == [0, 0]


def share(rank, name, folder):
    train(name, folder, order=f'order-{rank}', frozen=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_two_processes_train_as_one(name, tmp_path):
    "The same pictures in each step, the same losses and weights to float error, also where labelled pixels are unevenly shared; the same counts of pictures taught"
    assert status(start(train, name, tmp_path/'one', frozen=True)) == 0
    (tmp_path/'two').mkdir()
    two(share, name, tmp_path/'two')
    seen = [[r['ids'] for r in orders(tmp_path/f)] for f in ('one/order.jsonl', 'two/order-0.jsonl', 'two/order-1.jsonl')]
    for one, first, second in zip(*seen, strict=True): assert sorted(one) == sorted(first + second) and len({*one}) == 6
    one, shared = log(tmp_path/'one'), log(tmp_path/'two')
    assert len(one) == len(shared) == 12
    for a, b in zip(one, shared):
        assert a.keys() == b.keys()
        for k in a: assert a[k] == pytest.approx(b[k], rel=2e-3, abs=2e-4), (a['step'], k)
    a, b = (flat(load_state(tmp_path/n/'checkpoint.safetensors')['task']) for n in ('one', 'two'))
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4, msg=k)
    if name == 'iterated': assert 0 < b['left_out'] < b['taught'] == 36


def infer_and_evaluate(rank, folder):
    "CAMs and their evaluation; each process writes down what it did"
    put, done = CamStore.put, []
    CamStore.put = lambda self, id, *args: (done.append(id), put(self, id, *args))
    run = Run(folder, progress=False)
    run.cams('train')
    run.evaluate('cams')
    (folder.parent/f'done-{rank}.json').write_text(json.dumps(done))


@pytest.mark.slow
def test_two_processes_count_each_picture_once(whole_run, tmp_path):
    "Thirteen pictures, two processes: each inferred once, and the figures of one process"
    folder = tmp_path/'run'; shutil.copytree(whole_run, folder, ignore=shutil.ignore_patterns('cams', 'evaluate'))
    two(infer_and_evaluate, folder)
    done = [id for rank in (0, 1) for id in read_json(tmp_path/f'done-{rank}.json')]
    assert sorted(done) == sorted(Run(folder).samples('train').ids)
    one = {k: v for k, v in products(whole_run).items() if k.startswith(('cams/', 'evaluate/cams'))}
    assert len(one) == 14 and one == {k: v for k, v in products(folder).items() if k in one}
