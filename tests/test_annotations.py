"""VOC and COCO as people have them: each row is read, or refused in one line, and exports hold to what other programs want."""
import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('pycocotools')
from pycocotools import mask as official
from pycocotools.coco import COCO as Official

from consistency_cam.datasets.coco import COCO, region
from consistency_cam.datasets.folder import Folder
from consistency_cam.experiments.formats import export_masks
from consistency_cam.experiments.pipeline import Run, settle_recipe
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError, read_mask, write_mask
from consistency_cam.datasets.verify import all_splits, hold_against_masks, recognise, verify
from consistency_cam.datasets.voc import CLASSES, VOC

pytestmark = pytest.mark.situation('annotations of VOC and COCO')
H, W = 32, 40


def picture(path, k=0, size=(W, H)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (80, 40*k, 90)).save(path)


def refused(said, read, *args, **kwargs):
    "One line that says it, and what to do"
    with pytest.raises(InputError) as e: read(*args, **kwargs)
    text = str(e.value)
    assert '\n' not in text and len(text) < 900 and said in text, text


# COCO

SQUARE = [[4, 4, 20, 4, 20, 20, 4, 20]]


def content(**changes):
    "Three pictures, two with an object, the third without"
    images = [dict(id=k+1, file_name=f'p{k}.jpg', height=H, width=W) for k in range(3)]
    annotations = [dict(id=k+1, image_id=k+1, category_id=[3, 7][k], iscrowd=0, area=256, bbox=[4, 4, 16, 16], segmentation=SQUARE) for k in range(2)]
    return dict(images=images, annotations=annotations, categories=[dict(id=3, name='ship'), dict(id=7, name='truck')]) | changes


def coco(root, file='annotations/instances_train2014.json', folder='train2014', split='train', encode=str.encode, pictures=True, change=lambda d: None, **changes):
    change(d := content(**changes))
    for k, i in enumerate(d['images'] if pictures else []): picture(root/folder/i['file_name'].replace('\\', '/'), k)
    (root/file).parent.mkdir(parents=True, exist_ok=True); (root/file).write_bytes(encode(json.dumps(d)))
    return COCO(root, split, progress=False, categories=None)


def runs(mask): return official.encode(np.asfortranarray(mask, np.uint8))['counts'].decode()


BOX = np.zeros((H, W), bool); BOX[4:20, 4:20] = True
CODED = runs(BOX)
LINES = {
    'cut': (dict(size=[H, W], counts=CODED[:2]), 'annotation 1: run lengths of 132 pixels in a picture of 1280'),
    'cut within a number': (dict(size=[H, W], counts=CODED[:-1]), 'annotation 1: run lengths that end within a number'),
    'empty': (dict(size=[H, W], counts=''), 'run lengths of 0 pixels in a picture of 1280'),
    'too long': (dict(size=[H, W], counts=CODED + '4'), 'run lengths of'),
    'no text of COCO': (dict(size=[H, W], counts='é~ '), 'a character that is none of'),
    'of another picture': (dict(size=[W, H], counts=CODED), 'run lengths of [40, 32] in a picture of [32, 40]'),
    'without a size': (dict(counts=CODED), 'run lengths of None'),
    'without counts': (dict(size=[H, W]), 'not whole numbers'),
    'a list too short': (dict(size=[H, W], counts=[100, 20]), 'run lengths of 120 pixels'),
    'a list too long': (dict(size=[H, W], counts=[H*W, 20]), 'run lengths of 1300 pixels'),
    'a negative run': (dict(size=[H, W], counts=[H*W + 5, -5]), 'not whole numbers from 0 on'),
    'half a run': (dict(size=[H, W], counts=[H*W - .5, .5]), 'not whole numbers'),
    'two points': ([[1, 1, 9, 9]], 'fewer than three points'),
    'half a point': ([[1, 1, 9, 9, 5, 5, 2]], 'half a point'),
    'points in lists': ([[[1, 1], [9, 9], [1, 9]]], 'write [[x, y, x, y, …]]'),
    'one flat list': ([1, 1, 9, 9, 1, 9], 'write [[x, y, x, y, …]]'),
    'text': ([['1', '1', '9', '9', '1', '9']], 'write [[x, y, x, y, …]]'),
    'no number': ([[1, 1, 9, float('nan'), 1, 9]], 'three points, or half'),
    'of a larger picture': ([[400, 300, 500, 300, 500, 400]], 'outside of a picture of 40 x 32'),
    'very far': ([[1, 1, 1e12, 1, 1, 9]], 'outside of a picture'),
}


@pytest.mark.parametrize('name', LINES)
def test_an_outline_that_is_none_is_named(tmp_path, name):
    outline, said = LINES[name]
    def change(d): d['annotations'][0]['segmentation'] = outline
    refused(said, coco, tmp_path, change=change)
    errors = []
    assert COCO(tmp_path, progress=False, categories=None, errors=errors).ids == ['p1', 'p2'] and len(errors) == 1


