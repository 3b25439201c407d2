"""Each stage as the package has it gives what its literal twin gives (`benchmarks.literal`)."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from benchmarks.literal import (FiveForwards, PairByPair, cams_one_at_a_time, confusion, crf_all_classes, cut, dense_affinity, distance, enlarge, evaluate_at, join, literal_run,
                                losses_pair_by_pair, mean_iou, path_tables, segment_one_at_a_time, soft_margin, tiles_one_by_one, walk_by_squaring)
from consistency_cam.affinity import AffinityTask, BoundaryNet, affinity_loss, pair_labels, path_affinity
from consistency_cam.camnet import CAMNet
from consistency_cam.cams import infer_cams
from consistency_cam.consistency import ConsistencyTask
from consistency_cam.crf import dense_crf
from consistency_cam.deeplab import DeepLabV3Plus
from consistency_cam.tools.metrics import ThresholdSweep
from consistency_cam.experiments.pipeline import run
from consistency_cam.randomwalk import random_walk
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import read_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.segment import segment_image
from consistency_cam.tiling import merge, tile
from consistency_cam.views import HFlip, RandomCrop, RandomResize, Tiles


@pytest.fixture(scope='module')
def seen():
    "Four pictures, and a network that has seen none of them"
    scenes = Scenes(4, seed=0, size=128)
    torch.manual_seed(0)
    net = CAMNet('tf_efficientnet_lite0', len(scenes.classes)).freeze().eval()
    return SimpleNamespace(scenes=scenes, net=net, images=net.normalize(torch.stack([scenes.image(i) for i in range(4)])), labels=scenes.labels)


@torch.no_grad()
def test_tiles(seen):
    assert torch.equal(join(cut(seen.images, 4), 4), seen.images)
    assert_close(tiles_one_by_one(seen.net, seen.images, 4), merge(seen.net.cams(tile(seen.images, 4)), 4), atol=1e-4, rtol=0)


def test_losses_by_hand():
    two = torch.tensor([[[[1., 3.]], [[0., 0.]]]])
    assert soft_margin(two, torch.tensor([[1., 0.]])).item() == pytest.approx((np.log(1 + np.exp(-2)) + np.log(2)) / 2, abs=1e-6)
    assert distance(two, 0 * two, torch.tensor([[1., 1.]])) == 1


@torch.no_grad()
def test_a_training_step(seen):
    views, batch = [Tiles([2, 4]), RandomCrop(), HFlip(), RandomResize()], dict(image=seen.images, labels=seen.labels)
    literal, ours = (task(seen.net, views)(batch, 300) for task in (FiveForwards, ConsistencyTask))
    assert_close(literal, ours, atol=1e-5, rtol=0)


def test_cams(seen):
    literal, ours = (f(seen.net, seen.scenes.image(0), seen.labels[0]) for f in (cams_one_at_a_time, infer_cams))
    assert list(literal) == list(ours)
    assert_close(literal, ours, atol=1e-4, rtol=0)


def test_confusion_by_hand():
    assert confusion(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]), 2).tolist() == [[1, 1], [0, 1]]


def test_evaluation_at_all_thresholds(seen):
    pictures = [(cams_one_at_a_time(seen.net, seen.scenes.image(i), seen.labels[i], (1.,)), seen.scenes.mask(i)) for i in range(4)]
    sweep = ThresholdSweep(len(seen.scenes.classes) + 1)
    for cams, target in pictures: sweep.update(cams, target)
    one_by_one = [mean_iou(evaluate_at(pictures, t, sweep.num_classes)) for t in sweep.thresholds.tolist()]
    assert one_by_one == pytest.approx(sweep.miou().tolist(), abs=1e-9)


def test_tables_hold_the_way_between_two_cells():
    here, there, way = path_tables((8, 12), 5)[-1]
    assert here.shape == there.shape and (here[0], there[0]) == (way[:, 0].min(), way[:, 0].max())


def test_affinity_losses():
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(2, 16, 20, generator=generator)
    seeds = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 4, 5), generator=generator)].repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert_close(losses_pair_by_pair(edges, seeds, 5), dict(affinity_loss(path_affinity(edges, 5), pair_labels(seeds, 5))), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_affinity_step(seen):
    boundary = BoundaryNet(CAMNet('tf_efficientnet_lite0', 1))
    batch = dict(image=seen.images, mask=torch.stack([seen.scenes.mask(i) for i in range(4)]))
    literal, ours = (task(boundary, 5)(batch, 0) for task in (PairByPair, AffinityTask))
    for k in literal: assert_close(literal[k], ours[k], atol=1e-5, rtol=0)


def test_the_walk_and_how_exact_it_is():
    generator = torch.Generator().manual_seed(0)
    edge = F.interpolate(torch.rand(1, 1, 3, 4, generator=generator) ** 3, (12, 16), mode='bicubic')[0, 0].clamp(0, 1)
    cams = torch.rand(2, 12, 16, generator=generator)
    exact, squared, ours = walk_by_squaring(cams.double(), edge.double()), walk_by_squaring(cams, edge), random_walk(cams, edge, 5, 10, 256)
    assert_close(ours.double(), exact, atol=1e-5, rtol=0)
    assert_close(squared.double(), exact, atol=1e-4, rtol=0)
    assert (ours - exact).abs().max() < (squared - exact).abs().max()
    A = dense_affinity(edge, 5)
    assert torch.equal(A, A.T) and (A.diagonal() == 1).all()


def test_crf(seen):
    classes, found = len(seen.scenes.classes) + 1, seen.scenes.mask(1)
    probs = F.one_hot(found.long().clamp(max=classes - 1), classes).permute(2, 0, 1) * .6
    probs[[0, *(seen.labels[1].nonzero().flatten() + 1).tolist()]] += .2
    literal, ours = (f(seen.scenes.image(1), probs / probs.sum(0)).argmax(0) for f in (crf_all_classes, dense_crf))
    assert (literal == ours).float().mean() > .995


def test_maps_are_enlarged_and_divided_by_their_one_maximum():
    maps = {1: torch.tensor([[0., 4.]])}
    assert_close(enlarge(maps, (4, 7))[1][0], F.interpolate(maps[1][None, None], scale_factor=4, mode='bilinear')[0, 0, 0, :7] / 4, atol=1e-6, rtol=0)


def test_segmentation(seen):
    segmenter = DeepLabV3Plus('tf_efficientnet_lite0', 3, pretrained=False).eval()
    literal, ours = (f(segmenter, seen.scenes.image(0), (.5, 1.)) for f in (segment_one_at_a_time, segment_image))
    assert_close(literal, ours, atol=1e-4, rtol=0)


def test_all_of_it(tmp_path):
    "Two programs that share the walk and the networks, and meet in the masks; where the two do not agree is on outlines"
    r = recipe('quick', pictures=4, epochs=2, affinity_epochs=1, segment_epochs=1, batch_size=4, affinity_batch_size=4, segment_batch_size=4, val='')
    literal, ours = literal_run(r, tmp_path/'literal'), run(r, tmp_path/'ours', progress=False)
    for stage, place in dict(pseudo='pseudo', segment='masks').items():
        masks = [read_mask(ours.folder/place/'train'/f'{id}.png') for id in ours.samples('train').ids]
        assert np.mean([(a == b).float().mean() for a, b in zip(literal[stage], masks)]) > .97, stage
