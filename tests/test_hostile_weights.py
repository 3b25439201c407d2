"""Files that would run something if they were unpickled: none does, each ends in an error that names it."""
import functools
import importlib
import io
import json
import os
import pickle
import re
import warnings
from pathlib import PurePosixPath

import nbformat
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from consistency_cam.camnet import CAMNet, WeightsError, read_weights
from consistency_cam.cams import CamStore
from consistency_cam.files.checkpoint import StageFolder, load_state, stage_fingerprint, read_metrics, write_json
from consistency_cam.cli import main
from consistency_cam.datasets.folder import Folder
from consistency_cam.experiments.imported import read_arrays
from consistency_cam.report.paper import open_source
from consistency_cam.experiments.pipeline import Run
from consistency_cam.pseudo import pseudo_labels
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError, read_ids, read_image, read_labels, read_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.tools.training import restore
from consistency_cam.datasets.voc import VOC
from notebooks import ROOT, notebooks


class Hostile:
    "Unpickled, it leaves a file behind"
    def __init__(self, marker): self.marker = str(marker)
    def __reduce__(self): return open, (self.marker, 'w')


def saved(content, **options):
    "What `torch.save` writes, as bytes"
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def hostile_files(marker):
    "{what it is: bytes}, all of which run something where somebody unpickles them"
    evil, objects, arrays, maps = Hostile(marker), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(maps, dict(keys=np.array([0]), cam=torch.ones(1, 4, 4), high_res=evil))
    np.save(objects, np.array([evil], dtype=object), allow_pickle=True)
    np.savez(arrays, cams=np.array([evil], dtype=object))
    return {
        **{f'pickle, protocol {n}': pickle.dumps(evil, n) for n in (0, 2, 4, 5)},
        'pickled dictionary': pickle.dumps(dict(state_dict=evil, keys=[1], high_res=evil)),
        'torch.save': saved(dict(state_dict={'conv.weight': torch.ones(2)}, run=evil)),
        'torch.save of old': saved(dict(weight=torch.ones(2), run=evil), _use_new_zipfile_serialization=False),
        'object array .npy': objects.getvalue(),
        'object array .npz': arrays.getvalue(),
        'dictionary of maps .npy': maps.getvalue(),
    }


def at(path, content):
    "The path, after the content was written there"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tiny_run(folder): return Run(folder, recipe('quick', pictures=8, size=64, crop=64, backbone='resnet10t', pretrained='random', pretrain='one-label'), progress=False)


def a_run(folder, name, content):
    "A folder of a run that holds the file"
    write_json(folder/'recipe.json', dict(data='scenes', train='train', backbone='resnet10t'))
    at(folder/name, content)
    return Run(folder, progress=False)


def picture(folder):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (32, 32)).save(folder/'a.png')
    return folder


def from_store(folder, content):
    store = CamStore(folder, ['cat'])
    at(store.path('a'), content)
    return store.get('a')


def from_voc(folder, content):
    picture(folder/'JPEGImages')
    at(folder/'ImageSets'/'Segmentation'/'train.txt', b'a\n')
    at(folder/'image_labels.csv', content)
    return VOC(folder, 'train', labels='csv')


def from_manifest(folder, content):
    "Pseudo-labels that are said to be done, and whose manifest is the file"
    samples = Scenes(1, size=64)
    store = CamStore(folder/'cams', samples.classes)
    store.put(samples.ids[0], {1: torch.ones(16, 16)}, (64, 64))
    pseudo_labels(samples, store, folder/'pseudo', workers=0, progress=False)
    at(folder/'pseudo'/'manifest.json', content)
    return pseudo_labels(samples, store, folder/'pseudo', workers=0, progress=False)


