"""Files of weights as programs write them: those of the network are loaded, all others are refused by what they are."""
import argparse
import io
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import consistency_cam  # first: repairs torchvision where its build does not fit torch's
import timm
from consistency_cam.camnet import CAMNet, WeightsError
from consistency_cam.deeplab import DeepLabV3Plus
from consistency_cam.files.weights import load_backbone, read_weights

pytestmark = pytest.mark.situation('weights files')

NAME = 'test_resnet'
torch.manual_seed(0)
NET = timm.create_model(NAME, num_classes=0)
FULL = timm.create_model(NAME).state_dict() | NET.state_dict()
STATE = NET.state_dict()
OTHER = {k: v + 1 for k, v in STATE.items()}


def before(prefix, state=STATE): return {prefix + k: v for k, v in state.items()}
def to(dtype): return {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}


LOADED = { # what torch.save is given
    **{f'in front: {p}': before(p) for p in ('module.', 'backbone.', 'encoder.', 'model.', 'module.backbone.', '_orig_mod.', '_orig_mod.module.model.', 'net.trunk.')},
    **{f'inside: {k}': {k: STATE, 'epoch': 3} for k in ('model', 'state_dict', 'state_dict_ema', 'model_state_dict', 'net', 'teacher', 'student', 'weights')},
    'inside, two deep': dict(checkpoint=dict(model=before('module.'))), 'with a classifier': FULL, 'with a classifier of five': FULL | {'fc.weight': torch.ones(5, 3), 'fc.bias': torch.ones(5)},
    'without num_batches_tracked': {k: v for k, v in STATE.items() if 'tracked' not in k}, 'float16': to(torch.float16), 'bfloat16': to(torch.bfloat16), 'float64': to(torch.float64),
    'other heads beside': STATE | {'head.mlp.0.weight': torch.ones(3), 'decoder.0.bias': torch.ones(3), 'mask_token': torch.ones(3)},
    'a checkpoint': dict(model=before('module.'), optimizer=dict(state={0: dict(exp_avg=torch.ones(3))}, param_groups=[dict(lr=.1)]), epoch=7, args=argparse.Namespace(lr=.1, data='x')),
    'parameters': {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in STATE.items()},
}
AVERAGED = {'ema beside': dict(state_dict=OTHER, state_dict_ema=STATE), 'ema first': dict(model_ema=before('module.'), model=OTHER), 'DINO': dict(student=before('module.backbone.', OTHER), teacher=before('backbone.'))}
larger = STATE | {k.replace('layer1.0', 'layer1.7'): v for k, v in STATE.items()}
REFUSED = { # (what torch.save is given, words of the refusal)
    'a larger network': (larger, 'but of a network with more'), 'a larger network, in parallel': (before('module.', larger), 'but of a network with more'), 'a bias more': (STATE | {'conv1.0.bias': torch.ones(3), 'layer1.0.conv1.bias': torch.ones(3)}, 'a network with more'),
    'two networks': (before('a.') | before('b.', OTHER), '2 networks that fit'), 'one array less': (dict(list(STATE.items())[1:]), '1 of'), 'of other shapes': ({k: v[..., None] for k, v in STATE.items()}, 'or have another shape or type'),
    'whole numbers': (to(torch.int8), 'or have another shape or type'), 'nan': (STATE | {'layer1.0.conv1.weight': STATE['layer1.0.conv1.weight'] * torch.nan}, 'nan or infinite values in 1 arrays'), 'another network': (timm.create_model('test_vit').state_dict(), 'arrays are absent'),
    'an optimizer': (dict(state={0: dict(exp_avg=torch.ones(3))}, param_groups=[dict(lr=.1)]), 'no state dict but that of an optimizer'), 'an optimizer inside': (dict(optimizer=dict(state={}, param_groups=[]), epoch=1), 'but that of an optimizer'), 'a whole network': (nn.Linear(2, 2), 'it calls torch.nn'), 'NumPy arrays': (dict(a=np.ones(3)), 'it calls numpy'),
}


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as z: z.writestr(name, b'x')
    return file.getvalue()


def torchscript():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


def saved(content):
    file = io.BytesIO(); torch.save(content, file)
    return file.getvalue()


