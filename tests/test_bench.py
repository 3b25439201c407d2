"""The benchmark suite measures every stage, and notices a way that is fast and wrong."""
import json

import pytest
import torch

from consistency_cam import bench as suite
from consistency_cam.cli import main

WRONG = dict( # stage -> what is put in place of our own way: almost the same
    pooling=('noisy_or', lambda cams: suite.gap(cams)),
    tiles=('merge', lambda tiles, n, merge=suite.merge: merge(tiles, n).flip(-1)),
    cams=('infer_batch', lambda *a, f=suite.infer_batch: f(*a, flip=False)),
    walk=('random_walk', lambda cams, edge, radius, beta, steps, f=suite.random_walk: f(cams, edge, radius, beta, steps // 2)),
    affinity=('pair_labels', lambda labels, radius, f=suite.pair_labels: f(labels.where(labels != 255, 0), radius)),
    crf=('crf_many', lambda jobs, f=suite.crf_many, **given: f([(i, (x, p.flip(-1))) for i, (x, p) in jobs], **given)),
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_stage_is_measured_and_its_results_agree(tmp_path, capsys):
    assert main(['bench', '--quick', '--rounds', '1', '--result', str(tmp_path/'bench.json')]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path/'bench.json').read_text())
    assert [r['stage'] for r in found['records']] == [*suite.BENCHMARKS] and {*found} >= {'command', 'date', 'versions', 'device'}
    for record in found['records']:
        about, (step,) = suite.BENCHMARKS[record['stage']], record['steps']
        assert set(step['difference']) == set(about.tolerance) and all(step['difference'][k] <= most for k, most in about.tolerance.items())
        assert all(seconds > 0 for seconds in step['seconds'].values()) and all(g['ratio'] > 0 for g in step['goals'])
        assert any(l.startswith(f"| {record['stage']} |") for l in lines)


@pytest.mark.parametrize('stage', WRONG)
def test_a_wrong_way_is_refused_before_it_is_timed(stage, monkeypatch):
    name, wrong = WRONG[stage]
    monkeypatch.setattr(suite, name, wrong)
    monkeypatch.setattr(suite, 'interleaved', lambda *a, **k: pytest.fail('it was timed'))
    with pytest.raises(suite.BenchError, match=f'{stage}, .* away from the result wanted'): suite.bench(stage, quick=True)


def test_a_wrong_training_step_and_a_wrong_sweep_are_refused(monkeypatch):
    monkeypatch.setattr(suite.ConsistencyTask, 'forward', lambda self, batch, step, f=suite.ConsistencyTask.forward: {k: v * (1.1 if k == 'flip' else 1) for k, v in f(self, batch, step).items()})
    with pytest.raises(suite.BenchError, match="step, .*'ours' is"): suite.bench('step', quick=True)
    monkeypatch.setattr(suite.ThresholdSweep, 'matrices', lambda self, f=suite.ThresholdSweep.matrices: f(self).roll(1, 0))
    with pytest.raises(suite.BenchError, match="sweep, .*'sweep' is"): suite.bench('sweep', quick=True)


def test_what_cannot_be_measured_is_one_line(capsys, tmp_path):
    for arguments, said in ((['flight'], "unknown stage 'flight'"), (['walk', '--rounds', '0'], '0 rounds'), *([] if torch.cuda.is_available() else [(['walk', '--device', 'cuda'], "device 'cuda' is not here")])):
        assert main(['bench', *arguments]) == 1
        assert said in (err := capsys.readouterr().err) and err.count('\n') == 1
    (tmp_path/'mine.json').write_text('mine')
    assert main(['bench', 'walk', '--quick', '--result', str(tmp_path/'mine.json')]) == 1 and (tmp_path/'mine.json').read_text() == 'mine'
