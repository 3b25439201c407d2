"""Trainings that are killed, and trainings in two processes: what no notebook should hold."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from consistency_cam.checkpoint import load_state, read_metrics

SMALL = ('--pictures 64 --epochs 4 --size 64 --crop 64 --long-side 56 80 --tiles 2 4 --val= --batch-size 16 --quiet --backbone resnet10t '
         '--pretrained random --method consistency-cam').split()
WORKER = [sys.executable, '-m', 'consistency_cam']


def train(folder, *options, check=True, launcher=WORKER):
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    process = subprocess.Popen([*launcher, 'train', str(folder), *SMALL, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'consistency_cam']
    train(tmp_path/'one', '--batch-norm', 'frozen', '--log-every', '1')
    train(tmp_path/'two', '--batch-norm', 'frozen', '--log-every', '1', launcher=launcher)
    one, two = (read_metrics(tmp_path/n/'classify'/'metrics.jsonl') for n in ('one', 'two'))
    assert len(one) == len(two) == 16
    for a, b in zip(one, two):
        for name in a.keys() - {'seconds', 'step', 'lr'}: assert abs(a[name] - b[name]) < 1e-3 * max(1, abs(a[name])), (a['step'], name, a[name], b[name])