def test_run_lengths_are_those_of_coco():
    rng = np.random.default_rng(0)
    for k in range(200):
        h, w = rng.integers(1, 60, 2)
        mask = rng.random((h, w)) < rng.choice([0, .01, .5, .99, 1])
        assert (region(dict(size=[int(h), int(w)], counts=runs(mask)), int(h), int(w)) == mask).all()


def listed(**entries): return lambda d: [d[key].__setitem__(k, d[key][k] | more) for key, (k, more) in entries.items()]
def added(**entries): return lambda d: [d[key].append(entry) for key, entry in entries.items()]
def without(key, field): return lambda d: d[key][0].pop(field)


REFUSED = {
    'of a picture that is not listed': (listed(annotations=(0, dict(image_id=99))), 'annotation 1 is of image 99, which is not listed'),
    'of a category that is not listed': (listed(annotations=(0, dict(category_id=0))), 'annotation 1 is of category 0, which is not listed'),
    'two names alike': (listed(categories=(1, dict(name='ship '))), "categories 3 and 7 are both called 'ship'"),
    'no name of a category': (listed(categories=(0, dict(name=''))), 'category 3 has no name'),
    'a category that is the background': (listed(categories=(0, dict(name='background'))), "cannot be called 'background'"),
    'a category twice': (added(categories=dict(id=3, name='boat')), 'category 3 stands there a second time'),
    'a picture twice': (added(images=dict(id=1, file_name='q.jpg', height=H, width=W)), 'image 1 stands there a second time'),
    'two pictures of one name': (listed(images=(1, dict(file_name='p0.png'))), "image 2: id 'p0' stands here a second time"),
    'no file name': (without('images', 'file_name'), 'image 1 has no file_name'),
    'a file name that is a number': (listed(images=(0, dict(file_name=7))), 'image 1 has no file_name'),
    'an address': (listed(images=(0, dict(file_name='https://x.org/p0.jpg'))), "'https://x.org/p0' is not an id"),
    'a whole path': (listed(images=(0, dict(file_name='/home/someone/me/p0.jpg'))), "is not an id"),
    'a path of Windows': (listed(images=(0, dict(file_name='C:\\me\\p0.jpg'))), "is not an id"),
    'a folder above': (listed(images=(0, dict(file_name='../p0.jpg'))), "is not an id"),
    'no size': (without('images', 'height'), 'without a number as height and width'),
    'a size of zero': (listed(images=(0, dict(height=0))), 'image 1 is 0 x 40'),
    'no list of categories': (lambda d: d.pop('categories'), "no list 'categories'"),
    'captions': (without('annotations', 'category_id'), 'not a file of instances'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_coco_file_that_is_not_right_is_refused(tmp_path, name):
    change, said = REFUSED[name]
    refused(said, coco, tmp_path, change=change, pictures=False)


READ = {
    'COCO 2017': dict(file='annotations/instances_train2017.json', folder='train2017'),
    'COCO 2017, by its year': dict(file='annotations/instances_train2017.json', folder='train2017', split='train2017'),
    'below images': dict(file='annotations/instances_train2017.json', folder='images/train2017'),
    'without a year': dict(file='annotations/instances_train.json', folder='images/train'),
    'named by its split': dict(file='annotations/train.json', folder='images'),
    'CVAT': dict(file='annotations/instances_default.json', folder='images/default', split='default'),
    'CVAT, pictures in images': dict(file='annotations/instances_default.json', folder='images', split='default'),
    'Roboflow': dict(file='train/_annotations.coco.json', folder='train'),
    'Roboflow, one folder': dict(file='_annotations.coco.json', folder='.', split='all'),
    'Label Studio': dict(file='result.json', folder='images', split='all'),
    'UTF-8 with its mark': dict(encode=lambda t: t.encode('utf-8-sig')),
    'UTF-16': dict(encode=lambda t: t.encode('utf-16')),
    'ids that are texts': dict(change=lambda d: [e.__setitem__(k, f'x{e[k]}') for key, k in (('images', 'id'), ('annotations', 'image_id')) for e in d[key]]),
    'ids that are large': dict(change=lambda d: [e.__setitem__(k, e[k] + 10**30) for key, k in (('images', 'id'), ('annotations', 'image_id')) for e in d[key]]),
    'ids as pandas writes them': dict(change=lambda d: [e.__setitem__('image_id', float(e['image_id'])) for e in d['annotations']]),
    'a group as category 0': dict(change=lambda d: (d['categories'].insert(0, dict(id=0, name='things', supercategory='none')), [c.update(supercategory='things') for c in d['categories'][1:]])),
    'a group called as a class': dict(change=lambda d: (d['categories'].insert(0, dict(id=0, name='ship', supercategory='none')), [c.update(supercategory='ship') for c in d['categories'][1:]])),
    'a background that nothing is of': dict(change=added(categories=dict(id=0, name='background'))),
    'run lengths': dict(change=lambda d: d['annotations'][0].update(segmentation=dict(size=[H, W], counts=CODED))),
}


@pytest.mark.parametrize('name', READ)
def test_coco_as_programs_write_it(tmp_path, name):
    samples = coco(tmp_path, **READ[name]); samples.check()
    assert (samples.ids, samples.classes, samples.labels.tolist()) == (['p0', 'p1', 'p2'], ['ship', 'truck'], [[1, 0], [0, 1], [0, 0]])
    assert [samples.mask(i).unique().tolist() for i in range(3)] == [[0, 1], [0, 2], [0]] and (samples.mask(0) == 1).sum() == 256
    assert '1 picture without annotations, so with none of the classes' in samples.reading
    if 'things' in name or 'category 0' in name: assert "without category 0 'things'" in samples.reading


@pytest.mark.parametrize('names', [['cam0/frame.jpg', 'cam1/frame.jpg', 'cam1/b/frame.jpg'], ['cam0\\frame.jpg', 'cam1\\frame.jpg', 'x.jpg'], ['./a.jpg', 'a/a.jpg', 'a/b/a.jpg'], ['frame.0001.jpg', 'frame.0002.jpg', 'frame.jpg']])
def test_each_picture_has_its_own_mask(tmp_path, names):
    def change(d):
        for i, name in zip(d['images'], names): i['file_name'] = name
    samples = coco(tmp_path, change=change); samples.check()
    assert samples.ids == [n.replace('\\', '/').removeprefix('./').removesuffix('.jpg') for n in names] and len({*samples.mask_paths}) == 3
    assert [samples.mask(i).unique().tolist() for i in range(3)] == [[0, 1], [0, 2], [0]]
    again = COCO(tmp_path, progress=False, categories=None)
    assert again.mask_paths == samples.mask_paths, 'and is not made again'
    samples.mask_paths[1].unlink()
    refused('1 of 3 masks are missing', COCO, tmp_path, progress=False, categories=None)


def test_boxes_are_labels_without_masks(tmp_path):
    def change(d): d['annotations'][0]['segmentation'] = []
    samples = coco(tmp_path/'one', change=change); samples.check()
    assert samples.labels.tolist() == [[1, 0], [0, 1], [0, 0]] and [samples.mask(i) is None for i in range(3)] == [True, False, False] and '1 picture with an object that has no outline' in samples.reading
    def change(d): [a.pop('segmentation') for a in d['annotations']]; d['images'].pop()
    samples = coco(tmp_path/'all', change=change); samples.check()
    assert not samples.has_masks and samples.labels.tolist() == [[1, 0], [0, 1]]


def test_a_size_that_is_not_the_pictures_is_named(tmp_path):
    samples = coco(tmp_path)
    picture(samples.image_paths[0], size=(H, W))
    refused('the mask is 32 x 40, its picture 40 x 32', samples.check)


def test_what_is_missing_or_doubtful_is_named(tmp_path):
    refused('no folder annotations in it', COCO, tmp_path)
    coco(tmp_path/'COCO2017', file='annotations/instances_train2017.json', folder='train2017')
    refused('COCO2017?', COCO, tmp_path)
    refused("no annotations of a split 'val'", COCO, tmp_path/'COCO2017', 'val')
    refused("there are train", COCO, tmp_path/'COCO2017', 'train2014')
    coco(tmp_path/'two', file='annotations/instances_train2017.json', folder='train2017')
    refused("may be train2014 or train2017", coco, tmp_path/'two')
    (tmp_path/'own'/'masks'/'train2014').mkdir(parents=True)
    refused('the folder is there and was not made so', coco, tmp_path/'own')


def test_verify_finds_the_splits_of_programs(tmp_path):
    for split in ('train', 'valid', 'test'): coco(tmp_path, file=f'{split}/_annotations.coco.json', folder=split, split=split)
    assert recognise(tmp_path)['data'] == 'coco' and {*all_splits('coco', tmp_path)} == {'train', 'valid', 'test'}


# VOC

def voc(root, names=dict(a=['cat'], b=['dog'], c=[]), split='train', where='ImageSets/Segmentation', lists=None, end='.jpg', annotation=None, masks=None, **files):
    annotation = annotation or (lambda kinds: '<annotation>' + ''.join(f'<object><name>{k}</name><bndbox/></object>' for k in kinds) + '</annotation>')
    (root/'Annotations').mkdir(parents=True, exist_ok=True)
    for k, (id, kinds) in enumerate(names.items()):
        picture(root/'JPEGImages'/f'{id}{end}', k)
        if (text := annotation(kinds)) is not None: (root/'Annotations'/f'{id}.xml').write_bytes(text if isinstance(text, bytes) else text.encode())
        if masks: write_mask(np.full((H, W), masks[k]), root/'SegmentationClass'/f'{id}.png')
    if where: (root/where).mkdir(parents=True, exist_ok=True); (root/where/f'{split}.txt').write_bytes(('\n'.join(names) if lists is None else lists).encode())
    for name, text in files.items(): (root/f'{name}.txt').write_text(text)
    return VOC(root, split)


XML = '<object><name>{}</name></object>'
OWN = dict(a=['Häuser'], b=['auto'], c=[])
GOOD = {
    'without size and difficult': dict(),
    'objects none': dict(annotation=lambda kinds: '<annotation verified="yes"><filename>x</filename>' + ''.join(map(XML.format, kinds)) + '</annotation>'),
    'spaces around names': dict(annotation=lambda kinds: '<annotation>' + ''.join(XML.format(f'\n  {k} ') for k in kinds) + '</annotation>'),
    'a mark in front of the list': dict(lists='\ufeffa\r\nb\r\nc\r\n'),
    'extensions in the list': dict(lists='a.jpg\nb.JPG\nc.jpeg\n'),
    'the folder in the list': dict(lists='JPEGImages/a.jpg\nVOC/JPEGImages/b.jpg\nJPEGImages\\c.jpg\n'),
    'the list of a class': dict(lists='a  1\nb -1\nc  0\n', split='cat_train', where='ImageSets/Main'),
    'the list in Main': dict(where='ImageSets/Main'),
    'no list': dict(where='', split='all'),
    'png': dict(end='.png'), 'JPG': dict(end='.JPG'),
    'masks': dict(masks=(8, 12, 0)),
}


@pytest.mark.parametrize('name', GOOD)
def test_voc_as_programs_write_it(tmp_path, name):
    samples = voc(tmp_path, **GOOD[name]); samples.check()
    assert samples.ids == ['a', 'b', 'c'] and samples.classes == CLASSES
    assert [samples.label_ids(i) for i in range(3)] == [[8], [12], []] and '1 picture whose annotation has no object' in samples.reading


CLASS_FILES = {
    'sorted': ({}, ['Häuser', 'auto']),
    'labelmap of CVAT': (dict(labelmap='# label:color_rgb:parts:actions\nauto:128,0,0::\nbackground:0,0,0::\nHäuser:0,128,0::\n'), ['auto', 'Häuser']),
    'class_names': (dict(class_names='_background_\nauto\nHäuser\n'), ['auto', 'Häuser']),
    'labels of labelme': (dict(labels='__ignore__\n_background_\nauto\nHäuser\n'), ['auto', 'Häuser']),
    'classes': (dict(classes='auto\r\nHäuser\r\n'), ['auto', 'Häuser']),
    'two lists that agree': (dict(classes='auto\nHäuser\n', labels='auto\nHäuser\n'), ['auto', 'Häuser']),
    'a class more': (dict(classes='auto\nBaum\nHäuser\n'), ['auto', 'Baum', 'Häuser']),
}


@pytest.mark.parametrize('name, encoding', [*((name, 'utf-8') for name in CLASS_FILES), *(('sorted', encoding) for encoding in ('utf-16', 'latin-1', 'cp1252', 'mac-roman'))])
def test_own_classes(tmp_path, name, encoding):
    files, wanted = CLASS_FILES[name]
    annotation = lambda kinds: (f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation>' + ''.join(map(XML.format, kinds)) + '</annotation>').encode(encoding)
    samples = voc(tmp_path, OWN, annotation=annotation, **files)
    assert samples.classes == wanted and [[wanted[c-1] for c in samples.label_ids(i)] for i in range(3)] == [['Häuser'], ['auto'], []]
    assert samples.reading.startswith('classes in the order of' if files else '2 classes, the sorted names in the annotations')


BAD = {
    'own classes and masks, and no list': (dict(names=OWN, masks=(1, 2, 0)), "unknown class 'Häuser'", 'labelmap.txt or classes.txt'),
    'a name that is not in the list': (dict(names=OWN, classes='auto\n'), "unknown class 'Häuser'", ''),
    'two lists that differ': (dict(names=OWN, classes='auto\nHäuser\n', labels='Häuser\nauto\n'), 'other classes than in', ''),
    'an object without a name': (dict(annotation=lambda kinds: '<annotation><object><pose/></object></annotation>'), 'object 1 has no name', ''),
    'objects elsewhere': (dict(annotation=lambda kinds: '<annotation><objects><object><name>cat</name></object></objects></annotation>'), '<objects> is not where an annotation of VOC has it', ''),
    'XML of CVAT': (dict(annotation=lambda kinds: '<annotations><image/></annotations>'), "export it as 'Pascal VOC'", ''),
    'half a file': (dict(annotation=lambda kinds: '<annotation><object>'), 'cannot be read (no element found', ''),
    'an encoding that is another': (dict(annotation=lambda kinds: b'<?xml version="1.0" encoding="utf-8"?><annotation><object><name>H\xe4user</name></object></annotation>'), 'cannot be read', 'a.xml'),
    'an encoding that there is not': (dict(annotation=lambda kinds: b'<?xml version="1.0" encoding="nonsense"?><annotation/>'), 'cannot be read', 'a.xml'),
    'an annotation is missing': (dict(annotation=lambda kinds: '<annotation/>' if kinds else None), 'c.xml: no such file', ''),
    'ids twice': (dict(lists='a\na.jpg\n'), "line 2: id 'a' stands here a second time", ''),
    'an empty list': (dict(lists='\ufeff\r\n'), 'no ids in it', ''),
    'a folder above': (dict(lists='../a\n'), "line 1: '../a' is not an id", ''),
    'indices that are not the list\'s': (dict(names=OWN, masks=(1, 2, 0), labelmap='auto:0,128,0::\nHäuser:128,0,0::\n'), 'a.png: index 1 has the colour of id 2 in labelmap.txt', 'save them as RGB pictures'),
    'more classes than a mask holds': (dict(names={f'p{k}': [f'k{k}'] for k in range(255)}), '255 classes, and a mask holds 254', ''),
}


@pytest.mark.parametrize('name', BAD)
def test_voc_that_is_not_right_is_refused(tmp_path, name):
    how, *said = BAD[name]
    for text in said: refused(text, lambda: voc(tmp_path, **how).check())


def painted(path, colours):
    "The palette PNG as an RGB picture, index k in the k-th of the colours"
    ids = np.array(Image.open(path))
    Image.fromarray(np.array(colours, np.uint8)[ids]).save(path)


def test_masks_in_colours_are_read_by_the_list_of_classes(tmp_path):
    colours = 'background:0,0,0::\nauto:128,0,0::\nHäuser:0,128,0::\n'
    samples = voc(tmp_path, OWN, masks=(2, 1, 0), labelmap=colours)
    before = [samples.mask(i) for i in range(3)]
    for path in samples.mask_paths: painted(path, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    samples = VOC(tmp_path, 'train'); samples.check()
    assert all(samples.mask(i).equal(mask) for i, mask in enumerate(before))
    assert verify({'train': samples}, progress=False).bad == {} and VOC(tmp_path, 'train', labels='masks').labels.equal(samples.labels)
    decided = samples.masks_fingerprint()
    (tmp_path/'labelmap.txt').write_text('background:0,0,0::\nauto:0,128,0::\nHäuser:128,0,0::\n')
    assert VOC(tmp_path, 'train').masks_fingerprint() != decided  # the same pixels mean other classes
    (tmp_path/'labelmap.txt').write_text('auto:128,0,0::\nHäuser:0,128,1::\n')
    assert ['0,128,0 in row' in line and 'is that of no class in labelmap.txt' in line for line in verify({'train': VOC(tmp_path, 'train')}, progress=False).bad.values()] == [True]
    (tmp_path/'labelmap.txt').write_text('auto:128,0,0::\nHäuser:128,0,0::\n')
    refused("'Häuser' has the colour of auto", VOC, tmp_path, 'train')
    (tmp_path/'labelmap.txt').write_text('auto\nHäuser\n')
    refused('PNG RGB, not class ids; list the colour of each class in labelmap.txt beside the masks', VOC(tmp_path, 'train').mask, 0)


COLOURS = 'background:0,0,0::\ndog:0,128,0::\ncat:128,0,0::\n'  # not in the order of the names
LABELS = dict(a='cat', b='dog', c='cat;dog')


def coloured(root, place='masks', text=COLOURS, name='labelmap.txt', classes=None, colours=dict(a=(128, 0, 0), b=(0, 128, 0), c=None)):
    "Own pictures with masks as CVAT paints them; the mask of c shows both classes and void"
    for k, (id, colour) in enumerate(colours.items()):
        picture(root/'pictures'/f'{id}.png', k)
        mask = np.zeros((H, W, 3), np.uint8)
        if colour: mask[4:20, 4:20] = colour
        else: mask[:9], mask[9:20], mask[-1] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
        (root/'masks').mkdir(exist_ok=True); Image.fromarray(mask).save(root/'masks'/f'{id}.png')
    (root/'labels.csv').write_text('id,labels\n' + ''.join(f'{id},{names}\n' for id, names in LABELS.items()))
    if text: (root/place/name).write_text(text)
    return Folder(root/'pictures', root/'labels.csv', masks=root/'masks', classes=classes)


@pytest.mark.parametrize('place', ['masks', '.', 'pictures'])
def test_own_masks_in_colours_are_read_by_labelmap(tmp_path, place):
    samples = coloured(tmp_path, place); samples.check()
    assert samples.classes == ['dog', 'cat'] and [samples.mask(i).unique().tolist() for i in range(3)] == [[0, 2], [0, 1], [0, 1, 2, 255]]
    assert (samples.mask(0) == 2).sum() == 256 and samples.reading.endswith('classes in the order of labelmap.txt, RGB masks read by the colours in labelmap.txt')
    checked = verify({'all': samples}, progress=False)
    assert not checked.problems and ('an RGB mask, its class ids read by the colours in labelmap.txt', str(samples.image_paths[0])) in checked.notes
    assert '3 x an RGB mask' in '\n'.join(checked.lines(20)) and samples.reading in checked.said


@pytest.mark.parametrize('how', [dict(text='', classes=['cat', 'dog']), dict(text=COLOURS.replace('cat:128,0,0', 'cat:')), dict(text='dog\ncat\n'), dict(text='dog\ncat\n', name='classes.txt')], ids=str)
def test_own_masks_in_colours_without_the_colours_are_refused(tmp_path, how):
    for found in (coloured(tmp_path, **how).check, lambda: coloured(tmp_path, **how).mask(1)): refused('.png: PNG RGB, not class ids; list the colour of each class in labelmap.txt beside the masks', found)


def test_the_classes_may_be_listed_elsewhere_than_the_colours(tmp_path):
    samples = coloured(tmp_path, classes=['cat', 'dog']); samples.check()
    assert [samples.mask(i).unique().tolist() for i in range(2)] == [[0, 1], [0, 2]]
    (tmp_path/'colours.txt').write_text(COLOURS); (tmp_path/'masks'/'labelmap.txt').unlink()
    samples = Folder(tmp_path/'pictures', tmp_path/'labels.csv', masks=tmp_path/'masks', classes=tmp_path/'colours.txt'); samples.check()
    assert samples.classes == ['dog', 'cat'] and samples.mask(0).unique().tolist() == [0, 2]


STRANGE = {
    'a colour of no class': (dict(colours=dict(a=(128, 0, 0), b=(0, 128, 1), c=None)), 'b.png: the colour 0,128,1 in row 5, column 5 is that of no class in labelmap.txt; add it there'),
    'a class of the table is not listed': (dict(text='dog:0,128,0::\n'), "line 2: unknown class 'cat'; known: dog ("),
    'two classes of one colour': (dict(text='dog:0,128,0::\ncat:0,128,0::\n'), "'cat' has the colour of dog, 0,128,0"),
    'a class of the colour of the background': (dict(text='dog:0,0,0::\ncat:128,0,0::\n'), "'dog' has the colour of the background, 0,0,0"),
    'a colour that is none': (dict(text='dog:0,128,0::\ncat:0,428,0::\n'), "the colour 0,428,0 of 'cat'; red, green and blue are 0 to 255"),
}


@pytest.mark.parametrize('name', STRANGE)
def test_what_is_wrong_with_colours_is_named(tmp_path, name):
    how, said = STRANGE[name]
    refused(said, lambda: coloured(tmp_path, **how).check())


def test_colours_of_void_and_other_backgrounds(tmp_path):
    samples = coloured(tmp_path, text='background:0,128,0::\nvoid:0,0,0::\ndog:9,9,9::\ncat:128,0,0::\n'); samples.check()
    assert [samples.mask(i).unique().tolist() for i in range(3)] == [[2, 255], [0, 255], [0, 2, 255]]


def test_masks_in_colours_are_held_against_labels(tmp_path):
    "A list that gives two classes each other's colour is found before anything is trained"
    for k in range(12): picture(tmp_path/'pictures'/f'{k}.png', k)
    for k in range(12):
        mask = np.zeros((H, W, 3), np.uint8); mask[4:20, 4:20] = (128, 0, 0) if k % 2 else (0, 128, 0)
        (tmp_path/'masks').mkdir(exist_ok=True); Image.fromarray(mask).save(tmp_path/'masks'/f'{k}.png')
    (tmp_path/'labels.csv').write_text('id,labels\n' + ''.join(f'{k},{"cat" if k % 2 else "dog"}\n' for k in range(12)))
    (tmp_path/'labelmap.txt').write_text(COLOURS)
    open_again = lambda: Folder(tmp_path/'pictures', tmp_path/'labels.csv', masks=tmp_path/'masks')
    hold_against_masks(open_again())
    (tmp_path/'labelmap.txt').write_text(COLOURS.replace('dog', 'dig').replace('cat', 'dog').replace('dig', 'cat'))
    refused('the masks of 12 of 12 pictures contradict their labels', hold_against_masks, open_again())


def test_annotations_beside_their_pictures(tmp_path):
    for split, ids in dict(train='ab', valid='c').items():
        (tmp_path/split).mkdir()
        for k, id in enumerate(ids):
            picture(tmp_path/split/f'{id}_jpg.rf.0{k}.jpg', k)
            (tmp_path/split/f'{id}_jpg.rf.0{k}.xml').write_text(f'<annotation><object><name>{"person" if k else "Häuser"}</name></object></annotation>')
    samples = VOC(tmp_path, 'train'); samples.check()
    assert samples.ids == ['a_jpg.rf.00', 'b_jpg.rf.01'] and samples.classes == ['Häuser', 'person'] and samples.labels.tolist() == [[1, 0], [0, 1]]
    assert VOC(tmp_path, 'valid').ids == ['c_jpg.rf.00'] and recognise(tmp_path) == dict(data='voc', root=str(tmp_path), train='train')
    refused("no folder JPEGImages in it; there are the splits train, valid, and no 'val'", VOC, tmp_path, 'val')
    (tmp_path/'train'/'b_jpg.rf.01.jpg').unlink()
    refused('b_jpg.rf.01.jpg: no such file', VOC(tmp_path, 'train').check)


@pytest.mark.parametrize('kind', ['voc', 'coco'])
def test_the_split_valid_is_held_out(tmp_path, kind):
    for split in ('train', 'valid'):
        if kind == 'coco': coco(tmp_path, file=f'{split}/_annotations.coco.json', folder=split, split=split)
        else:
            picture(tmp_path/split/f'{split}.jpg')
            (tmp_path/split/f'{split}.xml').write_text('<annotation><object><name>ship</name></object></annotation>')
    def splits(**said): return [getattr(settle_recipe(recipe('quick', data=kind, root=str(tmp_path), train='train', **said)).data, k) for k in ('train', 'val')]
    assert splits() == ['train', 'valid'] and splits(val='') == ['train', ''] and splits(val='train') == ['train', 'train']
    if kind == 'coco': coco(tmp_path, file='val/_annotations.coco.json', folder='val', split='val')
    else: shutil.copytree(tmp_path/'valid', tmp_path/'val')
    assert splits() == ['train', 'val']


def test_training_without_any_label_is_refused(tmp_path):
    coco(tmp_path/'data', annotations=[])
    run = Run(tmp_path/'run', recipe('quick', data='coco', root=str(tmp_path/'data'), labels='file', train='train', val='', pretrained='random', backbone='resnet10t', method='cam', batch_size=2, output_stride=32), progress=False)
    refused('train: none of the 3 training pictures has a class, so there is nothing to learn; name the labels by --labels', run.classify)
    assert not (tmp_path/'run').exists()


def test_objects_that_were_deleted_are_not_there(tmp_path):
    samples = voc(tmp_path, annotation=lambda kinds: '<annotation>' + ''.join(f'<object><name>{k}</name><deleted>{int(k == "cat")}</deleted></object>' for k in kinds) + '</annotation>')
    assert [samples.label_ids(i) for i in range(3)] == [[], [12], []]


def test_classes_that_differ_in_capitals_only(tmp_path):
    refused("a.xml: 'Ship', and in ", voc, tmp_path/'annotations', dict(a=['Ship'], b=['ship'], c=[]))
    samples = voc(tmp_path/'listed', dict(a=['Ship'], b=['ship'], c=[]), classes='Ship\nship\n')
    notes = verify({'train': samples}, progress=False).notes
    assert ("a class called as 'ship' but for capitals: one class, or two?", 'Ship') in notes


CROWDS = {'run lengths in a list': dict(segmentation=dict(size=[H, W], counts=[10, 20, H*W - 30])), 'polygon': {}, 'flag as text': dict(iscrowd='1'), 'flag as truth': dict(iscrowd=True)}


@pytest.mark.parametrize('name', CROWDS)
def test_a_crowd_is_void(tmp_path, name):
    samples = coco(tmp_path, change=lambda d: d['annotations'][0].update(dict(iscrowd=1) | CROWDS[name])); samples.check()
    assert samples.mask(0).unique().tolist() == [0, 255] and samples.label_ids(0) == [1]


OTHERWISE = {'image_id as text': dict(image_id='1'), 'category_id as text': dict(category_id='3'), 'run lengths in a list': dict(segmentation=dict(size=[H, W], counts=[10, 256, H*W - 266])), 'a little outside': dict(segmentation=[[-.5, -.5, 15.5, -.5, 15.5, 15.5, -.5, 15.5]])}


@pytest.mark.parametrize('name', OTHERWISE)
def test_an_annotation_written_otherwise(tmp_path, name):
    samples = coco(tmp_path, change=lambda d: d['annotations'][0].update(OTHERWISE[name])); samples.check()
    assert samples.labels.tolist() == [[1, 0], [0, 1], [0, 0]] and (samples.mask(0) == 1).sum() == 256 and samples.mask(0).unique().tolist() == [0, 1]


def test_two_pictures_of_one_name_are_refused(tmp_path):
    voc(tmp_path, end='.png'); picture(tmp_path/'JPEGImages'/'a.bmp')
    refused("'a' may be a.bmp or a.png", VOC, tmp_path, 'train')
    refused("no list of the split 'val'", VOC, tmp_path, 'val')


@pytest.mark.parametrize('given', ['masks and labels', 'labels', 'masks', 'neither', 'some labels', 'table'])
def test_what_is_known_of_test_is_used(tmp_path, given):
    masks, labels = 'masks' in given, 'labels' in given
    samples = voc(tmp_path, split='test', masks=(8, 12, 0) if masks else None, annotation=None if labels else lambda kinds: None)
    if given == 'some labels': (tmp_path/'Annotations'/'b.xml').unlink()
    if given == 'table': (tmp_path/'image_labels.csv').write_text('id,labels\na,cat\nb,dog\nc,\n')
    samples = VOC(tmp_path, 'test'); samples.check()
    assert samples.has_masks == masks and samples.labelled == (given in ('masks and labels', 'labels', 'table'))
    if samples.labelled: assert [samples.label_ids(i) for i in range(3)] == [[8], [12], []]
    if given == 'some labels': assert 'Annotations has 2 of its 3 pictures' in samples.reading


# What is passed on

def made(root, n=4, size=(48, 40), seed=0):
    "Pictures in folders, and masks of many parts"
    rng, ids = np.random.default_rng(seed), ['train/a', 'train/b', 'c d', 'é'][:n]
    for k, id in enumerate(ids):
        picture(root/'pictures'/f'{id}.png', k, size[::-1])
        mask = np.kron(rng.choice([0, 0, 1, 2, 255], (size[0]//4, size[1]//4)), np.ones((4, 4), int)) if k else np.zeros(size, int)
        write_mask(mask, root/'made'/f'{id}.png')
    (root/'labels.csv').write_text('id,labels\n' + ''.join(f'{id},{"cat;dog" if k else ""}\n' for k, id in enumerate(ids)))
    return Folder(root/'pictures', root/'labels.csv')


def test_a_folder_is_what_imagefolder_reads(tmp_path):
    samples = made(tmp_path); out = export_masks(samples, tmp_path/'made', tmp_path/'out', 'folder')
    lines = [json.loads(line) for line in (out/'metadata.jsonl').read_text().splitlines()]
    assert len({tuple(line) for line in lines}) == 1 and [*lines[0]] == ['file_name', 'mask_file_name', 'labels']
    for id, line in zip(samples.ids, lines):
        files = {key: out/name for key, name in line.items() if key == 'file_name' or key.endswith('_file_name')}
        assert len(files) == 2 and all(p.is_file() and '\\' not in str(p) for p in files.values())
        assert not [v for key, v in line.items() if key not in files and isinstance(v, str) and (out/v).exists()], 'no path in a column that is not read as one'
        assert Image.open(files['file_name']).size == Image.open(files['mask_file_name']).size
        assert (read_mask(files['mask_file_name']) == read_mask(tmp_path/'made'/f'{id}.png')).all()


def test_coco_json_is_what_coco_reads(tmp_path):
    samples = made(tmp_path); out = export_masks(samples, tmp_path/'made', tmp_path/'out', 'coco')
    with contextlib.redirect_stdout(io.StringIO()): read = Official(out/'annotations.json')
    assert [(out/'images'/i['file_name']).is_file() for i in read.loadImgs(read.getImgIds())] == [True]*4, 'the one without any class too'
    annotations = read.loadAnns(read.getAnnIds())
    assert len({a['id'] for a in annotations}) == len(annotations) == len(json.loads((out/'annotations.json').read_text())['annotations']) > 20
    for n, id in enumerate(samples.ids, 1):
        mask, back = read_mask(tmp_path/'made'/f'{id}.png').numpy(), np.zeros((48, 40), int)
        for a in read.loadAnns(read.getAnnIds(n)):
            part = read.annToMask(a)
            assert a['area'] == part.sum() == official.area(a['segmentation']) and a['bbox'] == official.toBbox(a['segmentation']).tolist() and a['iscrowd'] == 0
            assert parts_of(part) == 1 and not back[part == 1].any()
            back[part == 1] = a['category_id']
        assert (back == np.where(mask == 255, 0, mask)).all()


def parts_of(mask):
    "How many parts a flood fills, from side to side"
    left, parts = {*zip(*mask.nonzero())}, 0
    while left:
        edge, parts = [left.pop()], parts + 1
        while edge:
            y, x = edge.pop()
            for p in ((y+1, x), (y-1, x), (y, x+1), (y, x-1)):
                if p in left: left.remove(p); edge.append(p)
    return parts


def test_coco_json_is_read_back(tmp_path):
    samples = made(tmp_path); out = export_masks(samples, tmp_path/'made', tmp_path/'out', 'coco')
    again = COCO(out, 'all', progress=False, categories=None); again.check()
    assert (again.ids, again.classes) == (samples.ids, samples.classes) and again.labels[0].sum() == 0
    for i, id in enumerate(samples.ids): assert (again.mask(i) == read_mask(tmp_path/'made'/f'{id}.png') * (read_mask(tmp_path/'made'/f'{id}.png') < 255)).all()


@pytest.mark.parametrize('form', ['png', 'coco', 'folder'])
def test_more_classes_than_a_mask_holds_are_not_passed_on(tmp_path, form):
    samples = made(tmp_path); samples.classes = [f'k{k}' for k in range(260)]
    refused('260 classes, and a mask holds 254', export_masks, samples, tmp_path/'made', tmp_path/'out', form)
    samples.classes = ['cat', 'dog']; write_mask(np.full((48, 40), 3), tmp_path/'made'/'c d.png')
    refused('ids [3] in the mask, but classes are 1..2', export_masks, samples, tmp_path/'made', tmp_path/'out', form)
    assert not (tmp_path/'out').exists()
