"""A COCO data set goes through the command line, from its JSON to masks, to a report and to the paper's table."""
import json
import multiprocessing
import os
import resource
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('pycocotools')

from consistency_cam.datasets import coco
from consistency_cam.datasets.coco import CATEGORIES, COCO, make_masks
from consistency_cam.pseudo import write_coco
from consistency_cam.datasets.samples import InputError, MaskError, WriteError, write_mask
from consistency_cam.datasets.scenes import SCENE_CLASSES, Scenes
from commands import command

AS = dict(cat=17, dog=18, rabbit=88, sheep=20, taxi=3, ambulance=8, sailboat=9, steamer=7)  # what the scenes show, as COCO's categories


def small_coco(root, n=8, splits=('train', 'val'), size=96):
    "Scenes as COCO's files, in run lengths, with the official 80 categories"
    for split in splits:
        scenes, masks = Scenes(n, 0, split, size), root.parent/f'masks of {split}'
        (root/f'{split}2014').mkdir(parents=True)
        for i, id in enumerate(scenes.ids):
            Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(root/f'{split}2014'/f'{id}.jpg')
            write_mask(scenes.mask(i), masks/f'{id}.png')
        path = root/'annotations'/f'instances_{split}2014.json'
        write_coco(scenes, masks, path)
        content = json.loads(path.read_text())
        for a in content['annotations']: a['category_id'] = AS[SCENE_CLASSES[a['category_id'] - 1]]
        path.write_text(json.dumps(content | dict(categories=[dict(id=id, name=name) for id, name in CATEGORIES.items()])))
    return root


def test_verify_knows_coco(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 4)
    done = command('verify', tmp_path, '--quiet')
    assert done.status == 0 and 'coco (train, val): 8 pictures, 8 masks: no problem' in done.out, done.out + done.err
    (root/'val2014'/'val-0-00001.jpg').unlink()
    done = command('verify', root, '--quiet')
    assert done.status == 1 and 'PictureError' in done.out and 'val-0-00001.jpg: no such file' in done.out, done.out + done.err


TINY = ('--recipe quick --data coco --train train --val val --epochs 1 --batch-size 4 --crop 64 --long-side 64 80 --method cam --pretrained random --backbone resnet10t --output-stride 32 --frozen-stages 0 --batch-norm trained '
        '--affinity-epochs 1 --affinity-batch-size 4 --affinity-crop 64 --affinity-long-side 64 80 --walk-radius 2 --affinity-radius 2 --segment-epochs 1 --segment-batch-size 4 --segment-crop 64 --segment-long-side 64 80 '
        '--segment-frozen-stages 0 --segment-batch-norm trained --scales 1 --quiet').split()


@pytest.mark.slow
def test_run_on_coco(tmp_path):
    "All stages, a report, and a row of the paper's table for each experiment"
    root = small_coco(tmp_path/'COCO2014')
    for seed in (0, 1):
        done = command('run', tmp_path/f'run{seed}', '--root', root, '--seed', seed, *TINY)
        assert done.status == 0, done.out + done.err
    assert sum(p.suffix == '.png' for p in (root/'masks'/'train2014').iterdir()) == 8
    figures = {stage: json.loads((tmp_path/'run0'/'evaluate'/stage/'stage.json').read_text())['result'] for stage in ('cams', 'walk', 'pseudo', 'segment')}
    assert all(len(f['iou']) == 81 for stage in figures.values() for f in stage.values()), 'background and 80 classes'
    assert {s: [*f] for s, f in figures.items()} == dict(cams=['train', 'val'], walk=['train'], pseudo=['train'], segment=['val'])
    masks = [p for p in (tmp_path/'run0'/'masks'/'val').glob('*.png')]
    assert len(masks) == 8 and all(np.array(Image.open(p)).max() <= 80 for p in masks)
    page = (tmp_path/'run0'/'report.html').read_text()
    assert 'coco' in page and page.count('data:image') > 8

    done = command('paper', 'table2', tmp_path/'run0', tmp_path/'run1', '--result', tmp_path/'table2.json')
    assert done.status == 0, done.err
    ours = [line for line in done.out.splitlines() if 'ours' in line]
    mean = sum(json.loads((tmp_path/f'run{seed}'/'evaluate'/'segment'/'stage.json').read_text())['result']['val']['miou'] for seed in (0, 1)) / 2
    assert len(ours) == 1 and f'| {mean:.1f}' in ours[0] and 'ours, seeds 0, 1: learnt from train (8 pictures), measured on val (8 pictures)' in ours[0], done.out
    rows = json.loads((tmp_path/'table2.json').read_text())['rows']
    assert len(rows) == 9 + 1 and rows[-1]['val'] == [json.loads((tmp_path/f'run{seed}'/'evaluate'/'segment'/'stage.json').read_text())['result']['val']['miou'] for seed in (0, 1)]
    done = command('paper', 'table1', tmp_path/'run0')
    assert done.status == 1 and "table1 is about --data voc, this run's pictures are coco" in done.err


# The categories

def few(root, names):
    "The annotations of a split with a list of categories of their own"
    path = root/'annotations'/'instances_train2014.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(categories=[dict(id=id, name=name) for id, name in names.items()])))


