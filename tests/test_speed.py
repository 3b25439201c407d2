"""What a step must not do: make the processor wait for the device. On the CPU nothing waits, but the questions can be counted."""
import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from consistency_cam.affinity import AffinityNet, AffinityTask, BoundaryNet
from consistency_cam.camnet import CAMNet
from consistency_cam.consistency import ConsistencyTask
from consistency_cam.deeplab import DeepLabV3Plus
from consistency_cam.iterated import IteratedLearning
from consistency_cam.segment import SegmentationTask
from consistency_cam.tools.training import Watch, _gradients, make_accelerator, step_gradients
from consistency_cam.views import HFlip, RandomCrop, RandomResize, Tiles


class Questions(TorchDispatchMode):
    "Notes which operations bring a number, or a list of positions, from the device to the program; random draws are made on the CPU and may"
    def __init__(self): super().__init__(); self.asked, self.drawn = [], []
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.name()
        if name.startswith('aten::rand'): self.drawn.append(out)
        if name in ('aten::_local_scalar_dense', 'aten::nonzero', 'aten::is_nonzero', 'aten::equal') and args[0].data_ptr() not in [d.data_ptr() for d in self.drawn]: self.asked.append(name)
        return out


def small_net(pool='gap', classes=3):
    torch.manual_seed(0)
    return CAMNet('resnet10t', classes, pool, pretrained=False, bias=-5. if pool == 'noisy_or' else None)


TASKS = {
    'plain CAM': lambda: ConsistencyTask(small_net()),
    'Consistency-CAM': lambda: ConsistencyTask(small_net(), [Tiles([2, 4]), RandomCrop(), HFlip(), RandomResize()]),
    'one view at a time': lambda: ConsistencyTask(small_net(), [Tiles([2, 4]), HFlip()], frugal=True),
    'given labels': lambda: IteratedLearning(small_net(), .3, 5, 5),
    'taught labels': lambda: IteratedLearning(small_net(), .3, 1, 5),
    'boundaries': lambda: AffinityTask(BoundaryNet(small_net()), 5),
    'features': lambda: AffinityTask(AffinityNet(small_net()), 5),
    'segmenter': lambda: SegmentationTask(DeepLabV3Plus('resnet10t', 4, pretrained=False)),
}


def questions_of(task, accumulate=1):
    "Those of a whole step of the loop that has nothing to log"
    batch = dict(image=torch.randn(4, 3, 64, 64), labels=torch.eye(3)[[0, 1, 2, 0]], mask=torch.randint(4, (4, 64, 64), dtype=torch.uint8), id=list('abcd'))
    accelerator, watch, task = make_accelerator(), Watch(), task.train()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], .01, momentum=.9)
    with Questions() as questions:
        losses = step_gradients(task, batch, 2, accelerator, accumulate)
        for values in (losses, _gradients(task, accelerator)): watch.see(2, batch['id'], values)
        optimizer.step(); optimizer.zero_grad()
    watch.look()
    return questions.asked


@pytest.mark.parametrize('name', TASKS)
def test_a_step_asks_the_device_for_nothing(name): assert questions_of(TASKS[name]()) == []


def test_a_step_in_pieces_asks_for_nothing_either(): assert questions_of(TASKS['Consistency-CAM'](), accumulate=2) == []


def test_a_question_would_be_noticed():
    class Asking(ConsistencyTask):
        def forward(self, batch, step): return {k: v for k, v in super().forward(batch, step).items() if v > -1}
    assert questions_of(Asking(small_net())) == ['aten::_local_scalar_dense']
