"""CAM inference from Python, maps of other programs, and `predict`: whatever form a picture, a label or a file of maps has, the result is right or it is refused in one line."""
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from consistency_cam.affinity import AffinityNet, BoundaryNet, infer_affinity, infer_edge
from consistency_cam.camnet import CAMNet
from consistency_cam.cams import CamStore, infer_batch, infer_cams
from consistency_cam.files.checkpoint import load_state, read_stage, save_state
from consistency_cam.cli import main
from consistency_cam.deeplab import DeepLabV3
from consistency_cam.experiments.imported import import_cams
from consistency_cam.experiments.pipeline import Run, dataset
from consistency_cam.pooling import POOLINGS
from consistency_cam.randomwalk import random_walk
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError, read_mask
from consistency_cam.segment import segment_image
from consistency_cam.tiling import merge, tile

pytestmark = pytest.mark.situation('pictures and maps from other programs')

PHOTO = np.ascontiguousarray(data.chelsea()[60:124, 100:180])  # (64, 80, 3)
CHW = torch.from_numpy(PHOTO).permute(2, 0, 1).contiguous()
SCALES = (.5, 1.)


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.transpose(Image.ROTATE_90).save(file, 'PNG', exif=exif)
    return Image.open(file)


def written(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path/'a.png')
    return tmp_path/'a.png'


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return CAMNet('resnet10t', 3, output_stride=32, pretrained=False).eval()


@pytest.fixture(scope='module')
def expected(net): return infer_cams(net, CHW, torch.tensor([1., 0., 1.]), SCALES)


def refused(text, f):
    "The call is refused in one line that says so"
    with pytest.raises(InputError) as error: f()
    assert text in str(error.value) and '\n' not in str(error.value), error.value


# Pictures

SAME = { # form: the photograph in it
    'tensor': lambda d: CHW, 'tensor of other strides': lambda d: torch.from_numpy(PHOTO).permute(2, 0, 1), 'tensor HWC': lambda d: torch.from_numpy(PHOTO), 'array CHW': lambda d: CHW.numpy(), 'array HWC': lambda d: PHOTO,
    'array turned twice': lambda d: PHOTO[..., ::-1].copy()[..., ::-1], 'array of big-endian floats': lambda d: (PHOTO / 255).astype('>f4'), 'Fortran order': lambda d: np.asfortranarray(PHOTO), 'read-only array': lambda d: np.frombuffer(PHOTO.tobytes(), np.uint8).reshape(PHOTO.shape),
    'floats': lambda d: CHW / 255, 'floats a little above 1': lambda d: CHW / 255 + 1e-5, 'double array': lambda d: PHOTO / 255, 'half floats': lambda d: (CHW / 255).half(), 'floats with a gradient': lambda d: (CHW / 255).requires_grad_(),
    'Pillow image': lambda d: Image.fromarray(PHOTO), 'Pillow image with alpha': lambda d: Image.fromarray(PHOTO).convert('RGBA'), 'Pillow image turned by EXIF': lambda d: turned(Image.fromarray(PHOTO)), 'path': written, 'path as text': lambda d: str(written(d)),
}


@pytest.mark.parametrize('form', SAME)
def test_a_picture_in_any_form_has_the_same_maps(net, expected, tmp_path, form):
    found = infer_cams(net, SAME[form](tmp_path), [1, 0, 1], SCALES)
    assert list(found) == [1, 3] and all(torch.equal(found[c], expected[c]) for c in found)


BAD_PICTURES = { # form: (the picture, what is said)
    'floats to 255': (CHW.float(), 'a float picture with values from'), 'normalised': ((CHW / 255 - .5) / .2, 'not normalised'), 'nan': (CHW / 255 * float('nan'), 'values from nan to nan'), 'int64': (CHW.long(), 'torch.int64; give uint8'), 'int32 array': (PHOTO.astype(np.int32), 'torch.int32'), 'bool': (CHW > 9, 'torch.bool'), 'uint16': (PHOTO.astype(np.uint16), 'the picture is uint16'),
    'complex': (PHOTO * 1j, 'complex128'), 'objects': (np.array([[None]]), 'object'), 'batch': (CHW[None], 'a batch'), 'grey': (CHW[0], 'a grey picture'), 'grey of one channel': (CHW[:1], 'a grey picture'), 'four channels': (np.dstack([PHOTO, PHOTO[..., :1]]), 'no RGB picture'), 'either order': (torch.zeros(3, 40, 3, dtype=torch.uint8), 'either order'),
    'no pixels': (CHW[:, :0], 'no RGB picture'), 'list': ([1, 2], 'the picture is list'), 'None': (None, 'the picture is NoneType'), '16-bit Pillow image': (Image.fromarray(PHOTO[..., 0].astype(np.uint16)), 'more than 8 bits each'), 'float Pillow image': (Image.fromarray(PHOTO[..., 0].astype(np.float32)), 'F pixels'), 'absent file': ('no/such.jpg', 'no such file'),
}


