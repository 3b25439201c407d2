"""Made data sets of every form: `verify` names the one fault that is planted in each, and finds none in sound ones."""
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistency_cam.experiments.pipeline import dataset
from consistency_cam.experiments.recipes import change_recipe, recipe
from consistency_cam.datasets.samples import InputError
from consistency_cam.datasets.verify import all_splits, recognise, verify

NAMES = ['aeroplane', 'horse', 'motorbike', 'sheep']  # classes of VOC, none like another
NUMBER = dict(aeroplane=1, horse=13, motorbike=14, sheep=17)  # their ids in VOC's masks


@dataclass
class Data:
    "A data set on disk"
    place: Path
    form: str
    ids: list  # 20 names
    named: list  # their classes
    pictures: dict  # {id: path}
    masks: dict  # {id: path}
    numbers: dict  # {class: its id in a mask}
    table: Path = None  # a CSV, or a list of ids
    cells: str = ' '  # what separates classes in it

    def mask(self, i, number=None):
        "Mask of picture i: a background row, then a stripe per class"
        number = number or (lambda k: k)
        found = np.full((32, 32), number(0), np.uint8)
        for n, c in enumerate(self.named[i]): found[8 + 8*n:14 + 8*n] = number(self.numbers[c])
        return found

    def repaint(self, number):
        for i, id in enumerate(self.ids):
            if id in self.masks: Image.fromarray(self.mask(i, number)).save(self.masks[id])

    def rows(self): return self.table.read_text(encoding='utf-8-sig').splitlines()
    def rewrite(self, rows): self.table.write_text('\n'.join(rows) + '\n')


