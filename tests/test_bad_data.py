"""Data that is not as it should be, disks that are full and folders that are closed: one line, and nothing half-made that looks whole."""
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from consistency_cam import crf

from consistency_cam.datasets import scan
from consistency_cam.cams import CamStore
from consistency_cam.datasets.folder import Folder
from consistency_cam.pseudo import PseudoSetting, pseudo_labels
from consistency_cam.datasets.samples import InputError, write_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.datasets.voc import CLASSES, VOC
from commands import command

TINY = ('--method cam --backbone resnet10t --pretrained random --epochs 1 --batch-size 4 --crop 64 --long-side 56 80 --affinity none --no-pseudo-crf --no-segment-crf --segment-scales 1 --segment-epochs 1 '
        '--segment-batch-size 4 --segment-crop 64 --segment-long-side 56 80 --quiet').split()


@contextlib.contextmanager
def full(limit):
    "No file can grow beyond so many bytes, as on a disk that is full"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)


def one_line(done, *said):
    assert done.status == 1 and done.err.count('\n') == 1 and done.err.startswith('consistency-cam: error: ') and all(s in done.err for s in said), done.err


def pictures(scenes, root, split, prefix):
    ids = [f'{prefix}_{i:06d}' for i in range(len(scenes))]
    for folder in ('JPEGImages', 'ImageSets/Segmentation'): (root/folder).mkdir(parents=True, exist_ok=True)
    for i, id in enumerate(ids): Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(root/'JPEGImages'/f'{id}.jpg', quality=95)
    (root/'ImageSets'/'Segmentation'/f'{split}.txt').write_text('\n'.join(ids) + '\n')
    return ids


@pytest.fixture(scope='module')
def ground(tmp_path_factory):
    "VOC in small, with test pictures of which nothing is known, a run on it up to a segmenter, and maps of another program"
    d = tmp_path_factory.mktemp('voc'); root, scenes = d/'VOC2012', Scenes(8, size=64)
    ids = pictures(scenes, root, 'train', '2007')
    for i, id in enumerate(ids): write_mask(scenes.mask(i), root/'SegmentationClass'/f'{id}.png')
    (root/'image_labels.csv').write_text('id,labels\n' + '\n'.join(f'{id},{" ".join(CLASSES[c - 1] for c in scenes.label_ids(i))}' for i, id in enumerate(ids)) + '\n')
    pictures(Scenes(5, size=80, seed=1), d/'VOC2012test', 'test', '2008')
    (d/'maps').mkdir()
    for id in ids: np.save(d/'maps'/f'{id}.npy', np.full((20, 16, 16), .5, np.float32))
    done = command('run', d/'run', *data(d), '--val=', *TINY)
    assert done.status == 0, done.err
    return d


def data(ground): return ['--data', 'voc', '--root', ground/'VOC2012', '--labels', 'csv', '--train', 'train']


# Pictures of which nothing is known

def test_cams_of_the_test_split_are_of_the_predicted_classes(ground):
    done = command('cams', ground/'run', '--split', 'test', '--quiet')
    assert done.status == 0 and 'test: CAMs of 5 pictures' in done.out and 'of the classes predicted above .5, as it has no labels' in done.out, done.err
    from consistency_cam.cams import infer
    from consistency_cam.experiments.pipeline import Run
    run, store = Run(ground/'run', progress=False), CamStore(ground/'run'/'cams'/'test')
    samples, r = run.samples('test'), run.recipe
    assert store.ids() == samples.ids
    wanted = {samples.ids[i]: {*cams} for i, _, cams in infer(run.net(), samples, None, False, r.cams.scales, r.cams.mirror, 4)}
    assert any(wanted.values()) and {id: {*store.get(id)} for id in samples.ids} == wanted
    assert command('cams', ground/'run', '--split', 'train', '--quiet').out.rstrip().endswith('of the given labels')


