"""A person in a Python session: five lines to a CAM, trained classifiers of any library, a pooling of one's own, a run that shows itself."""
import re

import numpy as np
import pytest
import consistency_cam  # first, for the torchvision that timm imports
import timm
import torch
from PIL import Image
from skimage import data
from torch import nn
from torchvision.models import VisionTransformer, get_model

from consistency_cam import CAMNet, InputError, Run, as_picture, infer_cams, noisy_or, recipe, register_pooling
from consistency_cam.cli import main
from consistency_cam.methods import registry
from consistency_cam.pooling import EVIDENCE, POOLINGS, evidence

EGYPTIAN_CAT = 285


def test_five_lines_give_the_cam_of_the_cat():
    net = CAMNet.from_classifier('tf_efficientnet_lite0')
    label = torch.nn.functional.one_hot(torch.tensor(EGYPTIAN_CAT), 1000)
    cam = infer_cams(net, data.chelsea(), label)[EGYPTIAN_CAT + 1]
    assert cam.shape == (300, 451) and 0 <= cam.min() and cam.max() > .99
    face, corner = cam[60:220, 120:320].mean(), cam[:60, -80:].mean()
    assert face > .6 and face > 2 * corner
    x = net.normalize(as_picture(data.chelsea())[None])
    with torch.no_grad(): assert EGYPTIAN_CAT in net(x)[0].topk(3).indices and noisy_or(net.cams(x))[0, EGYPTIAN_CAT] > 5


class Own(nn.Module):
    "A classifier of one's own"
    def __init__(self): super().__init__(); self.body, self.out = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.ReLU()), nn.Linear(8, 5)
    def forward(self, x): return self.out(nn.functional.dropout(self.body(x).mean((2, 3)), .5, self.training))


CLASSIFIERS = {
    'timm ResNet': lambda: timm.create_model('test_resnet', num_classes=5),
    'timm ConvNeXt': lambda: timm.create_model('test_convnext', num_classes=5),
    'timm ViT': lambda: timm.create_model('test_vit', num_classes=5),
    'timm ViT, mean of tokens': lambda: timm.create_model('test_vit', num_classes=5, global_pool='avg'),
    'torchvision ResNet': lambda: get_model('resnet18', num_classes=5),
    'torchvision DenseNet': lambda: get_model('densenet121', num_classes=5),
    'torchvision MobileNet': lambda: get_model('mobilenet_v3_small', num_classes=5),
    'torchvision ViT': lambda: VisionTransformer(224, 32, 1, 2, 32, 32, num_classes=5),
    'own': Own}


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_a_trained_classifier_keeps_its_answers_and_has_cams(name):
    torch.manual_seed(0)
    model = CLASSIFIERS[name]().eval()
    for p in model.parameters(): nn.init.normal_(p, std=.2) if p.ndim == 1 or not p.any() else None  # ViTs begin with zeros
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net, side = CAMNet.from_classifier(model, one_class=False), 160 if 'timm' in name else 224
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-3, atol=1e-3)
        shown, logits = net.evidence(x)
        if name in ('timm ResNet', 'torchvision ResNet', 'own'): torch.testing.assert_close(net.cams(x).mean((2, 3)), model(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, net(x).detach(), rtol=1e-3, atol=1e-3)
    assert shown.shape == (2, 5, side // net.stride, side // net.stride) and (shown >= 0).all()
    cams = infer_cams(net, Image.fromarray(data.chelsea()), [1, 0, 0, 0, 1], scales=(.5, 1.))
    assert list(cams) == [1, 5] and all(m.shape == (300, 451) for m in cams.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'the classifier itself is as it was'


@pytest.mark.parametrize('model, said', {
    'vgg': (lambda: get_model('vgg11', num_classes=5), 'VGG: no map whose mean, or class token, its last layers'),
    'no linear head': (lambda: get_model('squeezenet1_1', num_classes=5), 'SqueezeNet: no map whose mean'),
    'one channel': (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), r'pictures \(2,3,224,224\) do not go through it'),
    'a name': (lambda: 'resnet_50', "did you mean 'resnet50'")}.values(), ids=['vgg', 'no linear head', 'one channel', 'a name'])
def test_what_has_no_cams_is_refused_in_a_line(model, said):
    with pytest.raises(InputError, match=said) as error: CAMNet.from_classifier(model())
    assert '\n' not in str(error.value)


POOLING = '''
from consistency_cam.pooling import register_pooling
import torch.nn.functional as F
register_pooling('ten', lambda cams: cams.flatten(-2).topk(4).values.mean(-1), evidence=F.softplus)
'''
SMALL = '--pictures 8 --epochs 1 --batch-size 4 --size 64 --crop 64 --long-side 60 68 --backbone test_resnet --output-stride 32 --pretrained random --frozen-stages 0 --val= --quiet'.split()


@pytest.fixture
def poolings(monkeypatch):
    "The registry of poolings, which forgets new ones afterwards"
    monkeypatch.setenv(registry.FILES, '')
    known, evidences = dict(POOLINGS), dict(EVIDENCE)
    yield
    for names, before in ((POOLINGS, known), (EVIDENCE, evidences)):
        names.clear()
        names.update(before)


def test_a_pooling_in_a_file_is_trained_with_and_missed_without_it(poolings, tmp_path, capsys):
    (file := tmp_path/'ten.py').write_text(POOLING)
    train = ['run', tmp_path/'run', '--method', 'cam', '--pool', 'ten', '--until', 'cams', *SMALL]
    assert main(train) == 1 and "classify.pool='ten': " in capsys.readouterr().err
    assert main([*train, '--methods', file]) == 0
    net = Run(tmp_path/'run', progress=False).net()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert net.pool == 'ten' and torch.equal(net(x), POOLINGS['ten'](net.cams(x)))
        assert torch.equal(net.evidence(x)[0], nn.functional.softplus(net.cams(x)))


def test_a_pooling_of_the_session(poolings):
    register_pooling('strongest', lambda cams: cams.amax((-2, -1)))
    assert recipe('quick', pool='strongest').classify.pool == 'strongest' and CAMNet('test_resnet', 2, 'strongest', 32, False).pool == 'strongest'
    with pytest.raises(InputError, match="'strongest' is registered already"): register_pooling('strongest', noisy_or)
    assert (evidence(-torch.ones(1, 2, 2), 'strongest') == 0).all()


def test_what_is_shown_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from consistency_cam import CamStore, DeepLabV3, Scenes
    scenes = Scenes(2, seed=0)
    shown = [repr(x) for x in (CAMNet('test_resnet', 3, output_stride=32, pretrained=False), DeepLabV3('test_resnet', 3, 32, False), scenes[0], scenes, CamStore('c', ['a']), Run('run', recipe('quick')))]
    assert all(len(text) < 140 and '\n' not in text for text in shown), shown
    assert shown[0] == 'CAMNet: test_resnet, 3 classes, pooling gap, stride 32, 0.4 million parameters' and 'Consistency-CAM' in shown[-1]
    html = Run(tmp_path/'<b>run', recipe('quick'))._repr_html_()
    assert '<b>run' not in html and re.search(r'<td[^>]*>classify</td><td[^>]*>not yet</td>', html)