def test_categories_are_the_official_ones_unless_others_are_wanted(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 2, ('train',))
    assert COCO(root, progress=False).classes == [*CATEGORIES.values()]
    few(root, names := {id: CATEGORIES[id] for id in sorted(AS.values(), reverse=True)})
    for arguments in (['verify', root], ['run', tmp_path/'run', '--data', 'coco', '--root', root, '--train', 'train', '--val=']):
        done = command(*arguments, '--quiet')
        assert done.status == 1 and len(done.err.splitlines()) <= 1, done.err
        assert 'move the folder away' in done.out + done.err, 'the masks are of the other list'
    for p in (root/'masks'/'train2014').iterdir(): p.unlink()
    (root/'masks'/'train2014').rmdir()
    for arguments in (['verify', root], ['run', tmp_path/'run', '--data', 'coco', '--root', root, '--train', 'train', '--val=']):
        done = command(*arguments, '--quiet')
        assert done.status == 1 and "not the 80 categories of COCO 2014: 1 is missing here, 'person' there, and 71 more differ" in done.out + done.err
    assert not (root/'masks'/'train2014').exists()
    done = command('verify', root, '--labels', 'file', '--quiet')
    assert done.status == 0 and '2 pictures, 2 masks: no problem' in done.out, done.out + done.err
    assert COCO(root, categories=None).classes == [names[id] for id in sorted(names)], 'in the order of the ids'
    done = command('verify', root, '--labels', 'xml', '--quiet')
    assert done.status == 1 and "labels='xml': for COCO, 'auto' wants the official 80 categories" in done.out


def test_an_annotation_of_a_category_that_is_not_listed_is_named(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 3, ('train',))
    path = root/'annotations'/'instances_train2014.json'
    content = json.loads(path.read_text()); content['annotations'][0]['category_id'] = 12
    path.write_text(json.dumps(content))
    done = command('run', tmp_path/'run', '--data', 'coco', '--root', root, '--train', 'train', '--val=', '--quiet')
    assert done.status == 1 and done.err.count('\n') == 1 and 'annotation 1 is of category 12, which is not listed' in done.err, done.err
    done = command('verify', root, '--quiet')
    assert done.status == 1 and done.out.count('annotation 1 is of category 12') == 1 and '2 pictures' in done.out, done.out


# Masks that cannot be made to the end

def left(root): return sorted(p.name for p in (root/'masks').iterdir())


def test_a_mask_process_that_is_killed_is_one_line(tmp_path, monkeypatch):
    root, mask_of = small_coco(tmp_path/'COCO2014', 64, ('train',), 32), coco.mask_of
    monkeypatch.setattr(coco, 'mask_of', lambda *args: (time.sleep(.02), mask_of(*args))[1])
    def kill():
        while len([*root.glob('masks/.*/*.png')]) < 4: time.sleep(.01)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    killer = threading.Thread(target=kill); killer.start()
    with pytest.raises(MaskError, match='train-0-.*png: a process that makes masks was ended from outside at this one or one of the next 128; .* run the same command again') as e: COCO(root, progress=False)
    killer.join()
    assert '\n' not in str(e.value) and not multiprocessing.active_children()
    assert [n for n in left(root) if not n.startswith('.')] == [], 'no folder that looks whole'
    monkeypatch.undo()
    kept = {p: p.stat().st_mtime_ns for p in root.glob('masks/.*.part/[!.]*.png')}
    COCO(root, progress=False).check()
    assert kept and {(root/'masks'/'train2014'/p.name).stat().st_mtime_ns for p in kept} == {*kept.values()}, 'what was made is not made again'
    assert left(root) == ['.train2014.lock', 'train2014'] and not [*(root/'masks'/'train2014').glob('.*')]


@pytest.mark.parametrize('n', [4, 40], ids=['in this process', 'in a pool'])
def test_a_full_disk_while_masks_are_made_is_one_line(tmp_path, n):
    root, old = small_coco(tmp_path/'COCO2014', n, ('train',), 32), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        with pytest.raises(WriteError, match='.png: cannot be written .File too large.; what is finished is kept') as error: COCO(root, progress=False)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not [n for n in left(root) if not n.startswith('.')]
    COCO(root, progress=False).check()
    del error  # so far its frames lived, as in a notebook; the pool within them does not, or this would wait for its lock for ever


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 2, ('train',), 32)
    (root/'masks').write_text('a file, below which nothing can be written, whoever one is')
    with pytest.raises(WriteError, match='COCO2014/masks: cannot be written'): COCO(root, progress=False)


def test_a_cut_file_of_annotations_is_one_line(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 2, ('train',), 32)
    path = root/'annotations'/'instances_train2014.json'; whole = path.read_text()
    for at in (0, 1, len(whole) // 3, len(whole) - 2):
        path.write_text(whole[:at])
        with pytest.raises(InputError, match='instances_train2014.json: no whole JSON file .*; it is cut off or damaged'): COCO(root, progress=False)
    done = command('verify', root, '--quiet')
    assert done.status == 1 and 'no whole JSON file' in done.out and not [n for n in left(root) if not n.startswith('.')]


def test_one_mask_that_is_missing_is_named(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 3, ('train',), 32)
    COCO(root, progress=False).mask_paths[1].unlink()
    for arguments in (['verify', root], ['run', tmp_path/'run', '--data', 'coco', '--root', root, '--train', 'train', '--val=']):
        done = command(*arguments, '--quiet')
        assert done.status == 1 and '1 of 3 masks are missing, first that of train-0-00001.jpg; move the folder away' in done.out + done.err