def test_verify_looks_at_the_test_split(ground, tmp_path):
    for place in ([ground/'VOC2012test'], [ground/'VOC2012', '--train', 'test', '--val=']):
        done = command('verify', *place, '--quiet', '--workers', 0)
        assert done.status == 0 and 'voc (test): 5 pictures, 0 masks: no problem, 0 notes' in done.out, done.out
    shutil.copytree(ground/'VOC2012test', tmp_path/'VOC2012test')
    lists = tmp_path/'VOC2012test'/'ImageSets'/'Segmentation'/'test.txt'
    lists.write_text(lists.read_text() + '../2008_000000\n'); (tmp_path/'VOC2012test'/'JPEGImages'/'2008_000003.jpg').unlink()
    done = command('verify', tmp_path/'VOC2012test', '--quiet', '--workers', 0)
    assert done.status == 1 and '5 pictures, 0 masks: 2 problems' in done.out and "test.txt, line 6: '../2008_000000' is not an id" in done.out and '2008_000003.jpg: no such file' in done.out, done.out


# Lists as other programs write them

def test_blank_lines_and_windows_line_ends(tmp_path):
    for name, text in dict(plain='id,labels,split\na,cat,train\nb,dog,val\nc,cat dog,train\n', windows='\ufeffid,labels,split\r\n\r\na,cat,train\r\n \r\nb,dog,val\r\nc,cat dog,train\r\n\r\n').items():
        (tmp_path/f'{name}.csv').write_bytes(text.encode())
    for id in 'abc': Image.new('RGB', (20, 16)).save(tmp_path/f'{id}.png')
    plain, windows = (Folder(tmp_path, tmp_path/f'{name}.csv', split='train') for name in ('plain', 'windows'))
    assert (windows.ids, windows.classes, windows.labels.tolist()) == (plain.ids, plain.classes, plain.labels.tolist()) == (['a', 'c'], ['cat', 'dog'], [[1, 0], [1, 1]])

    root = tmp_path/'VOC2012'
    ids = pictures(Scenes(3, size=64), root, 'train', '2007')
    (root/'image_labels.csv').write_bytes(('\ufeffid,labels\r\n' + ''.join(f'{id},cat\r\n\r\n' for id in ids)).encode())
    for text in ('\r\n'.join(['', *ids, '', '']), '\ufeff' + '\r\n\r\n'.join(ids), '\n\n'.join(ids), '\r'.join(ids) + '\x20\t\r\n'):
        (root/'ImageSets'/'Segmentation'/'train.txt').write_bytes(text.encode())
        assert VOC(root, 'train').ids == ids, repr(text)


# One mask of a thousand

@pytest.fixture(scope='module')
def thousand(tmp_path_factory):
    "The same picture and mask a thousand times, in VOC's layout and with a table; one mask is missing"
    d = tmp_path_factory.mktemp('thousand'); root = d/'VOC2012'
    pictures(Scenes(1, size=64), root, 'train', '2007')
    ids, jpeg = [f'2007_{i:06d}' for i in range(1000)], (root/'JPEGImages'/'2007_000000.jpg').read_bytes()
    write_mask(np.full((64, 64), 8), root/'SegmentationClass'/'2007_000000.png')
    png = (root/'SegmentationClass'/'2007_000000.png').read_bytes()
    for id in ids: (root/'JPEGImages'/f'{id}.jpg').write_bytes(jpeg); (root/'SegmentationClass'/f'{id}.png').write_bytes(png)
    (root/'ImageSets'/'Segmentation'/'train.txt').write_text('\n'.join(ids))
    (root/'image_labels.csv').write_text('id,labels\n' + ''.join(f'{id},cat\n' for id in ids))
    shutil.copytree(root/'SegmentationClass', root/'own'); write_mask(np.ones((64, 64), int), root/'own'/'2007_000000.png')
    for id in ids[1:]: shutil.copy(root/'own'/'2007_000000.png', root/'own'/f'{id}.png')
    for folder in ('SegmentationClass', 'own'): (root/folder/'2007_000737.png').unlink()
    return root


def test_verify_and_a_run_name_the_mask_that_is_missing(thousand, tmp_path):
    done = command('verify', thousand, '--quiet')
    assert done.status == 1 and '1,000 pictures, 1,000 masks: 1 problem (1 MaskError)' in done.out and 'SegmentationClass/2007_000737.png: no such file' in done.out, done.out
    one_line(command('run', tmp_path/'run', '--data', 'voc', '--root', thousand, '--train', 'train', '--val=', *TINY), 'SegmentationClass/2007_000737.png: no such file')
    assert not (tmp_path/'run'/'classify'/'weights.safetensors').exists()