BYTES = { # (bytes of the file, words of the refusal)
    'empty': (b'', 'an empty file'), 'LFS': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'a pointer of git LFS'), 'page': (b'\n<!DOCTYPE html><html>', 'a web page'), 'XML': (b'<?xml version="1.0"?><Error>', 'a web page'), 'JSON': (b'{"message": "Not Found"}', 'a text file'),
    'ONNX': (b'\x08\x08\x12\x07pytorch\x1a', 'an ONNX file'), 'TorchScript': (torchscript(), 'a TorchScript archive'), 'NumPy': (b'\x93NUMPY\x01\0', 'a NumPy array'), 'archive of NumPy': (zipped('a.npy'), 'a NumPy archive'), 'zip': (zipped('weights.pth'), 'an archive; unpack it'), 'gzip': (b'\x1f\x8b\x08', 'an archive'), 'HDF5': (b'\x89HDF\r\n', 'an HDF5 file'),
    'cut off': (saved(STATE)[:-500], 'cut off'), 'noise': (bytes(range(200, 256)) * 9, 'holds no weights'),
}


def loaded(path, **known):
    net = timm.create_model(NAME, num_classes=0)
    load_backbone(net, NAME, path, **known)
    return net.state_dict()


def equal(found, wanted=STATE, tolerance=0):
    for k, v in wanted.items(): 'tracked' in k or torch.testing.assert_close(found[k], v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('kind', LOADED)
def test_weights_are_loaded(tmp_path, kind):
    warnings.simplefilter('error')
    content = LOADED[kind]
    torch.save(content, tmp_path/'w.pth')
    equal(loaded(tmp_path/'w.pth'), tolerance=1e-2 if 'float16' in kind else 0)
    if all(torch.is_tensor(v) for v in content.values()):
        for name in ('w.safetensors', 'w.bin'):
            safetensors.torch.save_file({k: v.detach().clone() for k, v in content.items()}, tmp_path/name)
            equal(loaded(tmp_path/name), tolerance=1e-2 if 'float16' in kind else 0)
    torch.save(content, tmp_path/'named.safetensors')
    equal(loaded(tmp_path/'named.safetensors'), tolerance=1e-2 if 'float16' in kind else 0)


@pytest.mark.parametrize('kind', AVERAGED)
def test_of_two_networks_the_average_is_taken_and_said(tmp_path, kind):
    torch.save(AVERAGED[kind], tmp_path/'w.pth')
    with pytest.warns(UserWarning, match='2 networks that fit; taken is the average'): equal(loaded(tmp_path/'w.pth'))


def refused(path, words):
    with pytest.raises(WeightsError) as error: loaded(path)
    assert '\n' not in str(error.value) and str(path) in str(error.value) and words in str(error.value), str(error.value)


@pytest.mark.parametrize('kind', REFUSED)
def test_other_content_is_refused_by_what_it_is(tmp_path, kind):
    content, words = REFUSED[kind]
    torch.save(content, tmp_path/'w.pth')
    refused(tmp_path/'w.pth', words)


@pytest.mark.parametrize('kind', BYTES)
def test_other_files_are_refused_by_what_they_are(tmp_path, kind):
    content, words = BYTES[kind]
    (tmp_path/'w.pth').write_bytes(content)
    refused(tmp_path/'w.pth', words)
    if kind != 'noise':
        (tmp_path/'w.safetensors').write_bytes(content)
        refused(tmp_path/'w.safetensors', words)


def test_a_folder_and_a_file_that_is_not_there(tmp_path):
    refused(tmp_path, 'a folder')
    refused(tmp_path/'no.pth', 'no such weights file')


def test_torchvisions_names_are_timms(tmp_path):
    from torchvision.models import resnet18
    theirs = resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path/'w.pth')
    ours = CAMNet('resnet18', 3, pretrained=tmp_path/'w.pth').backbone.state_dict()
    equal(ours, {k: v for k, v in theirs.items() if not k.startswith('fc.')})
    torch.save(timm.create_model('resnet34').state_dict(), tmp_path/'deeper.pth')
    with pytest.raises(WeightsError, match="not the weights of 'resnet18' but of a network with more"): CAMNet('resnet18', 3, pretrained=tmp_path/'deeper.pth')


@pytest.mark.parametrize('name', ['test_convnext', 'densenet121', 'mobilenetv3_small_050', 'hrnet_w18_small'])
def test_a_classifiers_file_fits_a_segmenter(tmp_path, name):
    "Also where the classifier has parts that the segmenter has not, and a name beside the backbone's own"
    state = timm.create_model(name).state_dict()
    torch.save(state, tmp_path/'w.pth')
    for network in (CAMNet, DeepLabV3Plus): equal(state, network(name, 3, output_stride=32, pretrained=tmp_path/'w.pth').backbone.state_dict())
