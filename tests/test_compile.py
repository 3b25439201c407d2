"""Compiled training: the same losses, and no new code for each new size of tiles, crops and resized pictures."""
import pytest
import torch
from torch._dynamo.utils import counters

from consistency_cam.camnet import CAMNet
from consistency_cam.consistency import ConsistencyTask
from consistency_cam.views import HFlip, RandomCrop, RandomResize, Tiles


@pytest.mark.slow
def test_compiled_views_have_the_same_losses_and_few_graphs():
    torch.manual_seed(0)
    net = CAMNet('resnet18', 20, pretrained=False).freeze().to(memory_format=torch.channels_last)
    task = ConsistencyTask(net, [Tiles([2, 4]), RandomCrop(), HFlip(), RandomResize()], total=10).train()
    batch = dict(image=torch.randn(2, 3, 128, 128), labels=(torch.rand(2, 20) > .8).float())

    def steps():
        found = []
        for step in range(12):
            net.zero_grad()
            loss = sum(task(batch, step).values())
            loss.backward()
            found.append((loss.item(), net.classifier.weight.grad.norm().item()))
        return torch.tensor(found)

    plain, sizes, features = steps(), set(), net.features
    net.features = lambda x: (sizes.add(tuple(x.shape)), features(x))[1]
    steps()
    net.features = features
    counters.clear()
    net.compile_features()
    torch.testing.assert_close(steps(), plain, rtol=1e-3, atol=1e-4)
    graphs = counters['stats']['unique_graphs']
    assert len(sizes) >= 12 and graphs <= 8 and graphs < len(sizes) / 2, f'{graphs} graphs for {len(sizes)} sizes'
    assert not counters['graph_break'], counters['graph_break']