def test_in_a_folder_a_missing_mask_is_a_note_and_a_warning(thousand, tmp_path):
    "for there a picture need not have one"
    own = ['--data', 'folder', '--root', thousand/'JPEGImages', '--labels', thousand/'image_labels.csv', '--masks', thousand/'own', '--train', 'all', '--val=']
    lost = 'own: no mask for 1 of 1000 pictures, the first is 2007_000737.png'
    done = command('verify', *own, '--quiet')
    assert lost in done.err and done.status == 0, done.err
    assert 'has no mask, as nearly all others have; the first is ' in done.out and 'JPEGImages/2007_000737.jpg' in done.out, done.out
    done = command('run', tmp_path/'run', *own, '--pictures', 8, '--until', 'classify', *TINY)
    assert lost in done.err and done.status == 0, done.err


def test_a_class_of_a_single_picture_is_a_note(thousand, tmp_path):
    rows = (thousand/'image_labels.csv').read_text().splitlines()[:31]
    (tmp_path/'labels.csv').write_text('\n'.join([*rows[:20], *(row.replace('cat', 'dog') for row in rows[20:29]), rows[29].replace('cat', 'dgo'), rows[30].replace('cat', 'horse')]))
    done = command('verify', '--data', 'folder', '--root', thousand/'JPEGImages', '--labels', tmp_path/'labels.csv', '--quiet', '--workers', 0)
    assert done.status == 0 and "a class of 1 picture, like 'dog' of 9; is it a slip?; the first is dgo" in done.out and 'a class of 1 picture; the first is horse' in done.out, done.out


# Full disks and closed folders

def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()} if folder.exists() else {}


@pytest.mark.parametrize('form', ['png', 'coco', 'folder'])
def test_export_is_whole_or_not_there(ground, tmp_path, form):
    if form == 'coco': pytest.importorskip('pycocotools')
    export = lambda out: command('export', ground/'run', '--as', form, '--out', out)
    assert export(tmp_path/'whole').status == 0
    sizes = sorted({len(content) for content in tree(tmp_path/'whole').values()})
    for limit in (sizes[0] - 1, sizes[-1] - 1):  # no file fits, or all but the largest
        with full(limit): one_line(export(tmp_path/'out'), 'cannot be written (File too large)')
        assert [p.name for p in tmp_path.iterdir()] == ['whole']
    (tmp_path/'file').touch()
    one_line(export(tmp_path/'file'/'out'), 'file/out: cannot be written (')
    assert export(tmp_path/'out').status == 0 and tree(tmp_path/'out') == tree(tmp_path/'whole')


def test_submission_is_whole_or_not_there(ground, tmp_path):
    submit = lambda out: command('submit', 'voc', ground/'run', '--out', out, '--quiet')
    with full(100): one_line(submit(tmp_path/'out'), 'cannot be written (File too large)')
    assert submit(tmp_path/'whole').status == 0
    archive = tmp_path/'whole'/'voc2012_comp5_test.tar.gz'
    assert max(len(c) for n, c in tree(tmp_path/'whole').items() if n.endswith('.png')) < archive.stat().st_size, 'all but the archive fits'
    with full(archive.stat().st_size - 1): one_line(submit(tmp_path/'out'), 'voc2012_comp5_test.tar.gz: cannot be written (File too large)')
    assert tree(tmp_path/'out') == {}
    (tmp_path/'file').touch()
    one_line(submit(tmp_path/'file'/'out'), 'cannot be written (')
    assert submit(tmp_path/'out').status == 0 and tree(tmp_path/'out') == tree(tmp_path/'whole')


def test_import_that_is_cut_off_is_taken_up(ground, tmp_path):
    bring = lambda into: command('import-cams', ground/'maps', into, *data(ground), '--val=', '--quiet')
    assert bring(tmp_path/'whole').status == 0
    stored = [len(c) for n, c in tree(tmp_path/'whole').items() if n.endswith('.safetensors')]
    for limit in (20, max(stored) - 1):
        with full(limit): one_line(bring(tmp_path/'run'), 'cannot be written (File too large)')
        assert 'result' not in json.loads((tmp_path/'run'/'cams'/'train'/'stage.json').read_text() if (tmp_path/'run'/'cams'/'train'/'stage.json').exists() else '{}'), 'it does not look finished'
        one_line(command('cams', tmp_path/'run', '--quiet'), 'no imported CAMs' if (tmp_path/'run'/'recipe.json').exists() else 'not a run')
    (tmp_path/'file').touch()
    one_line(bring(tmp_path/'file'/'run'), 'file')
    assert bring(tmp_path/'run').status == 0
    maps = lambda folder: {n: c for n, c in tree(folder/'cams').items() if n.endswith('.safetensors')}
    assert maps(tmp_path/'run') == maps(tmp_path/'whole')