@pytest.mark.parametrize('form', BAD_PICTURES)
def test_a_picture_of_another_kind_is_refused(net, form):
    picture, text = BAD_PICTURES[form]
    for f in (lambda: infer_cams(net, picture, [1, 0, 1], SCALES), lambda: segment_image(net, picture)): refused(text, f)


def test_a_batch_is_one_of_pictures(net, expected):
    for images in (CHW[None], [PHOTO], (CHW / 255)[None], PHOTO[None]):
        assert torch.equal(infer_batch(net, images, [[1, 0, 1]], SCALES)[0][3], expected[3])
    for images, text in [([], 'no pictures'), (CHW[None][:0], 'no pictures'), (CHW, 'a grey picture'), ([CHW, CHW[:, 1:]], 'pictures of 2 sizes'), (None, 'no pictures')]: refused(text, lambda: infer_batch(net, images))


# Labels and ways of looking

@pytest.mark.parametrize('labels', [[1, 0, 1], (1., 0., 1.), np.array([1, 0, 1]), np.array([True, False, True]), torch.tensor([1, 0, 1]), torch.tensor([True, False, True]), torch.tensor([1., 0, 1.]).half()], ids=lambda x: f'{type(x).__name__}, {getattr(x, "dtype", "")}')
def test_labels_in_any_list(net, expected, labels):
    found = infer_cams(net, CHW, labels, SCALES)
    assert list(found) == [1, 3] and torch.equal(found[3], expected[3])


@pytest.mark.parametrize('labels, text', [([1, 0], 'labels (2,); give (3,)'), ([1, 0, 1, 0], 'labels (4,)'), ([], 'labels (0,)'), (1, 'labels ()'), (torch.ones(1, 3), 'labels (1, 3)'), (['cat', 'dog', 'cow'], 'not numbers'), ('cat', 'not numbers'), ([1, 3, 0], 'labels from 0 to 3'), ([.2, 0, 1], 'labels from 0 to 1; give 1'),
    ([-1, 0, 1], 'labels from -1'), ([np.nan, 0, 1], 'labels from nan'), ({1: 1}, 'not numbers'), ([None, 1, 0], 'not numbers'), ([[1], [0, 1]], 'not numbers')], ids=str)
def test_labels_of_another_kind_are_refused(net, labels, text): refused(text, lambda: infer_cams(net, CHW, labels, SCALES))


@pytest.mark.parametrize('ways, text', [(dict(scales=()), 'scales ()'), (dict(scales=(1., 0.)), 'each from .01 to 16'), (dict(scales=(-1,)), 'each from'), (dict(scales=1.), 'scales 1.0'), (dict(scales=(np.nan,)), 'scales (nan,)'), (dict(scales=('1',)), "scales ('1',)"), (dict(scales=(1e9,)), 'each from'), (dict(stride=0), 'stride 0'), (dict(stride=-4), 'stride -4'), (dict(stride=2.), 'stride 2.0')], ids=str)
def test_ways_of_looking_that_make_no_sense_are_refused(net, ways, text): refused(text, lambda: infer_cams(net, CHW, [1, 0, 1], **ways))


def networks():
    "{name: (network, how it infers)}"
    torch.manual_seed(0)
    make = lambda: CAMNet('resnet10t', 3, output_stride=32, pretrained=False)
    return dict(infer_cams=(make(), lambda n: infer_cams(n, CHW, [1, 0, 1], SCALES)[3]), infer_batch=(make(), lambda n: infer_batch(n, CHW[None], None, SCALES, stride=4) or 0), segment_image=(DeepLabV3('resnet10t', 4, 32, pretrained=False), lambda n: segment_image(n, CHW, SCALES)),
        infer_edge=(BoundaryNet(make()), lambda n: infer_edge(n, CHW)), infer_affinity=(AffinityNet(make()), lambda n: infer_affinity(n, CHW, 2)))