PLACES = { # where such a file may be put, and what reads it there: a function of a new folder and the file's bytes
    **{f'weights{end}': lambda d, b, end=end: read_weights(at(d/f'weights{end}', b)) for end in ('.pth', '.pt', '.bin', '.pkl', '.npy', '.safetensors')},
    'weights of a network': lambda d, b: CAMNet('resnet10t', 2, pretrained=at(d/'w.pth', b)),
    'pre-trained backbone of a run': lambda d, b: (at(d/'pretrain'/'backbone.safetensors', b), tiny_run(d).make_net()),
    'checkpoint': lambda d, b: load_state(at(d/'checkpoint.safetensors', b)),
    'checkpoint to go on from': lambda d, b: restore(load_state(p := at(d/'checkpoint.safetensors', b)), p, torch.nn.Linear(2, 2), None, None),
    'classifier of a run': lambda d, b: a_run(d, 'classify/weights.safetensors', b).net(),
    'segmenter of a run': lambda d, b: a_run(d, 'segment/weights.safetensors', b).best_net(),
    'CAM in a store': from_store,
    'list of a CAM store': lambda d, b: CamStore(at(d/'store.json', b).parent),
    'labels as CSV': lambda d, b: read_labels(at(d/'labels.csv', b)),
    'labels of a folder as .npy': lambda d, b: Folder(picture(d/'pictures'), at(d/'cls_labels.npy', b)),
    'labels of VOC': from_voc,
    'list of ids': lambda d, b: read_ids(at(d/'train.txt', b)),
    'picture': lambda d, b: read_image(at(d/'a.jpg', b)),
    'mask': lambda d, b: read_mask(at(d/'a.png', b)),
    'recipe of a run': lambda d, b: Run(at(d/'recipe.json', b).parent),
    'record of a stage': lambda d, b: StageFolder(at(d/'stage.json', b).parent, {}),
    'record of the stage before': lambda d, b: stage_fingerprint(at(d/'stage.json', b).parent),
    'figures of a run': lambda d, b: a_run(d, 'evaluate/cams/stage.json', b).figures(),
    'losses of a run': lambda d, b: read_metrics(at(d/'metrics.jsonl', b + b'\n')),
    'manifest of pseudo-labels': from_manifest,
    **{f'CAMs of another program as {end}': lambda d, b, end=end: read_arrays(at(d/f'a{end}', b)) for end in ('.npy', '.npz')},
    'figures for a plot': lambda d, b: open_source(at(d/'figures.json', b)),
}


def test_no_file_is_unpickled(tmp_path, figure):
    "Every kind of file in every place: nothing runs, and the error is one line that names the file"
    marker, refused = tmp_path/'it_ran', 0
    warnings.simplefilter('error') # a warning would be a second line on somebody's terminal
    for kind, content in hostile_files(marker).items():
        for n, (place, read) in enumerate(PLACES.items()):
            case = f'{kind} as {place}'
            with pytest.raises(InputError) as error: pytest.fail(f'{case} was read: {read(tmp_path/kind/str(n), content)}', pytrace=False)
            said = str(error.value)
            assert not marker.exists(), f'{case} ran'
            assert '\n' not in said and str(tmp_path/kind/str(n)) in said, f'{case}: {said}'
            assert 'weights_only' not in said, f'{case} says how to read it all the same: {said}'
            refused += 1
    figure('hostile pickles', f'{refused} refused ({len(hostile_files(marker))} kinds in {len(PLACES)} places), none ran')


def test_these_files_do_run_where_they_are_unpickled(tmp_path):
    "The test above would see it"
    for n, (kind, content) in enumerate(hostile_files(tmp_path/'ran').items()):
        if kind.startswith('pickle'): pickle.loads(content)
        elif kind.startswith('torch'): torch.load(io.BytesIO(content), weights_only=False)
        else:
            found = np.load(io.BytesIO(content), allow_pickle=True)
            if kind.endswith('.npz'): found['cams']
        assert (tmp_path/'ran').exists(), kind
        (tmp_path/'ran').unlink()


@pytest.mark.parametrize('kind', ['pickle, protocol 0', 'pickle, protocol 2', 'pickle, protocol 4', 'torch.save', 'torch.save of old'])
def test_the_error_names_what_a_file_calls(tmp_path, kind):
    path = at(tmp_path/'w.pth', hostile_files(tmp_path/'it_ran')[kind])
    with pytest.raises(WeightsError, match=r'it calls \S*open, and a file of weights calls nothing'): read_weights(path)


@pytest.mark.parametrize('content', [[1, 2], dict(state_dict=[1]), {0: torch.ones(1)}, dict(epoch=7), {}, torch.ones(3)], ids=str)
def test_a_file_without_named_tensors_is_no_weights(tmp_path, content):
    torch.save(content, tmp_path/'w.pth')
    with pytest.raises(WeightsError, match='no state dict'): read_weights(tmp_path/'w.pth')