def test_what_verify_writes_is_whole_or_goes_on(thousand, tmp_path):
    look = lambda *more: command('verify', thousand, '--quiet', '--workers', 0, *more)
    with full(50_000): one_line(look('--record', tmp_path/'record'), 'record: cannot be written (File too large)')
    whole = look()
    assert look('--record', tmp_path/'record').out == whole.out, 'a record that was cut off is gone on with'
    with full(10): one_line(look('--report', tmp_path/'report.txt'), 'report.txt: cannot be written (File too large)')
    assert [p.name for p in tmp_path.iterdir()] == ['record']
    (tmp_path/'file').touch()
    for option in ('--record', '--report'): one_line(look(option, tmp_path/'file'/'x'), 'file/x')


# Processes that are killed from outside, as by a system that is short of memory

@contextlib.contextmanager
def killing(begun):
    "Kills one of this process's children as soon as `begun()` is true"
    def kill():
        while not (begun() and multiprocessing.active_children()): time.sleep(.005)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    thread = threading.Thread(target=kill, daemon=True); thread.start()
    yield
    thread.join()
    assert not multiprocessing.active_children()


def test_a_killed_process_of_a_scan_is_one_line(thousand, tmp_path, monkeypatch):
    "and the same command goes on from the record"
    record, look = tmp_path/'record', scan.inspect_picture
    monkeypatch.setattr(scan, 'inspect_picture', lambda *job: (time.sleep(.005), look(*job))[1])
    with killing(lambda: record.exists() and record.stat().st_size > 5000):
        one_line(command('verify', thousand, '--quiet', '--record', record, '--workers', 2), 'a process of the pool was ended from outside at this picture or one of the next 128', 'take fewer by --workers')
    monkeypatch.undo()
    known = record.read_text().count('"job"')
    assert 16 <= known < 1000
    looked = []
    monkeypatch.setattr(scan, 'inspect_picture', lambda *job: looked.append(job) or look(*job))
    done = command('verify', thousand, '--quiet', '--record', record, '--workers', 0)
    assert '1,000 pictures, 1,000 masks: 1 problem' in done.out and len(looked) == 1000 - known


def test_a_killed_process_of_the_crf_is_one_line(tmp_path, monkeypatch):
    "and the same call goes on from the masks that are made"
    pytest.importorskip('pydensecrf')
    scenes, store, mean_field = Scenes(24, size=64), CamStore(tmp_path/'cams', Scenes(1, size=64).classes), crf.mean_field
    for i, id in enumerate(scenes.ids): store.put(id, {c: (scenes.mask(i)[::4, ::4] == c).float() for c in scenes.label_ids(i)}, (64, 64))
    make = lambda folder: pseudo_labels(scenes, store, folder, setting=PseudoSetting(crf=crf.LABEL_CRF), workers=2, progress=False)
    monkeypatch.setattr(crf, 'mean_field', lambda *args: (time.sleep(.05), mean_field(*args))[1])
    with killing(lambda: len([*(tmp_path/'cut').glob('*.png')]) >= 3):
        with pytest.raises(InputError, match=r"a process of the pool was ended from outside, at picture '.*' or one of the 4 before it; .* do the same again") as e: make(tmp_path/'cut')
    assert '\n' not in str(e.value) and not (tmp_path/'cut'/'manifest.json').exists() and 3 <= len([*(tmp_path/'cut').glob('*.png')]) < 24
    monkeypatch.undo()
    made = {p: p.stat().st_mtime_ns for p in (tmp_path/'cut').glob('*.png')}
    make(tmp_path/'cut'); make(tmp_path/'whole')
    assert {p: p.stat().st_mtime_ns for p in made} == made
    pngs = lambda folder: {n: c for n, c in tree(folder).items() if n.endswith('.png')}
    assert len(pngs(tmp_path/'cut')) == 24 and pngs(tmp_path/'cut') == pngs(tmp_path/'whole')
