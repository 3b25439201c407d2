"""What holds for every input, tried on many: tiles, views, poolings, the confusion matrix, the random walk, the CAM store."""
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consistency_cam.affinity import path_affinity
from consistency_cam.cams import CamStore, StoreError
from consistency_cam.tools.metrics import ConfusionMatrix
from consistency_cam.pooling import POOLINGS
from consistency_cam.randomwalk import random_walk, walk
from consistency_cam.datasets.samples import IdError, checked_ids
from consistency_cam.tiling import TileError, merge, tile
from consistency_cam.views import HFlip, RandomCrop, RandomResize, Tiles

every = settings(derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
few, side, seeds = st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**31 - 1)


def random(seed, *shape): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Tiles

@every
@given(few, few, st.integers(1, 5), side, side, seeds)
def test_tile_and_merge_are_exact_inverses(b, c, n, h, w, seed):
    pictures, tiles = random(seed, b, c, n * h, n * w), random(seed, b * n * n, c, h, w)
    assert tile(pictures, n).shape == tiles.shape and torch.equal(merge(tile(pictures, n), n), pictures)
    assert torch.equal(tile(merge(tiles, n), n), tiles)


@every
@given(st.integers(1, 30), st.integers(1, 30), st.integers(-3, 8))
@example(4, 4, 0)
def test_what_does_not_divide_is_a_named_error(h, w, n):
    if n > 0 and h % n == w % n == 0: assert tile(torch.zeros(1, 1, h, w), n).shape == (n * n, 1, h // n, w // n)
    else:
        with pytest.raises(TileError): tile(torch.zeros(1, 1, h, w), n)


@every
@given(st.integers(1, 40), st.integers(-3, 6))
@example(4, 0)
def test_tiles_that_make_no_whole_picture_are_a_named_error(tiles, n):
    if n > 0 and tiles % (n * n) == 0: assert len(merge(torch.zeros(tiles, 1, 2, 2), n)) == tiles // (n * n)
    else:
        with pytest.raises(TileError): merge(torch.zeros(tiles, 1, 2, 2), n)


# Views

STRIDE = 4
views = st.sampled_from([Tiles([1, 2, 3]), HFlip(), RandomCrop((.3, .9)), RandomCrop((1., 1.))])


@every
@given(views, few, side, side, seeds)
def test_a_view_acts_alike_on_pictures_and_maps(view, b, h, w, seed):
    "The largest value of each cell is a network that sees nothing but its cell: it has to give the same before and after"
    image = random(seed, b, 3, 6 * STRIDE * h, 6 * STRIDE * w)
    cams = lambda x: F.max_pool2d(x, STRIDE)
    t = view.sample(image.shape[-2:], STRIDE, torch.Generator().manual_seed(seed))
    assert torch.equal(cams(t.image(image)), t.cams(cams(image)))
    if isinstance(view, Tiles): assert torch.equal(t.whole(t.cams(cams(image))), cams(image)) and torch.equal(t.whole(t.image(image)), image)


@every
@given(few, side, side, st.floats(.3, 1.), st.floats(1., 2.), seeds)
def test_resizing_gives_maps_of_the_resized_picture(b, h, w, low, high, seed):
    image, maps = random(seed, b, 3, STRIDE * h, STRIDE * w), random(seed, b, 5, h, w)
    t = RandomResize((low, high)).sample(image.shape[-2:], STRIDE, torch.Generator().manual_seed(seed))
    assert t.cams(maps).shape[-2:] == tuple(s // STRIDE for s in t.image(image).shape[-2:]) and not any(s % STRIDE for s in t.image(image).shape[-2:])
    for x, found in (image, t.image(image)), (maps, t.cams(maps)): assert x.min() - 1e-4 <= found.min() and found.max() <= x.max() + 1e-4
    assert torch.allclose(t.cams(torch.full_like(maps, 3.)), torch.tensor(3.)) and torch.allclose(t.image(torch.full_like(image, 3.)), torch.tensor(3.))


# Poolings

poolings, scale = st.sampled_from(list(POOLINGS)), st.sampled_from([.1, 1., 10., 60.])


@every
@given(poolings, few, few, side, side, scale, st.floats(0, 50), seeds)
def test_a_pooling_is_monotone_in_every_cell(name, b, c, h, w, scale, more, seed):
    "What one cell gains no logit loses, and no other class notices; the mean rises each time"
    cams = scale * random(seed, b, c, h, w).double()
    k, i, j = (seed % n for n in (c, h, w))
    raised = cams.clone(); raised[:, k, i, j] += more
    before, after = POOLINGS[name](cams), POOLINGS[name](raised)
    others = [n for n in range(c) if n != k]
    assert (after >= before - 1e-9).all() and torch.equal(before[:, others], after[:, others]) and before.isfinite().all()
    if name == 'gap' and more > .01: assert (after[:, k] > before[:, k]).all()


@every
@given(poolings, few, few, side, side, scale, seeds)
def test_a_pooling_does_not_mind_where_the_cells_are(name, b, c, h, w, scale, seed):
    cams = scale * random(seed, b, c, h, w).double()
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(POOLINGS[name](cams.flatten(2)[..., order].view_as(cams)), POOLINGS[name](cams), rtol=1e-9, atol=1e-9)


# Confusion matrix

@every
@given(st.integers(2, 6), st.integers(1, 5), side, side, seeds)
def test_a_confusion_matrix_is_the_sum_of_its_batches(classes, pictures, h, w, seed):
    g = torch.Generator().manual_seed(seed)
    pred, target = (torch.randint(0, classes + 1, (pictures, h, w), generator=g).masked_fill_(torch.rand(pictures, h, w, generator=g) < .2, 255) for _ in range(2))
    pred, target = (torch.where(x == classes, 255, x) for x in (pred, target))
    whole, parts, one = ConfusionMatrix(classes), ConfusionMatrix(classes), []
    whole.update(pred, target)
    for p, t in zip(pred, target):
        parts.update(p, t); one.append(ConfusionMatrix(classes).update(p, t).matrix)
    assert torch.equal(whole.matrix, parts.matrix) and torch.equal(whole.matrix, sum(one))
    assert whole.matrix.sum() == (target != 255).sum()


# Random walk

walks = every(given(few, st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.floats(1, 12), st.integers(1, 300), seeds))


@walks
def test_a_constant_map_stays_as_it_is(k, h, w, radius, beta, steps, seed):
    edge = random(seed, h, w).sigmoid()
    constant = torch.arange(1., k + 1)[:, None, None].expand(k, h, w)
    torch.testing.assert_close(walk(constant, path_affinity(edge, radius), beta, steps), constant.clone(), rtol=0, atol=1e-4)


@walks
def test_a_walk_stays_within_the_range_of_its_start(k, h, w, radius, beta, steps, seed):
    cams, edge = random(seed, k, h, w), random(seed + 1, h, w).sigmoid()
    found = walk(cams, path_affinity(edge, radius), beta, steps)
    low, high = cams.flatten(1).amin(1), cams.flatten(1).amax(1)
    assert (found.flatten(1).amin(1) >= low - 1e-4).all() and (found.flatten(1).amax(1) <= high + 1e-4).all()
    scores = cams.sigmoid()
    found = random_walk(scores, edge, radius, beta, steps)
    assert found.min() >= -1e-4 and (found.flatten(1).amax(1) <= scores.flatten(1).amax(1) + 1e-4).all()


# CAM store

names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3).map('/'.join)


def is_id(name):
    try: return bool(checked_ids([name]))
    except IdError: return False


@every
@given(names, st.lists(st.integers(1, 2**31 - 1), unique=True, max_size=4), st.integers(1, 50), st.integers(1, 50), st.integers(1, 8), seeds)
@example('2007_000032', [1, 20], 375, 500, 4, 0)
@example('birds/0001.v2', [], 1, 1, 4, 0)
@example('../out', [1], 4, 4, 4, 0)
@example('/out', [1], 4, 4, 4, 0)
def test_a_store_gives_back_what_was_put_in(name, ids, height, width, stride, seed):
    "The maps to float16, their ids and order, any name that an id may be; and a name that it may not be is refused"
    grid = -(-height // stride), -(-width // stride)
    cams = {c: random(seed + c % 7, *grid).sigmoid() for c in ids}
    with TemporaryDirectory() as d:
        store = CamStore(f'{d}/store', ['cat'], stride)
        if not is_id(name):
            with pytest.raises(IdError): store.put(name, cams, (height, width))
            assert len(CamStore(f'{d}/store')) == 0
            return
        store.put(name, cams, (height, width))
        again = CamStore(f'{d}/store')
        found, full = again.get(name, full=False), again.get(name)
        assert again.ids() == [name] and name in again and list(found) == list(full) == ids
        for c in ids:
            assert torch.equal(found[c], cams[c].half().float()) and (found[c] - cams[c]).abs().max() <= 2**-11
            assert full[c].shape == (height, width)
        with pytest.raises(StoreError): again.put(name, {1: torch.zeros(grid[0] + 1, grid[1])}, (height, width))
