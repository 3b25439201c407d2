"""Rules without labels on maps that nobody wants: nothing in them, one value, one pixel, bytes."""
import numpy as np
import pytest
import torch
from consistency_cam.files.errors import InputError
from consistency_cam.tools.background_rules import (BINS, FALLBACK, LABEL_FREE, TAUS, Agreement, MapCounts, add_edges, add_views,
    count_maps, histogram, label_free_score, li_threshold, mixture_threshold, occlusion_gains, otsu_threshold, soft_iou_score)

PER_PICTURE = [name for name, rule in LABEL_FREE.items() if rule.reads == 'picture']
PER_SET = [name for name, rule in LABEL_FREE.items() if rule.fit]

@pytest.mark.parametrize('value', [0., .4, 1.])
@pytest.mark.parametrize('size', [(1, 1), (3, 5)])
def test_map_of_one_value_is_not_split(value, size):
    evidence = {1: torch.full(size, value)}
    for name in ('otsu', 'li'): assert label_free_score(name, evidence, 1.) == FALLBACK
    for name in ('otsu_set', 'li_set'): assert LABEL_FREE[name].fit(count_maps([evidence], 1), 1.) == {0: FALLBACK}
    assert LABEL_FREE['mixture'].fit(count_maps([evidence], 1), 1.) == {1: FALLBACK}

def test_percentile_of_one_value_by_hand():
    counts = count_maps([{1: torch.full((2, 2), .5)}], 1)
    assert LABEL_FREE['percentile'].fit(counts, .99) == {1: pytest.approx(.2 * 129 / 256)}

def test_bytes_and_floats_give_the_same():
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    floats = {2: torch.from_numpy(grey / 255).float()}
    for name in PER_PICTURE: np.testing.assert_allclose(
        label_free_score(name, {2: grey}, 1.), label_free_score(name, floats, 1.), atol=1e-6)
    for name in PER_SET: assert LABEL_FREE[name].fit(count_maps([{2: grey}], 3), 1.).keys() >= {2} or name.endswith('_set')

@pytest.mark.parametrize('name', PER_PICTURE)
def test_picture_without_a_class_is_background(name): assert label_free_score(name, {}, 1.) == 1

def test_set_without_any_class():
    counts = count_maps([{}, {}], 2)
    assert [LABEL_FREE[name].fit(counts, 1.) for name in ('otsu_set', 'mixture', 'percentile')] == [{0: FALLBACK}, {}, {}]

def test_nan_is_one_line():
    bad = {3: torch.tensor([[.1, torch.nan]])}
    for call in (lambda: label_free_score('otsu', bad, 1.), lambda: MapCounts(3).update(bad),
            lambda: add_edges(Agreement(3), bad, np.zeros((1, 2), int)), lambda: soft_iou_score(bad, np.ones((2, 1, 2)))):
        with pytest.raises(InputError, match='the map of class 3 holds nan') as e: call()
        assert '\n' not in str(e.value)

def test_class_that_is_not_there():
    with pytest.raises(InputError, match='a class is 1 to 2'): MapCounts(2).update({5: torch.zeros(1, 1)})

def test_background_channel_is_no_class():
    evidence = {0: torch.ones(2, 2), 1: torch.tensor([[.1, .9], [.1, .9]])}
    assert label_free_score('otsu', evidence, 1.) == pytest.approx(.5)

def test_memory_does_not_grow_with_pictures():
    def size(n):
        counts = count_maps(({1: torch.rand(4, 4)} for _ in range(n)), 3)
        return counts.strongest.nbytes + counts.by_class.nbytes
    assert size(1) == size(50) == 8 * BINS * 5

def test_order_of_pictures_does_not_matter():
    maps = [{1: torch.rand(5, 5, generator=torch.Generator().manual_seed(i))} for i in range(4)]
    for name in PER_SET:
        assert LABEL_FREE[name].fit(count_maps(maps, 1), .75) == LABEL_FREE[name].fit(count_maps(maps[::-1], 1), .75)

def test_as_scikit_image():
    filters = pytest.importorskip('skimage.filters')
    values = np.concatenate([np.random.default_rng(0).beta(2, 9, 4000), np.random.default_rng(1).beta(9, 3, 1000)])
    assert otsu_threshold(histogram(values)) == pytest.approx(filters.threshold_otsu(values), abs=2 / BINS)
    li = filters.threshold_li(values, initial_guess=filters.threshold_otsu(values), tolerance=1e-6)
    assert li_threshold(histogram(values)) == pytest.approx(li, abs=2 / BINS)

def test_fewer_pixels_than_bins():
    assert otsu_threshold(histogram([0, 1])) == pytest.approx(.5)
    assert 0 < mixture_threshold(histogram([.1, .9])) < 1

def test_views_that_agree_and_views_that_do_not():
    same, apart, half = Agreement(1), Agreement(1), torch.tensor([[1., 1, 0, 0]])
    add_views(same, {1: half}, {1: half})
    add_views(apart, {1: half}, {1: 1 - half})
    assert same.kappa().tolist() == [1] * len(TAUS) and apart.kappa().tolist() == [-1] * len(TAUS)
    assert same.best() == TAUS[len(TAUS) // 2] and apart.best() == FALLBACK

def test_all_foreground_or_all_background_is_no_agreement():
    tally = Agreement(1)
    for value in (torch.ones(2, 2), ):
        add_views(tally, {1: value}, {1: value})
    assert tally.kappa().tolist() == [0] * len(TAUS) and tally.best() == FALLBACK

def test_occlusion_without_a_class_asks_nobody():
    assert not occlusion_gains(np.ones((3, 2, 2)), {}, None).any()

def test_soft_iou_of_nothing_is_background():
    assert (soft_iou_score({1: np.zeros((2, 2))}, np.ones((3, 2, 2))) == 2).all()
    with pytest.raises(InputError, match='resize the maps'): soft_iou_score({1: np.zeros((2, 2))}, np.ones((3, 4, 4)))
