"""The benchmarks measure every stage, and notice a way that is fast and wrong."""
import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import stages
from consistency_cam.files.errors import InputError
from benchmarks.__main__ import main
from benchmarks.measure import BENCHMARKS, BenchError, Goal, Problem, bench, bench_all, bench_table, benchmark, duration, factor, interleaved, relative, share, size_text

WRONG = dict( # stage -> what is put in place of our own way: almost the same
    pooling=('noisy_or', lambda cams: stages.gap(cams)),
    tiles=('merge', lambda tiles, n, merge=stages.merge: merge(tiles, n).flip(-1)),
    cams=('infer_batch', lambda *a, f=stages.infer_batch: f(*a, flip=False)),
    walk=('random_walk', lambda cams, edge, radius, beta, steps, f=stages.random_walk: f(cams, edge, radius, beta, steps // 2)),
    affinity=('pair_labels', lambda labels, radius, f=stages.pair_labels: f(labels.where(labels != 255, 0), radius)),
    crf=('crf_many', lambda jobs, f=stages.crf_many, **given: f([(i, (x, p.flip(-1))) for i, (x, p) in jobs], **given)),
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_stage_is_measured_and_its_results_agree(tmp_path, capsys):
    assert main(['--quick', '--result', str(tmp_path/'bench.json')]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path/'bench.json').read_text())
    assert [r['stage'] for r in found['records']] == [*BENCHMARKS] and {*found} >= {'command', 'date', 'versions', 'device'}
    for record in found['records']:
        about, (step,) = BENCHMARKS[record['stage']], record['steps']
        assert set(step['difference']) == set(about.tolerance) and all(step['difference'][k] <= most for k, most in about.tolerance.items())
        assert all(seconds > 0 for seconds in step['seconds'].values()) and all(g['ratio'] > 0 for g in step['goals'])
        assert any(l.startswith(f"| {record['stage']} |") for l in lines)


@pytest.mark.parametrize('stage', WRONG)
def test_a_wrong_way_is_refused_before_it_is_timed(stage, monkeypatch):
    name, wrong = WRONG[stage]
    monkeypatch.setattr(stages, name, wrong)
    monkeypatch.setattr('benchmarks.measure.interleaved', lambda *a, **k: pytest.fail('it was timed'))
    with pytest.raises(BenchError, match=f'{stage}, .* away from the result wanted'): bench(stage, rounds=1, quick=True)


def test_a_wrong_training_step_and_a_wrong_sweep_are_refused(monkeypatch):
    monkeypatch.setattr(stages.ConsistencyTask, 'forward', lambda self, batch, step, f=stages.ConsistencyTask.forward: {k: v * (1.1 if k == 'flip' else 1) for k, v in f(self, batch, step).items()})
    with pytest.raises(BenchError, match="step, .*'ours' is"): bench('step', quick=True)
    monkeypatch.setattr(stages.ThresholdSweep, 'matrices', lambda self, f=stages.ThresholdSweep.matrices: f(self).roll(1, 0))
    with pytest.raises(BenchError, match="sweep, .*'sweep' is"): bench('sweep', quick=True)


def test_what_cannot_be_measured_is_one_line(capsys, tmp_path):
    for arguments, said in ((['flight'], "unknown stage 'flight'"), (['walk', 'poling'], "did you mean 'pooling'?"), (['walk', '--rounds', '0'], '0 rounds'), (['walk', '--device', 'tpu'], "device 'tpu' is not here"),
                            *([] if torch.cuda.is_available() else [(['walk', '--device', 'cuda'], "device 'cuda' is not here")])):
        assert main(arguments) == 1
        assert said in (err := capsys.readouterr().err) and err.count('\n') == 1
    (tmp_path/'mine.json').write_text('mine')
    assert main(['walk', '--quick', '--result', str(tmp_path/'mine.json')]) == 1 and (tmp_path/'mine.json').read_text() == 'mine'


# How it is measured

def test_works_are_timed_in_turn():
    calls = []
    found = interleaved(dict(short=lambda: calls.append('s'), long=lambda: (calls.append('l'), time.sleep(.01))), 3, torch.device('cpu'))
    assert ''.join(calls) == 'sl' * 4 and found['long'] > .01 > found['short']


def test_differences_are_shares_of_the_largest_value_or_of_the_entries():
    assert relative(torch.tensor([1., 4.]), torch.tensor([2., 4.])) == .25
    assert share(torch.tensor([1, 4]), torch.tensor([2, 4])) == .5


def test_sizes_times_and_ratios_in_words():
    assert size_text(dict(grid=(94, 125), classes=3)) == 'grid 94x125, classes 3'
    assert [duration(s) for s in (.00123, 2.5, 141)] == ['1.23 ms', '2.5 s', '2.4 min']
    assert factor(dict(ratio=1534.2, against='squaring', most=False)) == '1,534 x as fast as squaring'
    assert factor(dict(ratio=3.25, against='gap', most=True)) == '3.25 x the time of gap'


def sums(device, numbers, wrong=False):
    x = torch.arange(numbers).double()
    return Problem(dict(literal=lambda: sum(x), ours=lambda: x.sum() + wrong))


@pytest.fixture
def own(monkeypatch):
    "Puts in a benchmark of one's own, which adds up numbers"
    def put(make=sums, **more):
        about = dict(sizes=[dict(numbers=10), dict(numbers=1000)], quick=dict(numbers=5), goals=[Goal('ours', 'literal', 2)], tolerance=dict(ours=1e-9)) | more
        benchmark('sums', 'adding up', **about)(make)
    yield put
    BENCHMARKS.pop('sums', None)


def test_a_goal_is_judged_at_the_largest_size_only(own):
    own()
    first, last = bench('sums')['steps']
    assert first['goals'][0]['reached'] is None and last['goals'][0]['reached'] is True
    assert bench('sums', quick=True)['steps'][-1]['goals'][0]['reached'] is None
    own(goals=[Goal('ours', 'literal', 1e9)])
    assert bench('sums')['steps'][-1]['goals'][0]['reached'] is False
    assert 'at least 1e+09, **missed**' in bench_table(bench_all(['sums']))


def test_a_benchmark_of_ones_own_that_is_wrong_is_refused(own):
    own(lambda device, numbers: sums(device, numbers, True))
    with pytest.raises(BenchError, match="sums, numbers 10: 'ours' is 0.022 away from the result wanted"): bench('sums')


def test_the_literal_way_is_extrapolated_where_it_is_too_slow(own):
    def make(device, numbers):
        problem = sums(device, numbers)
        return problem if numbers < 100 else Problem(dict(ours=problem.works['ours']))
    own(make, operations=lambda numbers: numbers)
    first, last = bench('sums')['steps']
    assert last['extrapolated'] == ['literal'] and last['seconds']['literal'] == pytest.approx(100 * first['seconds']['literal'])
    assert 'literal ' in (row := bench_table(bench_all(['sums'])).splitlines()[-1]) and '* |' in row


def test_a_work_is_timed_beside_neighbours_that_are_gone_afterwards(own, monkeypatch):
    from benchmarks import neighbours
    started, real = [], neighbours.subprocess.Popen
    def popen(*given, **more):
        started.append(real(*given, **more))
        return started[-1]
    monkeypatch.setattr(neighbours.subprocess, 'Popen', popen)
    own()
    record = bench('sums', neighbours=True)
    assert 'beside' not in record['steps'][0] and {*record['steps'][-1]['beside']} == {'ours'}
    for times in record['steps'][-1]['beside']['ours'].values(): assert times['quiet'] > 0 and times['busy'] > 0
    assert len(started) == len(neighbours.NEIGHBOURS) and all(p.poll() is not None for p in started)
    assert '| sums, ours |' in neighbours.beside_table([record]) and neighbours.beside_table([bench('sums')]) == ''


def test_a_neighbour_that_does_not_begin_is_an_error(monkeypatch):
    from benchmarks import neighbours
    monkeypatch.setitem(neighbours.NEIGHBOURS, 'a spinning process', 'raise SystemExit(1)')
    with pytest.raises(InputError, match='a spinning process did not begin'): neighbours.beside_neighbours(dict(nothing=lambda: None))


def test_the_page_has_figures_of_every_stage():
    "results/bench.json, from which nbs/benchmarks.ipynb draws"
    found = json.loads((Path(__file__).parent.parent/'results'/'bench.json').read_text())
    assert [r['stage'] for r in found['records']] == [*BENCHMARKS] == 'pooling tiles step cams sweep walk affinity crf pipeline'.split()
    assert all(f"| {name} |" in bench_table(found) for name in BENCHMARKS)


def test_labels_of_redraw_are_read_as_they_were_written(tmp_path):
    from benchmarks.redraw import pictures
    from consistency_cam.datasets.folder import Folder
    from consistency_cam.datasets.scenes import Scenes
    given, scenes = pictures(tmp_path), Scenes(24, seed=0, size=192)
    samples = Folder(given['root'], given['labels'], masks=given['masks'], split='train')
    named = lambda s, i: {s.classes[c - 1] for c in s.label_ids(i)}
    assert [named(samples, samples.ids.index(id)) for id in scenes.ids[:16]] == [named(scenes, i) for i in range(16)]