@pytest.mark.parametrize('content', [b'', b'\xff' * 8 + b'{}', b'\x08' + b'\0' * 7 + b'{"a": 1}', (2**40).to_bytes(8, 'little') + b'{}'], ids=['empty', 'endless header', 'no tensors', 'large header'])
def test_damaged_safetensors_are_named(tmp_path, content):
    path = at(tmp_path/'w.safetensors', content)
    with pytest.raises(WeightsError, match='not safetensors'): read_weights(path)
    with pytest.raises(InputError, match='not a readable checkpoint'): load_state(path)
    with pytest.raises(InputError, match='damaged CAM file'): from_store(tmp_path/'store', content)


@pytest.mark.parametrize('ids, shape, size', [([1], (1, 4, 4), [10**9, 10**9]), ([1, 2], (1, 4, 4), [16, 16]), ([1], (4, 4), [16, 16]), ([1], (1, 4, 4), [-16, 16]), ([1], (1, 4, 4), None), ([1], (1, 4, 4), [16.5, 16])], ids=str)
def test_a_stored_cam_that_does_not_fit_itself_is_damaged(tmp_path, ids, shape, size):
    "A size from a file would otherwise decide how much memory is taken"
    content = safetensors.torch.save(dict(cams=torch.zeros(shape).half(), ids=torch.tensor(ids, dtype=torch.int32)), dict(size=json.dumps(size)))
    with pytest.raises(InputError, match='damaged CAM file'): from_store(tmp_path, content)


def test_the_command_refuses_a_hostile_file_in_one_line(tmp_path, capsys):
    path = at(tmp_path/'w.pth', hostile_files(tmp_path/'it_ran')['torch.save'])
    assert main(['run', str(tmp_path/'run'), '--pretrained', str(path), '--pictures', '8', '--quiet']) == 1
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and f'{path}: refused, it calls' in said and not (tmp_path/'it_ran').exists()


class Calling:
    "Pickled as a call of one function with some arguments, and a state"
    def __init__(self, function, arguments=(), state=None): self.said = function, arguments, state
    def __reduce__(self): return self.said


def maps_file(path, content):
    "What `np.save` makes of a dictionary"
    np.save(path, content)
    return path


@pytest.mark.parametrize('name, call', {
    'builtins.open': Calling(open, ('it_ran', 'w')), 'builtins.eval': Calling(eval, ('1 + 1',)), 'builtins.getattr': Calling(getattr, (1, 'real')), 'posix.system': Calling(os.system, ('true',)),
    'numpy.load': Calling(np.load, ('x.npy',)), 'numpy.fromfile': Calling(np.fromfile, ('x',)), 'torch.serialization.load': Calling(torch.load, ('x',)), 'functools.partial': Calling(functools.partial, (print, 1)), 'pathlib': PurePosixPath('x'),
    'importlib.import_module': Calling(importlib.import_module, ('antigravity',)),
}.items(), ids=lambda x: x if isinstance(x, str) else 'called')
@pytest.mark.parametrize('depth', ['value', 'key', 'state'])
def test_a_file_of_maps_calls_nothing(tmp_path, monkeypatch, name, call, depth):
    monkeypatch.chdir(tmp_path)
    content = dict(value=lambda: dict(keys=np.array([0]), high_res=call), key=lambda: {Hashed(call): np.ones(3)}, state=lambda: dict(high_res=np.array([call], dtype=object)))[depth]()
    with pytest.raises(InputError, match='a file of CAMs calls nothing') as error: read_arrays(maps_file(tmp_path/'a.npy', content))
    assert '\n' not in str(error.value) and str(tmp_path/'a.npy') in str(error.value) and name.split('.')[-1] in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ['a.npy']


class Hashed:
    "A key whose pickle is that of what it holds"
    def __init__(self, held): self.held = held
    def __reduce__(self): return self.held.__reduce__()


def dictionary_file(path, content):
    "A .npy file whose pickle is given byte by byte"
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(descr='|O', fortran_order=False, shape=()))
    return at(path, file.getvalue() + content)


