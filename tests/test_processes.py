"""Trainings that are killed, and trainings in two processes: what no notebook should hold."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from consistency_cam.files.checkpoint import load_state, read_metrics
from consistency_cam.datasets.scenes import Scenes

SMALL = ('--pictures 64 --epochs 4 --size 64 --crop 64 --long-side 56 80 --tiles 2 4 --val= --batch-size 16 --quiet --backbone resnet10t '
         '--pretrained random --method consistency-cam').split()
WORKER = [sys.executable, '-m', 'consistency_cam']


LATER = ('--backbone tf_efficientnet_lite0 --pretrained imagenet --method cam --batch-norm frozen --pretrain one-label --pretrain-crop 64 --pretrain-long-side 56 80 --pretrain-epochs 1 --pretrain-k-teacher 2 --pretrain-k-student 1 '
         '--lr .01 --affinity-batch-size 4 --affinity-crop 64 --affinity-long-side 56 80 --affinity-epochs 1 --segment-crop 64 --segment-long-side 56 80 --segment-epochs 2 --segment-frozen-stages 0').split()
TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'consistency_cam']


def train(folder, *options, check=True, launcher=WORKER, command='train'):
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    process = subprocess.Popen([*launcher, command, str(folder), *SMALL, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return process


def wait_for_step(folder, step, process):
    "Until the log has this step, and a checkpoint lies beside it"
    log = folder/'classify'/'metrics.jsonl'
    for _ in range(3000):
        if (log.parent/'checkpoint.safetensors').exists() and any(r['step'] >= step for r in read_metrics(log)): return
        assert process.poll() is None, process.stdout.read()
        time.sleep(.05)
    raise AssertionError(f'no step {step} after 150 seconds')


@pytest.mark.slow
def test_killed_training_ends_in_the_same_weights(tmp_path):
    "kill -9 in the middle of an epoch, the same command again: bit-identical weights and losses"
    train(tmp_path/'whole', '--save-every', '3', '--log-every', '1')
    process = train(tmp_path/'killed', '--save-every', '3', '--log-every', '1', check=False)
    wait_for_step(tmp_path/'killed', 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    train(tmp_path/'killed', '--save-every', '3', '--log-every', '1')
    whole, killed = (load_state(tmp_path/n/'classify'/'weights.safetensors')['net'] for n in ('whole', 'killed'))
    assert all(torch.equal(whole[k], killed[k]) for k in whole)
    losses = lambda name: [{k: v for k, v in r.items() if k != 'seconds'} for r in read_metrics(tmp_path/name/'classify'/'metrics.jsonl')]
    assert losses('whole') == losses('killed')


@pytest.mark.slow
def test_second_process_in_a_run_is_refused(tmp_path):
    process = train(tmp_path/'run', '--save-every', '3', check=False)
    try:
        wait_for_step(tmp_path/'run', 0, process)
        second = subprocess.run([*WORKER, 'train', str(tmp_path/'run'), *SMALL, '--save-every', '3'], env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=120)
        assert second.returncode == 1 and f'process {process.pid} is working here' in second.stderr, second.stderr
    finally: process.kill(); process.wait()


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    "The same global batch, shared by two processes over gloo: the same losses to float error"
    train(tmp_path/'one', '--batch-norm', 'frozen', '--log-every', '1')
    train(tmp_path/'two', '--batch-norm', 'frozen', '--log-every', '1', launcher=TWO)
    one, two = (read_metrics(tmp_path/n/'classify'/'metrics.jsonl') for n in ('one', 'two'))
    assert len(one) == len(two) == 16
    for a, b in zip(one, two):
        for name in a.keys() - {'seconds', 'step', 'lr'}: assert abs(a[name] - b[name]) < 1e-3 * max(1, abs(a[name])), (a['step'], name, a[name], b[name])


def products(run):
    "Everything a run has made, as bytes, but for logs and what holds times"
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob('*')) if p.suffix in ('.safetensors', '.png') or p.name == 'manifest.json' or p.match('evaluate/*/stage.json')}


@pytest.mark.slow
def test_run_killed_in_every_stage_ends_in_the_same_products(tmp_path):
    "kill -9 as soon as a stage has something on the disk, the same command again, stage after stage: every file is as without"
    options = (*LATER, '--save-every', '1', '--log-every', '1')
    train(tmp_path/'whole', *options, command='run')
    for stage in 'pretrain', 'classify', 'cams', 'affinity/labels', 'affinity', 'walk', 'pseudo', 'segment', 'masks':
        process = train(tmp_path/'killed', *options, command='run', check=False)
        begun = lambda: any(p.suffix in ('.safetensors', '.png') for p in (tmp_path/'killed'/stage).glob('**/*' if stage in ('cams', 'walk', 'pseudo', 'masks') else '*'))
        while not begun() and process.poll() is None: time.sleep(.005)
        assert begun(), process.stdout.read()
        process.kill(); process.wait()
    train(tmp_path/'killed', *options, command='run')
    without_sweeps = lambda found: {name: content for name, content in found.items() if not name.startswith('sweeps/')}  # counted in passing, where the inference was not cut
    whole, killed = (without_sweeps(products(tmp_path/name)) for name in ('whole', 'killed'))
    assert whole.keys() == killed.keys() and len(whole) > 4 * 64
    assert [name for name in whole if whole[name] != killed[name]] == []


@pytest.mark.slow
def test_two_processes_go_through_all_stages(tmp_path):
    "What one process alone has to do, the other waits for; both go on from it"
    train(tmp_path/'run', *LATER, command='run', launcher=TWO)
    from consistency_cam.experiments.pipeline import Run
    states = dict(Run(tmp_path/'run').status())
    assert all(state.startswith(('done', 'mIoU')) for state in states.values()), states
    assert "segmenter's masks, train" in states


def losses_of(folder): return [{k: v for k, v in r.items() if k not in ('seconds', 'step', 'lr')} for r in read_metrics(folder/'classify'/'metrics.jsonl')]


def assert_near(some, others, relative):
    assert len(some) == len(others) > 0
    for step, (a, b) in enumerate(zip(some, others)):
        assert a.keys() == b.keys()
        for name in a: assert abs(a[name] - b[name]) < relative * max(1, abs(b[name])), (step, name, a[name], b[name])


@pytest.mark.slow
def test_synchronised_batch_norm_gives_two_processes_the_losses_of_one(tmp_path):
    "With batch norm in training, where without it they differ"
    common = '--epochs', '1', '--log-every', '1'
    train(tmp_path/'one', '--batch-norm', 'trained', *common)
    for how in 'synchronised', 'trained': train(tmp_path/how, '--batch-norm', how, *common, launcher=TWO)
    one = losses_of(tmp_path/'one')
    assert_near(losses_of(tmp_path/'synchronised'), one, 2e-3)
    with pytest.raises(AssertionError): assert_near(losses_of(tmp_path/'trained'), one, 2e-3)


@pytest.mark.slow
def test_pieces_and_single_views_in_two_processes_give_the_losses_of_one(tmp_path):
    "Gradients that are taken in parts and exchanged once are those of the whole batch"
    common = '--batch-norm', 'frozen', '--epochs', '2', '--log-every', '1'
    train(tmp_path/'one', *common)
    for how in ['--accumulate', '4'], ['--frugal'], ['--frugal', '--accumulate', '2']:
        folder = tmp_path/''.join(how)
        train(folder, *how, *common, launcher=TWO)
        assert_near(losses_of(folder), losses_of(tmp_path/'one'), 1e-3)


@pytest.mark.slow
def test_a_bad_picture_in_one_share_ends_both_processes(tmp_path):
    "Each looks at its own half of the pictures; the second half's cut one is named, and nothing is trained"
    scenes, pictures = Scenes(16, size=64), tmp_path/'pictures'
    pictures.mkdir()
    for i, id in enumerate(scenes.ids): Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(pictures/f'{id}.png')
    bad = pictures/f'{scenes.ids[1]}.png'
    bad.write_bytes(bad.read_bytes()[:-200])
    (tmp_path/'labels.csv').write_text('id,labels\n' + ''.join(f'{id},{scenes.classes[scenes.label_ids(i)[0] - 1]}\n' for i, id in enumerate(scenes.ids)))
    process = train(tmp_path/'run', '--data', 'folder', '--root', str(pictures), '--labels', str(tmp_path/'labels.csv'), '--train', 'all', '--method', 'cam', check=False, launcher=TWO)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and bad.name in said and not (tmp_path/'run'/'classify').exists(), said


@pytest.mark.slow
def test_two_processes_share_the_inference(tmp_path):
    "From the same weights, two processes store the CAMs and masks that one stores, each its share, and count what one counts"
    options = *LATER, '--affinity', 'none', '--no-pseudo-crf', '--no-segment-crf'
    train(tmp_path/'one', *options, command='run')
    shutil.copytree(tmp_path/'one', tmp_path/'two')
    for part in 'cams', 'sweeps', 'masks', 'evaluate': shutil.rmtree(tmp_path/'two'/part)
    train(tmp_path/'two', *options, command='run', launcher=TWO)
    one, two = products(tmp_path/'one'), products(tmp_path/'two')
    assert one.keys() == two.keys() and {'cams', 'sweeps', 'masks', 'evaluate'} <= {name.split('/')[0] for name in one}
    assert [name for name in one if one[name] != two[name]] == []
    script = tmp_path/'shares.py'
    script.write_text('from consistency_cam.experiments.pipeline import Run\nimport sys\nprint(Run(sys.argv[1]).share(range(5)), flush=True)\n')
    said = subprocess.run([*TWO[:-2], str(script), str(tmp_path/'one')], env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=300).stdout
    assert sorted(re.findall(r'\[.*?\]', said)) == ['[0, 2, 4]', '[1, 3]']