@pytest.mark.parametrize('name', networks())
def test_a_network_in_training_mode_is_as_it_was_afterwards(name):
    net, infer = networks()[name]
    once = infer(net.eval())
    modes = {k: m.training for k, m in net.train().named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    again = infer(net)
    assert torch.equal(once, again) if torch.is_tensor(once) else str(once) == str(again)
    assert modes == {k: m.training for k, m in net.named_modules()} and any(modes.values())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize('call', [lambda: tile(CHW, 2), lambda: merge(CHW[0], 2), lambda: tile(PHOTO[None], 2), lambda: random_walk(torch.rand(8, 8), torch.rand(8, 8)), *(lambda p=p: p(np.zeros((1, 2, 4, 4))) for p in POOLINGS.values()), *(lambda p=p: p(torch.zeros(3)) for p in POOLINGS.values())])
def test_parts_say_what_they_take(call): refused('', call)


# Maps of other programs

QUICK = recipe('quick', pictures=12, size=64, val='')
N = 12
CELLS = 16  # of a picture's side, 4 pixels each


@pytest.fixture(scope='module')
def scenes(): return dataset(QUICK, 'train')


def maps_of(samples, i):
    "{mask id: map (16,16)} of a picture's classes, each with a maximum of 1 in a place of its own"
    y, x = np.mgrid[:CELLS, :CELLS]
    return {c: np.exp(-((y - 3 - c) ** 2 + (x - 2 - i) ** 2) / 20).astype(np.float32) for c in samples.label_ids(i)}


def all_classes(maps, samples, before=0):
    "(before + C, 16, 16)"
    return np.stack([maps.get(c, np.zeros((CELLS, CELLS), np.float32)) for c in range(1 - before, len(samples.classes) + 1)])


def by_keys(name, keys=lambda ids: ids - 1, maps=lambda m: m):
    return lambda m, s: dict(keys=keys(np.array([*m])), **{name: maps(np.stack([*m.values()]))})


def npy(version):
    def write(path, content):
        with open(f'{path}.npy', 'wb') as f: np.lib.format.write_array(f, content, version)
    return write


def numpy_file(path, content): np.save(f'{path}.npy', content)
def zipped(path, content): np.savez(f'{path}.npz', content)
def zipped_names(path, content): np.savez_compressed(f'{path}.npz', **content)
def torch_file(end): return lambda path, content: torch.save(content, f'{path}{end}')
def tensors(path, content): save_file({k: torch.from_numpy(v.copy()) for k, v in content.items()}, f'{path}.safetensors')


def grey(name, most=255, kind=np.uint8):
    def write(path, content):
        for c, (m, classes) in content.items():
            file = Path(f'{path}{name(c, classes)}')
            file.parent.mkdir(exist_ok=True)
            Image.fromarray((most * m).round().astype(kind)).save(file)
    return write


def with_names(m, s): return {c: (x, s.classes) for c, x in m.items()}


PADDED, FIRST = (lambda ids: np.pad(ids, (1, 0))), (lambda m: np.concatenate([m[:1] * 0 + .5, m]))
LAYOUTS = { # name: (from {mask id: map} and the samples to what is written, how it is written, what is said)
    'array': (all_classes, numpy_file, ''), '.npy 2.0': (all_classes, npy((2, 0)), ''), '.npy 3.0': (all_classes, npy((3, 0)), ''), 'Fortran order': (lambda m, s: np.asfortranarray(all_classes(m, s)), numpy_file, ''),
    'float16': (lambda m, s: all_classes(m, s).astype(np.float16), numpy_file, ''), 'float64': (lambda m, s: all_classes(m, s).astype(float), numpy_file, ''), 'big-endian': (lambda m, s: all_classes(m, s).astype('>f4'), numpy_file, ''), 'uint8': (lambda m, s: (255 * all_classes(m, s)).round().astype(np.uint8), numpy_file, ''),
    '(h,w,C)': (lambda m, s: all_classes(m, s).transpose(1, 2, 0), numpy_file, ''), '(1,C,h,w)': (lambda m, s: all_classes(m, s)[None], numpy_file, ''), 'size of the picture': (lambda m, s: all_classes(m, s).repeat(4, 1).repeat(4, 2), numpy_file, ''),
    '(C+1,h,w)': (lambda m, s: all_classes(m, s, 1), numpy_file, "12 pictures whose background's map was kept"), 'given classes only': (lambda m, s: np.stack([*m.values()]), numpy_file, 'for the given classes in their order'),
    'psa': (lambda m, s: {c - 1: x for c, x in m.items()}, numpy_file, ''), 'numpy integers as keys': (lambda m, s: {np.int64(c - 1): x for c, x in m.items()}, numpy_file, ''), 'digits as keys': (lambda m, s: {str(c - 1): x for c, x in m.items()}, numpy_file, ''), 'tensors in a dictionary': (lambda m, s: {c - 1: torch.from_numpy(x) for c, x in m.items()}, numpy_file, ''),
    'names': (lambda m, s: {s.classes[c - 1]: x for c, x in m.items()}, numpy_file, ''), 'maps (1,h,w)': (lambda m, s: {c - 1: x[None] for c, x in m.items()}, numpy_file, ''), 'all classes as keys': (lambda m, s: dict(enumerate(all_classes(m, s))), numpy_file, ''),
    'irn': (by_keys('high_res'), numpy_file, ''), 'irn, strided': (by_keys('cam'), numpy_file, ''), 'Puzzle-CAM': (by_keys('hr_cam', PADDED), numpy_file, ''), 'CLIP-ES': (by_keys('attn_highres', maps=np.float16), numpy_file, ''), 'CLIP-ES, highres': (by_keys('highres'), numpy_file, ''),
    'SIPE': (by_keys('IS_CAM', PADDED, FIRST), numpy_file, "12 pictures whose background's map was kept"), 'prob with background': (by_keys('prob', maps=FIRST), numpy_file, "background's map was kept"), 'prob': (by_keys('prob'), numpy_file, ''), 'keys as tensors': (lambda m, s: dict(keys=torch.tensor([c - 1 for c in m]), high_res=torch.from_numpy(np.stack([*m.values()]))), numpy_file, ''),
    '.npz, arr_0': (all_classes, zipped, ''), '.npz, names': (lambda m, s: {s.classes[c - 1]: x for c, x in m.items()}, zipped_names, ''), '.npz, digits': (lambda m, s: {str(c - 1): x for c, x in m.items()}, zipped_names, ''), '.npz, keys': (by_keys('high_res'), zipped_names, ''), '.npz, keys are names': (lambda m, s: dict(keys=np.array([s.classes[c - 1] for c in m]), cam=np.stack([*m.values()])), zipped_names, ''),
    '.npz, one array by name': (lambda m, s: dict(cam=all_classes(m, s)), zipped_names, ''), '.npz, a dictionary': (lambda m, s: {c - 1: x for c, x in m.items()}, zipped, ''),
    '.pt, tensor': (lambda m, s: torch.from_numpy(all_classes(m, s)), torch_file('.pt'), ''), '.pth, dictionary': (lambda m, s: {c - 1: torch.from_numpy(x) for c, x in m.items()}, torch_file('.pth'), ''), '.pt, keys': (lambda m, s: dict(keys=[c - 1 for c in m], high_res=torch.from_numpy(np.stack([*m.values()]))), torch_file('.pt'), ''), '.pt, list': (lambda m, s: [torch.from_numpy(x) for x in all_classes(m, s)], torch_file('.pt'), ''),
    '.pt, half': (lambda m, s: torch.from_numpy(all_classes(m, s)).half(), torch_file('.pt'), ''), '.PT': (lambda m, s: torch.from_numpy(all_classes(m, s)), torch_file('.PT'), ''), '.safetensors, names': (lambda m, s: {s.classes[c - 1]: x for c, x in m.items()}, tensors, ''), '.safetensors, digits': (lambda m, s: {str(c - 1): x for c, x in m.items()}, tensors, ''),
    'PNG by name': (with_names, grey(lambda c, n: f'_{n[c - 1]}.png'), ''), 'PNG in folders': (with_names, grey(lambda c, n: f'/{n[c - 1]}.png'), ''), 'PNG by number': (with_names, grey(lambda c, n: f'_{c - 1}.png'), ''), 'PNG by padded number': (with_names, grey(lambda c, n: f'_{c - 1:03}.PNG'), ''), 'PNG of 16 bits': (with_names, grey(lambda c, n: f'_{n[c - 1]}.png', 65535, np.uint16), ''),
}


def imported(tmp_path, samples, change, write, r=QUICK):
    folder = tmp_path/'theirs'
    folder.mkdir()
    for i, id in enumerate(samples.ids): write(folder/id, change(maps_of(samples, i), samples))
    return import_cams(folder, tmp_path/'run', r, 'theirs', progress=False)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_maps_in_any_file(tmp_path, scenes, layout):
    from consistency_cam.experiments.imported import import_summary
    change, write, said = LAYOUTS[layout]
    run = imported(tmp_path, scenes, change, write)
    store = CamStore(run.folder/'cams'/'train')
    for i, id in enumerate(scenes.ids):
        found, wanted = store.get(id, full=False), maps_of(scenes, i)
        assert list(found) == list(wanted) and all(np.abs(found[c].numpy() - wanted[c]).max() < (.15 if layout == 'size of the picture' else .005) for c in wanted), id
    summary = import_summary(read_stage(run.folder/'cams'/'train'/'stage.json')['result'])
    assert said in summary and '0 given classes without a map' in summary and said or 'background' not in summary


def one_of(change):
    "The change for one class of the pictures only"
    return lambda m, s: {c - 1: change(x) if c == min(m) else x for c, x in m.items()}


def plain(change=lambda m: m): return lambda m, s: {c - 1: change(x) for c, x in m.items()}


WRONG = { # name: (what is written, how, what is said)
    'counts from 1': (lambda m, s: {c: x for c, x in m.items() if c < len(s.classes)}, numpy_file, 'they count from 1, or key 0 is the background'), 'key 0 is the background': (lambda m, s: {0: 1 - sum(m.values()).clip(0, 1)} | {c: x for c, x in m.items() if c < len(s.classes)}, numpy_file, 'they count from 1, or key 0 is the background'),
    'a key for each class and the background': (lambda m, s: dict(enumerate(all_classes(m, s, 1))), numpy_file, 'do they count from 1, or is key 0 the background?'), 'PNGs count from 1': (with_names, grey(lambda c, n: f'_{c}.png' if c < len(n) else '_0.png'), 'they count from 1'), 'keys count from 1': (by_keys('high_res', lambda ids: ids.clip(0, 9)), numpy_file, 'from 1'),
    'array without its first class': (lambda m, s: np.concatenate([all_classes(m, s)[1:], np.zeros((1, CELLS, CELLS), np.float32)]), numpy_file, 'they lack the first class'), 'array behind a background, without its last class': (lambda m, s: all_classes(m, s, 1)[:-1], numpy_file, 'key 0 is the background'),
    'zeros': (plain(lambda x: 0 * x), numpy_file, 'all maps are zero everywhere'), 'PNGs of 0 and 1': (with_names, grey(lambda c, n: f'_{n[c - 1]}.png', 1), 'all maps are zero everywhere'), 'other classes': (lambda m, s: {next(k for k in range(len(s.classes)) if not {k, k + 1, k + 2} & {*m}): next(iter(m.values()))}, numpy_file, 'of other pictures, or numbered by another list'),
    'logits': (one_of(lambda x: 9 * x - 4), numpy_file, 'values from -4 to 5; a CAM is 0 to 1'), 'to 255': (plain(lambda x: 255 * x), numpy_file, 'a CAM is 0 to 1'), '-1 to 1': (one_of(lambda x: 2 * (x - x.min()) / (x.max() - x.min()) - 1), numpy_file, 'values from -1 to 1'), 'nan': (one_of(lambda x: np.where(x > .5, np.nan, x)), numpy_file, 'values from nan'), 'infinite': (one_of(lambda x: x / 0), numpy_file, 'values from'),
    'other size': (plain(lambda x: x[1:]), numpy_file, 'a map (15, 16) for a picture of 64x64'), 'flat': (plain(lambda x: x.ravel()), numpy_file, 'a map (256,)'), 'array of other classes': (lambda m, s: all_classes(m, s)[:-1], numpy_file, 'a map for each class, or'), 'two backgrounds': (lambda m, s: all_classes(m, s, 2), numpy_file, 'a map for each class, or'), 'numbers': (lambda m, s: np.arange(9.), numpy_file, 'an array (9,)'),
    'no maps': (lambda m, s: {}, numpy_file, 'all maps are zero everywhere, or there are none'), 'unknown name': (lambda m, s: dict(katze=next(iter(m.values()))), numpy_file, "a map of class 'katze'"), 'negative key': (lambda m, s: {-1: next(iter(m.values()))}, numpy_file, 'a map of class -1'), 'key between classes': (lambda m, s: {1.5: next(iter(m.values()))}, numpy_file, 'a map of class 1.5'),
    'one class twice': (lambda m, s: {min(m) - 1: m[min(m)], str(min(m) - 1): m[min(m)]}, numpy_file, 'two maps of one class'), 'one key twice': (by_keys('high_res', lambda ids: ids * 0), numpy_file, 'of them different'), 'fewer keys': (by_keys('cam', lambda ids: ids[:0]), numpy_file, 'keys'), 'no maps by keys': (by_keys('rw'), numpy_file, 'none of hr_cam, high_res'),
    'texts': (lambda m, s: np.array(['a', 'b']), numpy_file, 'an array'), 'complex': (lambda m, s: all_classes(m, s) * 1j, numpy_file, 'no array of numbers'), 'structured': (lambda m, s: np.zeros(4, [('a', 'f4')]), numpy_file, 'no array of numbers'), 'list of objects': (lambda m, s: np.array([None, 1]), numpy_file, 'an object, but no dictionary'), 'dictionary in a dictionary': (lambda m, s: dict(cam=m), numpy_file, 'a dict where numbers are wanted'),
    'a call': (lambda m, s: {0: print}, numpy_file, 'it calls builtins.print'), '.npz of a call': (lambda m, s: print, zipped, 'it calls builtins.print'), 'arrays in a .pt': (lambda m, s: dict(m), torch_file('.pt'), 'it holds more than tensors'), 'a network in a .pth': (lambda m, s: {'conv1.weight': torch.zeros(4, 3, 3, 3)}, torch_file('.pth'), "a map of class 'conv1.weight'"),
    'texts for .npy': (None, lambda path, content: Path(f'{path}.npy').write_text('cams'), 'cannot be read'), 'empty .npz': (None, lambda path, content: Path(f'{path}.npz').write_bytes(b''), 'cannot be read'), 'damaged .pt': (None, lambda path, content: Path(f'{path}.pt').write_bytes(b'PK\3\4' * 9), 'cannot be read'), 'damaged .safetensors': (None, lambda path, content: Path(f'{path}.safetensors').write_bytes(b'\1' * 40), 'cannot be read'),
    'coloured PNG': (None, lambda path, content: Image.fromarray(PHOTO[:16, :16]).save(f'{path}_person.png'), 'no class of that name'), 'nothing': (None, lambda path, content: None, 'no maps of 12 of 12 pictures'), 'JPEG maps': (None, lambda path, content: Image.fromarray(PHOTO[..., 0]).save(f'{path}_cat.jpg'), 'no maps of 12 of 12 pictures'),
    'two files': (None, lambda path, content: (np.save(f'{path}.npy', np.zeros(1)), np.savez(f'{path}.npz', np.zeros(1))), 'keep one of them'), 'number beyond the classes': (None, lambda path, content: Image.fromarray(PHOTO[:16, :16, 0]).save(f'{path}_99.png'), "a map of class '99'"),
}


@pytest.mark.parametrize('name', WRONG)
def test_other_maps_are_refused(tmp_path, scenes, name):
    change, write, text = WRONG[name]
    with np.errstate(all='ignore'): refused(text, lambda: imported(tmp_path, scenes, change or (lambda m, s: None), write))
    assert not (tmp_path/'run').exists()


def test_maps_without_evidence_are_zeros_and_counted(tmp_path, scenes):
    from consistency_cam.experiments.imported import import_summary
    seam = lambda s: (s - s.min() - 1e-5) / (s.max() - s.min() + 1e-5)
    run = imported(tmp_path, scenes, one_of(lambda x: seam(0 * x)), numpy_file)
    for i, id in enumerate(scenes.ids): assert not CamStore(run.folder/'cams'/'train').get(id)[min(maps_of(scenes, i))].any()
    assert f'{N} maps without any evidence' in import_summary(read_stage(run.folder/'cams'/'train'/'stage.json')['result'])


def test_classes_without_a_map_and_maps_left_out_are_counted(tmp_path, scenes):
    from consistency_cam.experiments.imported import import_summary
    other = lambda m: next(c for c in range(1, 99) if c not in m)
    run = imported(tmp_path, scenes, lambda m, s: {c - 1: x for c, x in m.items() if c != max(m) or len(m) == 1} | {other(m) - 1: next(iter(m.values()))}, numpy_file)
    n = sum(len(scenes.label_ids(i)) for i in range(N)), sum(len(scenes.label_ids(i)) > 1 for i in range(N))
    assert import_summary(read_stage(run.folder/'cams'/'train'/'stage.json')['result']).startswith(f'{n[0]} maps of {N} pictures; {n[1]} given classes without a map, {N} maps of classes not given left out')


# predict

SMALL = '--recipe quick --pictures 2 --size 64 --epochs 1 --crop 64 --long-side 56 80 --method cam --batch-size 2 --quiet --backbone resnet10t --output-stride 32 --pretrained random --workers 0 --scales 1 --frozen-stages 0 --val= --until classify'.split()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')/'run'
    assert main(['run', str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def place(tmp_path):
    "Three pictures in a folder"
    for k, name in enumerate('abc'):
        (tmp_path/'new').mkdir(exist_ok=True)
        Image.fromarray(np.roll(PHOTO, 9 * k, 0)).save(tmp_path/'new'/f'{name}.jpg')
    return tmp_path


@pytest.fixture
def predict(trained, place, capsys):
    "(status, stdout, stderr) of `predict` on the three pictures, or others"
    def call(*more, pictures=('new',), out='out', run=trained):
        capsys.readouterr()
        status = main(['predict', str(run), *(str(place/p) for p in pictures), '--out', str(place/out), '--quiet', *map(str, more)])
        return status, *capsys.readouterr()
    return call


BAD_FILES = {'text': b'no picture', 'empty': b'', 'cut': None, 'tiny': (1, 1), 'of 16 bits': np.uint16, 'a bomb': (10_000, 10_000)}


@pytest.mark.parametrize('kind', BAD_FILES)
def test_a_bad_picture_leaves_the_others_their_masks(place, predict, kind):
    bad, content = place/'new'/'b.png', BAD_FILES[kind]
    (place/'new'/'b.jpg').rename(place/'good.jpg')
    if isinstance(content, bytes): bad.write_bytes(content)
    elif kind == 'cut': Image.fromarray(PHOTO).save(bad); bad.write_bytes(bad.read_bytes()[:4000])
    elif isinstance(content, tuple): Image.new('1', content).save(bad)
    else: Image.fromarray(PHOTO[..., 0].astype(content)).save(bad)
    status, out, err = predict()
    assert status == 1 and err.count('\n') == 1 and '1 of 3 pictures cannot be read, b.png' in err and f'no mask: {bad}: ' in out
    times = {n: (place/'out'/f'{n}.png').stat().st_mtime_ns for n in 'ac'}
    assert not (place/'out'/'b.png').exists() and predict()[0] == 1
    bad.unlink(); (place/'good.jpg').rename(place/'new'/'b.jpg')
    status, out, err = predict()
    assert (status, err) == (0, '') and '2 of 3 had theirs already' in out and (place/'out'/'b.png').exists()
    assert times == {n: (place/'out'/f'{n}.png').stat().st_mtime_ns for n in 'ac'}


def test_all_bad_and_only_one_bad(place, predict):
    for n in 'abc': (place/'new'/f'{n}.jpg').write_bytes(b'x')
    status, out, err = predict()
    assert status == 1 and '3 of 3 pictures cannot be read, a.jpg, b.jpg, c.jpg' in err and not (place/'out').exists()
    status, out, err = predict(pictures=['new/a.jpg'])
    assert status == 1 and 'a.jpg: not a picture' in err and not (place/'out').exists()


def test_a_mask_is_never_that_of_another_network_or_picture(place, predict, trained):
    assert predict()[0] == 0
    before = {p.name: p.read_bytes() for p in (place/'out').iterdir()}
    legend = json.loads(before['classes.json'])
    assert legend == {str(k): name for k, name in enumerate(Run(trained).class_names(), 1)}
    other = place/'other'
    for part in ('recipe.json', 'classify/stage.json', 'classify/weights.safetensors'): (other/part).parent.mkdir(parents=True, exist_ok=True); (other/part).write_bytes((trained/part).read_bytes())
    state = load_state(other/'classify'/'weights.safetensors')
    state['net']['classifier.weight'] *= 1.001
    save_state(other/'classify'/'weights.safetensors', state)
    for more in (dict(run=other), dict(args=['--classes', legend['1']]), dict(args=['--max-side', '64'])):
        status, out, err = predict(*more.get('args', ()), run=more.get('run', trained))
        assert status == 1 and 'a.png: exists already, made from another picture, by another network or with other settings' in err, more
    assert before == {p.name: p.read_bytes() for p in (place/'out').iterdir()}
    (place/'out'/'b.overlay.png').unlink()
    status, out, err = predict()
    assert status == 0 and '2 of 3 had theirs already' in out and before == {p.name: p.read_bytes() for p in (place/'out').iterdir() if p.suffix != '.jsonl'} | {k: v for k, v in before.items() if k.endswith('l')}
    Image.fromarray(PHOTO[::-1]).save(place/'new'/'c.jpg')
    assert predict()[0] == 1 and predict('--force')[0] == 0 and predict()[0] == 0
    assert predict(run=other)[0] == 1 and predict('--force', run=other)[0] == 0


def test_other_files_in_the_way_are_left_alone(place, predict):
    (place/'out').mkdir()
    for name, text in [('b.png', 'exists already'), ('classes.json', 'exists already, of other classes'), ('predictions.jsonl', 'no record of predictions')]:
        (place/'out'/name).write_bytes(b'mine\n')
        status, out, err = predict()
        assert status == 1 and text in err and [p.name for p in (place/'out').iterdir()] == [name] and (place/'out'/name).read_bytes() == b'mine\n'
        (place/'out'/name).unlink()


def test_where_masks_go(place, predict):
    assert predict(out='new')[0] == 1
    assert predict(out='new/masks')[0] == 0
    status, out, err = predict(out='new/masks')
    assert status == 0 and '3 of 3 had theirs already' in out and not list((place/'new'/'masks').glob('masks*'))
    status, out, err = predict(pictures=['new/a.jpg', 'new/c.jpg', 'new/a.jpg'], out='two')
    assert status == 0 and sorted(p.name for p in (place/'two').glob('*.png')) == ['a.overlay.png', 'a.png', 'c.overlay.png', 'c.png']


@pytest.mark.parametrize('name', ['a.png', 'a.overlay.jpg', 'more/../a.bmp'])
def test_two_pictures_never_share_a_mask(place, predict, name):
    (place/'new'/'more').mkdir()
    Image.fromarray(PHOTO).save(place/'new'/name)
    status, out, err = predict()
    assert status == 1 and 'would have the same mask or overlay' in err and not (place/'out').exists()


def test_nothing_found_is_called_by_that_name(place, predict, trained, monkeypatch):
    net = Run(trained).net()
    torch.nn.init.zeros_(net.classifier.weight)  # a probability of .5 for each class, which is not above .5
    monkeypatch.setattr(Run, 'net', lambda self: net)
    status, out, err = predict()
    assert status == 0 and out.count('no class found, the mask is background everywhere') == 3 and ', 3 of 3 without any class' in out
    assert not read_mask(place/'out'/'a.png').any()


@pytest.mark.parametrize('size, side, copy', [((160, 120), 768, False), ((160, 120), 80, True), ((800, 60), 768, True), ((160, 120), 0, False)])
def test_a_mask_is_as_large_as_its_picture(place, predict, size, side, copy):
    Image.fromarray(PHOTO).resize(size).save(place/'large.png')
    status, out, err = predict('--max-side', side, pictures=['large.png'])
    assert status == 0 and read_mask(place/'out'/'large.png').shape == size[::-1]
    assert (f'large.png: {size[1]} x {size[0]} pixels, looked at in a copy of at most {side} (--max-side)' in out) == copy
    with Image.open(place/'out'/'large.overlay.png') as im: assert max(im.size) == (side if copy else max(size))


@pytest.mark.parametrize('side', [-1, 1, 10**9])
def test_copies_of_no_size_are_refused(predict, side):
    status, out, err = predict('--max-side', side)
    assert status == 1 and f'max-side {side}: give 64 to 16,384 pixels, or 0' in err


def test_prediction_of_a_segmenter_in_a_copy(trained):
    torch.manual_seed(0)
    run, net = Run(trained), DeepLabV3('resnet10t', len(Run(trained).class_names()) + 1, 32, pretrained=False)
    name = run.class_names()[1]
    mask, maps = run.predict(Image.fromarray(PHOTO).resize((160, 120)), [name], net.train(), side=80)
    assert mask.shape == (120, 160) and [*maps] == [2] and maps[2].shape == (60, 80) and {*mask.unique().tolist()} <= {0, 2} and net.training


MEASURED = 'import resource, sys; from consistency_cam.cli import main; status = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20); sys.exit(status)'


@pytest.mark.slow
def test_a_photograph_of_twelve_megapixels_takes_little_memory(place, trained, figure):
    Image.fromarray(PHOTO).resize((4000, 3000)).save(place/'large.jpg')
    done = subprocess.run([sys.executable, '-c', MEASURED, 'predict', str(trained), str(place/'large.jpg'), '--out', str(place/'out')], env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '3000 x 4000 pixels, looked at in a copy of at most 768' in done.stdout and read_mask(place/'out'/'large.png').shape == (3000, 4000)
    peak = float(done.stdout.split()[-1])
    assert peak < 2, f'{peak:.2f} GiB'
    figure('a photograph of 12 megapixels', f'{peak:.1f} GiB')