@pytest.mark.parametrize('content', {
    'nothing': b'', 'no pickle': b'\xff' * 20, 'endless bytes': b'\x80\x04\x8e' + (2**40).to_bytes(8, 'little') + b'.', 'endless bytearray': b'\x80\x05\x96' + (2**40).to_bytes(8, 'little') + b'.', 'endless memo': b'\x80\x02Nr\xff\xff\xff\x7f.', 'endless number': b'\x80\x02\x8b\xff\xff\xff\x7f.',
    'extension': b'\x80\x02\x82\x01.', 'persistent id': b'Pid\n.', 'itself': b'\x80\x04}\x94\x8c\x01a\x94h\x00s.', 'class of a module that is loaded': b'cos\nsystem\n.', 'attribute of a known name': b'\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.', 'old way of objects': b'(ios\nsystem\n.', 'state of a class': b'\x80\x02cnumpy\ndtype\n}b.', 'items of a call': b'\x80\x02cnumpy\ndtype\n)R(K\x01K\x02u.',
    'array of objects': pickle.dumps(np.array([{'a': np.array([None, 1], dtype=object)}], dtype=object)), 'array shorter than its shape': pickle.dumps(np.ones(100)).replace(b'Kd\x85', b'Kc\x85'), 'list': pickle.dumps([1, 2]), 'dictionary without an array around it': pickle.dumps({'keys': [1]}),
}.items(), ids=lambda x: x[0])
def test_damaged_maps_are_named(tmp_path, content):
    path = dictionary_file(tmp_path/'a.npy', content[1])
    with pytest.raises(InputError) as error: read_arrays(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('change', [dict(size=(2**40,), stride=(0,)), dict(size=(8,), stride=(1,)), dict(offset=4), dict(size=(-1,), stride=(1,)), dict(offset=-1), dict(storage='other')], ids=str)
def test_a_tensor_of_a_file_of_maps_reads_its_own_numbers_only(tmp_path, change):
    from torch._utils import _rebuild_tensor_v2
    said = dict(storage=torch.storage.TypedStorage(wrap_storage=torch.arange(4.).untyped_storage(), dtype=torch.float32, _internal=True), offset=0, size=(4,), stride=(1,)) | change
    if said['storage'] == 'other': said['storage'] = Calling(torch.storage._load_from_bytes, (saved(Hostile(tmp_path/'it_ran')),))
    with pytest.raises(InputError, match='a.npy: ') as error: read_arrays(maps_file(tmp_path/'a.npy', dict(keys=[1], cam=Calling(_rebuild_tensor_v2, (*said.values(), False, {})))))
    assert '\n' not in str(error.value) and 'weights_only' not in str(error.value) and not (tmp_path/'it_ran').exists()


# The source

FORBIDDEN = r'pickle\.(?:load|Unpickler)|c?[Pp]ickle import|\bdill\b|\bcloudpickle\b|joblib\.load|allow_pickle\s*=\s*True|weights_only\s*=\s*False|yaml\.(?:load|unsafe_load|full_load)|marshal\.load|shelve\.open|(?<![\w.])eval\(|(?<![\w.])exec\(|os\.system\(|shell\s*=\s*True'
ALLOWED = { # file: reason
    **{f: 'a subclass that calls nothing of what a file names; the notebook shows it' for f in ('consistency_cam/experiments/imported.py', 'nbs/experiments/08_imported.ipynb')},
    **{f'nbs/explore/{name}.ipynb': 'a test runs the lines of Python that its own explorer has just shown' for name in ('03_cams', '04_views', '05_pooling', '06_iterated', '07_walk', '08_results', '09_own_picture', '11_corrections')},
}


def code():
    "(file, number of its line or cell, text) of the package, the benchmarks and the notebooks' code"
    for path in sorted([*ROOT.glob('consistency_cam/**/*.py'), *ROOT.glob('benchmarks/*.py'), ROOT/'setup.py']):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding='utf-8')
    for path in notebooks():
        yield path.relative_to(ROOT).as_posix(), '\n'.join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code')


def test_nothing_in_the_source_unpickles_or_runs_text():
    found = [(name, line.strip()) for name, text in code() for line in text.splitlines() if re.search(FORBIDDEN, line)]
    assert not [f'{name}: {line}' for name, line in found if name not in ALLOWED]
    assert {name for name, _ in found} == set(ALLOWED), 'the list of exceptions names files that need none'


def test_every_load_is_the_safe_one():
    lines = [(name, line.strip()) for name, text in code() for line in text.splitlines() if re.search(r'(?:torch|np|numpy)\.load\(', line)]
    assert lines and not [f'{name}: {line}' for name, line in lines if 'torch.load(' in line and 'weights_only=True' not in line]
