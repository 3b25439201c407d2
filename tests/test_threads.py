"""Threads follow the size of the work: results do not depend on them, and everybody's own number comes back."""
import threading

import pytest
import torch

from consistency_cam import pairs, randomwalk
from consistency_cam.crf import label_crf
from consistency_cam.experiments.evaluate import evaluate_masks
from consistency_cam.files import processes
from consistency_cam.files.processes import few_threads, side_by_side, threads_by
from consistency_cam.tools.metrics import ThresholdSweep
from consistency_cam.datasets.samples import write_mask
from consistency_cam.datasets.scenes import Scenes


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def both(monkeypatch, work):
    "The results with every work on one thread, and with none; and as written, torch itself on one"
    found = []
    for small in (2**62, 0):
        monkeypatch.setattr(processes, 'SMALL', small)
        found.append(work())
    torch.set_num_threads(1)
    return *found, work()


def grid(size, classes=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(classes, *size, generator=generator), torch.rand(size, generator=generator) ** 3


def test_the_walk_does_not_depend_on_the_threads(monkeypatch):
    cams, edge = grid((20, 31))
    few, all_, plain = both(monkeypatch, lambda: randomwalk.random_walk(cams, edge, steps=16))
    assert torch.equal(few, plain) and torch.allclose(few, all_, atol=1e-5)
    affinity = pairs.path_affinity(edge, 5)
    torch.set_num_threads(2)
    few, all_, plain = both(monkeypatch, lambda: randomwalk.walk_many([(cams, affinity)] * 2, steps=16)[1])
    assert torch.equal(few, plain) and torch.allclose(few, all_, atol=1e-5)


def test_affinities_and_their_gradients_do_not_depend_on_the_threads(monkeypatch):
    def work():
        x = grid((20, 31))[1].requires_grad_()
        pairs.path_affinity(x, 5).square().sum().backward()
        return torch.cat([x.grad, pairs.feature_affinity(grid((20, 31))[0], 5).detach().flatten(0, 1)])
    few, all_, plain = both(monkeypatch, work)
    assert torch.equal(few, plain) and torch.allclose(few, all_, atol=1e-6)


def test_counts_do_not_depend_on_the_threads():
    cams, edge = grid((64, 80), 2)
    target, found = (edge * 3).long(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(ThresholdSweep(3).update(dict(enumerate(cams, 1)), target).counts)
        assert torch.get_num_threads() == n
    assert torch.equal(*found) and found[0].sum() == target.numel()


def test_a_crf_keeps_to_the_threads_it_finds():
    samples = Scenes(1, seed=0, size=48)
    image, mask = samples.image(0), samples.mask(0)
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(label_crf(image, mask.where(mask != 255, 0)))
        assert torch.get_num_threads() == n
    assert torch.equal(*found)


def test_masks_are_evaluated_alike_on_any_number_of_threads(tmp_path):
    samples = Scenes(7, seed=0, size=32)
    for i, id in enumerate(samples.ids): write_mask(samples.mask(i).roll(3, 0), tmp_path/f'{id}.png')
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(evaluate_masks(tmp_path, samples, progress=False).matrix)
        assert torch.get_num_threads() == n
    assert torch.equal(*found) and found[0].sum() > 0
    (tmp_path/f'{samples.ids[4]}.png').unlink()
    with pytest.raises(Exception, match=samples.ids[4]): evaluate_masks(tmp_path, samples, progress=False)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize('given', [1, 2, 3])
def test_the_number_comes_back_however_the_block_ends(given):
    torch.set_num_threads(given)
    with pytest.raises(ValueError), few_threads():
        with few_threads(5): assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == given
    with few_threads(processes.SMALL): assert torch.get_num_threads() == given


def test_where_there_is_one_thread_nothing_is_set(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(torch, 'set_num_threads', lambda n: pytest.fail('it was set'))
    with few_threads(): pass
    assert [get() for _, get in side_by_side(abs, [(n, (-n,)) for n in range(3)])] == [0, 1, 2]


def test_every_thread_gets_its_own_number_back():
    inside, leave, seen = threading.Barrier(3), threading.Barrier(3), {}
    def work(n):
        torch.set_num_threads(n)
        with few_threads():
            inside.wait(60)
            seen[n] = [torch.get_num_threads()]
            leave.wait(60)
        seen[n].append(torch.get_num_threads())
    workers = [threading.Thread(target=work, args=(n,)) for n in (2, 3, 4)]
    for w in workers: w.start()
    for w in workers: w.join()
    assert seen == {n: [1, n] for n in (2, 3, 4)} and torch.get_num_threads() == 2


def test_a_decorated_function_is_what_it_was():
    @threads_by(lambda x, times=1: x.numel() * times)
    def scaled(x, times=1):
        "The docstring"
        return torch.get_num_threads()
    x = torch.ones(()).expand(processes.SMALL // 2)
    assert (scaled(x), scaled(x, 2), scaled(x, times=2)) == (1, 2, 2)
    assert scaled.__doc__ == 'The docstring' and scaled.__name__ == 'scaled'


# Side by side

def test_results_come_in_order_and_few_jobs_are_read_ahead():
    read = []
    def jobs():
        for n in range(100):
            read.append(n)
            yield n, (n,)
    results = side_by_side(lambda n: (n, torch.get_num_threads()), jobs(), ahead=1)
    assert [next(results)[1]() for _ in range(3)] == [(0, 1), (1, 1), (2, 1)]
    assert len(read) <= 3 + 2
    results.close()
    assert torch.get_num_threads() == 2


def test_jobs_work_beside_each_other_on_one_thread_each():
    if processes.cores() < 2: pytest.skip('one core')
    meeting = threading.Barrier(2)
    assert sorted(get() for _, get in side_by_side(lambda n: meeting.wait(60), [(n, (n,)) for n in range(4)])) == [0, 0, 1, 1]


def test_there_are_never_more_threads_than_torch_may_have():
    names = {get() for _, get in side_by_side(lambda n: threading.current_thread().name, [(n, (n,)) for n in range(20)], workers=9)}
    assert len(names) <= 2
    torch.set_num_threads(1)
    names = {get() for _, get in side_by_side(lambda n: threading.current_thread().name, [(n, (n,)) for n in range(3)], workers=9)}
    assert names == {threading.current_thread().name}


def test_threads_that_begin_after_the_pool_have_the_usual_number():
    assert [get() for _, get in side_by_side(abs, [(n, (n,)) for n in range(4)])] == [0, 1, 2, 3]
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]