def picture(path, seed, turned=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(path, quality=85)


def labels_of(seed):
    "Classes of 20 pictures, one or two each, every class at least thrice and once alone, none everywhere"
    lot = random.Random(seed)
    alone = dict(zip(lot.sample(range(20), 4), NAMES))
    return [[alone[i]] if i in alone else sorted({NAMES[i % 4], lot.choice(NAMES)}) for i in range(20)]


def table_of(data, form, seed):
    "Writes the table of a folder of one's own in one of its dialects"
    data.cells = {'spaces': ' ', 'commas': ','}.get(form, ';')
    name = lambda id: f'{id}.jpg' if form == 'names with extension' else id
    cell = lambda names: f'"{",".join(names)}"' if form == 'commas' else data.cells.join(names)
    split = lambda i: f',{"val" if i % 5 == 0 else "train"}' if form == 'splits' else ''
    rows = ['id,labels' + ',split'*(form == 'splits'), *(f'{name(id)},{cell(names)}{split(i)}' for i, (id, names) in enumerate(zip(data.ids, data.named)))]
    end = '\r\n' if form == 'windows' else '\n'
    data.table.write_bytes(('\ufeff'*(form == 'windows') + end.join(rows) + end).encode())


def own(place, form, seed):
    inner = ('birds/' if form == 'sub-folders' else '')
    ids = [f'{inner}p{seed}_{i:02}' for i in range(20)]
    pictures = {id: place/'pictures'/f'{id}.jpg' for id in ids}
    masks = {} if form == 'no masks' else {id: place/'masks'/f'{id}.png' for id in ids}
    data = Data(place, form, ids, labels_of(seed), pictures, masks, {c: k for k, c in enumerate(NAMES, 1)}, place/'labels.csv')
    data.place.mkdir(); table_of(data, form, seed)
    return data


def voc(place, form, seed):
    ids = [f'2007_{seed:03}{i:03}' for i in range(20)]
    data = Data(place, form, ids, labels_of(seed), {id: place/'JPEGImages'/f'{id}.jpg' for id in ids}, {id: place/'SegmentationClass'/f'{id}.png' for id in ids}, NUMBER)
    lists = place/'ImageSets'/'Segmentation'; lists.mkdir(parents=True)
    (lists/'train.txt').write_text('\n'.join(ids[:15]) + '\n'); (lists/'val.txt').write_text('\n'.join(ids[15:]) + '\n')
    data.table = lists/'train.txt'
    if form == 'voc, table': (place/'image_labels.csv').write_text('id,labels\n' + ''.join(f'{id},{" ".join(names)}\n' for id, names in zip(ids, data.named)))
    if form == 'voc, xml':
        (place/'Annotations').mkdir()
        for id, names in zip(ids, data.named): (place/'Annotations'/f'{id}.xml').write_text('<annotation>' + ''.join(f'<object><name>{c}</name></object>' for c in names) + '</annotation>')
    return data


def class_folders(place, form, seed):
    ids, named = [], []
    for i in range(20): c = NAMES[i % 4]; ids.append(f'{"val" if i > 15 else "train"}/{c}/p{seed}_{i}'); named.append([c])
    return Data(place, form, ids, named, {id: place/f'{id}.jpg' for id in ids}, {}, {})


def coco(place, form, seed):
    data = Data(place, form, [f'COCO_{seed}_{i:03}' for i in range(20)], labels_of(seed), {}, {}, {c: k for k, c in enumerate(NAMES, 1)})
    (place/'annotations').mkdir(parents=True)
    for split, part in (('train', range(15)), ('val', range(15, 20))):
        images = [dict(id=i, file_name=f'{data.ids[i]}.jpg', height=32, width=32) for i in part]
        box = lambda n: [2, 8 + 8*n, 30, 8 + 8*n, 30, 14 + 8*n, 2, 14 + 8*n]
        annotations = [dict(id=10*i + n, image_id=i, category_id=data.numbers[c], iscrowd=0, segmentation=[box(n)]) for i in part for n, c in enumerate(data.named[i])]
        (place/'annotations'/f'instances_{split}2014.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=k, name=c) for c, k in data.numbers.items()])))
        data.pictures |= {data.ids[i]: place/f'{split}2014'/f'{data.ids[i]}.jpg' for i in part}
    return data


OWN = ['spaces', 'semicolons', 'commas', 'windows', 'names with extension', 'splits', 'sub-folders', 'no masks']
FORMS = dict.fromkeys(OWN, own) | {'voc, xml': voc, 'voc, table': voc, 'class folders': class_folders, 'coco': coco}
MASKED = [*OWN[:-1], 'voc, xml', 'voc, table']


def make(place, form, seed):
    data = FORMS[form](place, form, seed)
    for k, path in enumerate(data.pictures.values()): picture(path, 100*seed + k)
    for path in data.masks.values(): path.parent.mkdir(parents=True, exist_ok=True)
    data.repaint(None)
    return data


def checked(place):
    "What the command does: recognise, read each split, look at everything"
    r, sets, errors = recipe('quick', **recognise(place)), {}, []
    if r.data.kind == 'coco': r = change_recipe(r, labels='file')
    for split in (splits := all_splits(r.data.kind, r.data.root)):
        try: sets[split] = dataset(change_recipe(r, train=splits[0]), split, errors, False)
        except InputError as e: errors.append(e)
    return verify(sets, errors, True, None, 0, False)


# Faults: a function of a data set that plants it, and returns what has to be said of it (any of several)

def third(data): return list(data.pictures.values())[3]
def truncated(data): path = third(data); path.write_bytes(path.read_bytes()[:-90]); return path.name
def empty(data): third(data).write_bytes(b''); return third(data).name
def page(data): third(data).write_text('<html>404</html>'); return third(data).name
def one_pixel(data): Image.new('RGB', (1, 1)).save(third(data)); return third(data).name
def deep(data): Image.fromarray(np.full((32, 32), 999, np.uint16)).save(third(data), 'PNG'); return third(data).name
def missing(data): third(data).unlink(); return (third(data).stem,)
def stray(data): picture(third(data).with_name('stray.jpg'), 1); return 'stray.jpg'
def hidden(data): picture(third(data).with_name('._p.jpg'), 1); return '._p.jpg'
def other_kind(data): third(data).with_name('photo.heic').write_bytes(b'ftypheic'); return 'photo.heic'

def other_size(data): path = list(data.masks.values())[2]; Image.new('L', (32, 31)).save(path); return f'{path.name}: the mask is 31 x 32'
def id_too_high(data): path = list(data.masks.values())[2]; m = data.mask(2); m[:2] = 99; Image.fromarray(m).save(path); return f'{path.name}: ids [99]'
def colours(data): path = list(data.masks.values())[2]; Image.new('RGB', (32, 32)).save(path); return f'{path.name}: PNG RGB'
def cut_mask(data): path = list(data.masks.values())[2]; content = path.read_bytes(); path.write_bytes(content[:len(content)//2]); return path.name
def as_jpeg(data): path = list(data.masks.values())[2]; Image.new('L', (32, 32)).save(path, 'JPEG'); return f'{path.name}: JPEG'
def lost(data): path = list(data.masks.values())[2]; path.unlink(); return data.ids[2]
def spare_mask(data): path = list(data.masks.values())[2].with_name('spare.png'); Image.new('L', (32, 32)).save(path); return 'spare.png'
def contradiction(data):
    i = next(i for i, names in enumerate(data.named) if len(names) == 1)
    other = next(c for c in NAMES if c not in data.named[i]); m = data.mask(i); m[m > 0] = data.numbers[other]
    Image.fromarray(m).save(data.masks[data.ids[i]]); return f'{Path(data.ids[i]).name}.png: the mask shows {other}'
def permuted(data):
    there = list(data.numbers.values()); after = dict(zip(there, there[1:] + there[:1]))
    data.repaint(lambda k: after.get(k, k)); return f'{after[data.numbers["horse"]]} {"horse"!r}'
def shifted(data): data.repaint(lambda k: k + 1); return f'{data.numbers["horse"] + 1} {"horse"!r}'
def from_zero(data): data.repaint(lambda k: k - 1 if k else 255); return f'{data.numbers["horse"] - 1} {"horse"!r}'
def black_and_white(data): data.repaint(lambda k: 255*(k > 0)); return 'hold 0 and 255 only'
def grey(data): data.repaint(lambda k: k*255//4); return 'are spread over 0 to 255'
def blank(data): data.repaint(lambda k: 0); return 'masks are blank'
def others_masks(data):
    contents = [path.read_bytes() for path in data.masks.values()]
    for path, content in zip(data.masks.values(), contents[2:] + contents[:2]): path.write_bytes(content)
    return ('are they the masks of these pictures?',)

def twice(data): data.rewrite(data.rows() + data.rows()[3:4]); return f'line {len(data.rows())}: id'
def no_picture(data): data.rewrite([*data.rows(), data.rows()[4].replace(Path(data.ids[3]).name, 'tom')]); return 'tom'
def escaping(data): data.rewrite([*data.rows(), data.rows()[4].replace(data.ids[3], '../tom')]); return "'../tom'"
def without_row(data): rows = data.rows(); del rows[4]; data.rewrite(rows); return f'{Path(data.ids[3]).name}.jpg'
def typo(data):
    rows = data.rows(); n = next(n for n, row in enumerate(rows) if n and 'horse' in row); rows[n] = rows[n].replace('horse', 'hrose'); data.rewrite(rows)
    return 'hrose'
def open_quote(data):
    rows = data.rows(); rows[4] = rows[4].replace(',', ',"', 1); data.rewrite(rows)
    return ('quote', f'{Path(data.ids[7]).name}.jpg')
def no_rows(data): data.rewrite(data.rows()[:1]); return 'no rows under the header'
def no_text(data): data.table.write_text(''); return data.table.name
def two_tables(data): (data.place/'tags.csv').write_text(data.table.read_text(encoding='utf-8-sig')); return 'may be folder (labels.csv) or folder (tags.csv)'
def everywhere(data):
    rows = data.rows(); data.rewrite(rows[:1] + [f'{row}{data.cells}thing' for row in rows[1:]]); return 'a class in every picture'

def both_lists(data): val = data.table.with_name('val.txt'); val.write_text(val.read_text() + data.ids[2] + '\n'); return data.ids[2]
def broken_xml(data): (data.place/'Annotations'/f'{data.ids[4]}.xml').write_text('<annotation><object>'); return f'{data.ids[4]}.xml'
def unknown_xml(data): (data.place/'Annotations'/f'{data.ids[4]}.xml').write_text('<annotation><object><name>hrose</name></object></annotation>'); return "did you mean 'horse'"
def no_xml(data): (data.place/'Annotations'/f'{data.ids[4]}.xml').unlink(); return f'{data.ids[4]}.xml'
def no_table_row(data): path = data.place/'image_labels.csv'; path.write_text('\n'.join(row for row in path.read_text().splitlines() if data.ids[4] not in row)); return data.ids[4]
def empty_list(data): data.table.write_text('\n'); return 'train.txt: no ids'

def empty_folder(data): (data.place/'train'/'zebra').mkdir(); return 'zebra: no pictures'
def unknown_folder(data): picture(data.place/'val'/'zebra'/'z.jpg', 1); return "unknown class 'zebra'"
def beside_folders(data): picture(data.place/'train'/'loose.jpg', 1); return 'loose.jpg'
def in_both_splits(data): id = data.ids[2]; picture(data.place/'val'/f'{id.removeprefix("train/")}.jpg', 1); return id.removeprefix('train/')

def edit(data, change): path = data.place/'annotations'/'instances_train2014.json'; found = json.loads(path.read_text()); change(found); path.write_text(json.dumps(found))
def half_a_polygon(data): edit(data, lambda f: f['annotations'][3].update(segmentation=[[1, 2, 3, 4]])); return 'annotation'
def strange_image(data): edit(data, lambda f: f['annotations'][3].update(image_id=777)); return 'image 777'
def strange_category(data): edit(data, lambda f: f['annotations'][3].update(category_id=777)); return 'category 777'
def cut_json(data): path = data.place/'annotations'/'instances_train2014.json'; path.write_text(path.read_text()[:-30]); return 'no whole JSON file'

TABLED = [form for form in OWN if form != 'splits']
FAULTS = [(fault, form) for faults, forms in [
    ((truncated, empty, page), list(FORMS)),
    ((one_pixel, deep), ['spaces', 'commas', 'sub-folders', 'voc, xml', 'class folders', 'coco']),
    ((missing,), [form for form in FORMS if form != 'class folders']),
    ((stray,), ['spaces', 'windows', 'sub-folders', 'voc, table', 'coco']), ((hidden, other_kind), ['spaces', 'windows', 'sub-folders', 'voc, table', 'class folders', 'coco']),
    ((other_size, id_too_high, contradiction, permuted, black_and_white), MASKED),
    ((colours, cut_mask, as_jpeg, lost, spare_mask, shifted, from_zero, blank), ['spaces', 'sub-folders', 'voc, xml', 'voc, table']),
    ((grey, others_masks), ['spaces', 'commas', 'splits']),
    ((twice, no_picture), OWN), ((escaping,), ['spaces', 'commas', 'splits']), ((without_row, typo), TABLED),
    ((open_quote,), ['spaces', 'semicolons', 'no masks']), ((no_rows, no_text, two_tables), ['spaces', 'no masks']), ((everywhere,), ['sub-folders', 'semicolons', 'no masks']),
    ((both_lists, empty_list), ['voc, xml', 'voc, table']), ((broken_xml, unknown_xml, no_xml), ['voc, xml']), ((no_table_row,), ['voc, table']),
    ((empty_folder, unknown_folder, beside_folders, in_both_splits), ['class folders']),
    ((half_a_polygon, strange_image, strange_category, cut_json), ['coco'])] for fault in faults for form in forms]


def named(place, wanted):
    "What is said of a data set, where the fault is not named in it; '' where it is"
    try: found = checked(place); said = [f'{kind}: {line}' for kind, line in found.problems] + [f'{what}: {where}' for what, where in found.notes]
    except InputError as e: said = [str(e)]
    return '' if any(w in line for line in said for w in ([wanted] if isinstance(wanted, str) else wanted)) else f'{wanted}: {said[:4]}'


def usable(form):
    if form != 'coco': return True
    try: import pycocotools
    except ImportError: return False
    return True


def test_every_planted_fault_is_named(tmp_path, figure):
    warnings.simplefilter('ignore')
    wrong, tried = [], [(fault, form) for fault, form in FAULTS if usable(form)]
    for n, (fault, form) in enumerate(tried):
        data = make(tmp_path/f'{n}', form, n)
        if said := named(data.place, fault(data)): wrong.append(f'{fault.__name__} in {form}: {said}')
    assert not wrong, '\n'.join(wrong)
    assert len(tried) >= 100
    figure('verify, planted faults named', f'{len(tried)} of {len(tried)} ({len({f for f, _ in tried})} kinds in {len({f for _, f in tried})} forms of data)')


def test_sound_data_has_no_problem(tmp_path, figure):
    warnings.simplefilter('ignore')
    forms, wrong = [form for form in FORMS if usable(form)], []
    for n in range(108):
        found = checked(make(tmp_path/f'{n}', forms[n % len(forms)], n).place)
        if found.problems or found.notes or found.pictures != 20 or not found.said: wrong.append(f'{forms[n % len(forms)]}: {found.problems[:2]} {found.notes[:2]}')
    assert not wrong, '\n'.join(wrong)
    figure('verify, sound data sets without a problem or a note', f'{n + 1} of {n + 1}')


@pytest.mark.parametrize('form', ['spaces', 'voc, xml'])
def test_sound_although_masks_say_less_or_more(tmp_path, form):
    "void, masks of most pictures missing, of one class only, labels that name the main class only: nothing is taken for another numbering"
    warnings.simplefilter('ignore')
    def void(data): data.repaint(lambda k: 255 if k == 0 else k)
    def one_class(data): data.repaint(lambda k: k if k == data.numbers['horse'] else 0)
    def one_mistake(data): contradiction(data)
    def few(data): [path.unlink() for path in list(data.masks.values())[4:]]
    for change in (void, one_class, one_mistake, *([few] if form == 'spaces' else [])):
        data = make(tmp_path/change.__name__, form, 5); change(data); found = checked(data.place)
        assert len(found.problems) == (change is one_mistake) and not any('otherwise' in line for _, line in found.problems), (change, found.problems)
