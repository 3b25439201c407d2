"""Own pictures with every form of table that people have: read rightly, or refused with the place and what to do; and what lies in no table."""
import json
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from consistency_cam.datasets.folder import Folder
from consistency_cam.datasets.imagenet import ImageNet
from consistency_cam.experiments.pipeline import dataset, settle_recipe
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError, Samples, checked_ids, write_mask
from consistency_cam.datasets.tables import read_classes
from commands import command

pytestmark = pytest.mark.situation('tables, names and labels of own pictures')

CAT, DOG, BOTH, NONE = ['cat'], ['dog'], ['cat', 'dog'], []
FOUR = dict(p0=CAT, p1=DOG, p2=BOTH, p3=NONE)  # what most of the tables below say


def picture(path, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, 'red').save(path)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Four pictures"
    place = tmp_path_factory.mktemp('own')/'pictures'
    for i in range(4): picture(place/f'p{i}.png')
    return place


def said_of(samples): return {id: [samples.classes[k - 1] for k in samples.label_ids(i)] for i, id in enumerate(samples.ids)}


def read(pictures, tmp_path, content, name='labels.csv', **more):
    (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Folder(pictures, tmp_path/name, **more)


EXPORTED = ''.join(json.dumps(dict(file_name=f'images/{id}.png', mask_file_name=f'masks/{id}.png', labels=labels)) + '\n' for id, labels in FOUR.items())
OPEN_IMAGES = 'ImageID,Source,LabelName,Confidence\np0,v,cat,1\np0,v,dog,0\np1,v,dog,1\np2,v,cat,1\np2,v,dog,1\np3,v,cat,0\n'
BOXES = 'filename,width,height,class,xmin\np0.png,24,20,cat,1\np0.png,24,20,cat,7\np1.png,24,20,dog,1\np2.png,24,20,cat,1\np2.png,24,20,dog,9\n'
FORMS = {  # name: content of the table, (what it says, a part of the sentence that says how it was read)
    'semicolons in cells': ('id,labels\np0,cat\np1,dog\np2,cat;dog\np3,\n', FOUR, "separated by ';'"),
    'commas in quotes': ('id,labels\np0,cat\np1,dog\np2,"cat, dog"\np3,\n', FOUR, "separated by ','"),
    'bars': ('id,labels\np0,cat\np1,dog\np2,cat|dog\np3,""\n', FOUR, "separated by '|'"),
    'spaces, each word also alone': ('id,labels\np0,cat\np1,dog\np2,cat dog\np3,\n', FOUR, 'separated by spaces'),
    'separator at the end': ('id,labels\np0,cat;\np1,dog;\np2,cat;dog;\np3,\n', FOUR, "separated by ';'"),
    'a tag twice in a cell': ('id,labels\np0,cat;cat\np1,dog\np2,cat;dog\np3,\n', FOUR, "separated by ';'"),
    'Excel: semicolons, BOM, CRLF': ('\ufeffid;labels\r\np0.png;cat\r\np1.png;dog\r\np2.png;cat,dog\r\np3.png;\r\n', FOUR, "columns separated by ';'"),
    'Excel: sep= in front': ('sep=;\r\nid;labels\r\np0;cat\r\np1;dog\r\np2;cat,dog\r\np3;\r\n', FOUR, "columns separated by ';'"),
    'tabs': ('id\tlabels\np0\tcat\np1\tdog\np2\tcat,dog\np3\t\n', FOUR, 'columns separated by tabs'),
    'UTF-16 with its mark': ('id,labels\np0,cat\np1,dog\np2,cat;dog\np3,\n'.encode('utf-16'), FOUR, ''),
    'line ends of old Macs': ('id,labels\rp0,cat\rp1,dog\rp2,cat;dog\rp3,\r', FOUR, ''),
    'blank lines and spaces': ('\n\n id , labels \n\n p0 , cat\np1,  dog\n\np2, cat ; dog \np3,\n\n', FOUR, ''),
    'all in quotes': ('"id","labels"\n"p0","cat"\n"p1","dog"\n"p2","cat;dog"\n"p3",""\n', FOUR, ''),
    'row numbers of pandas': (',filename,labels\n0,p0.png,cat\n1,p1.png,dog\n2,p2.png,cat;dog\n3,p3.png,\n', FOUR, "names of pictures in 'filename'"),
    'lists of pandas': ('filename,labels\np0.png,[\'cat\']\np1.png,[\'dog\']\np2.png,"[\'cat\', \'dog\']"\np3.png,[]\n', FOUR, 'in lists'),
    'commas at the ends': ('id,labels,\np0,cat,\np1,dog,\np2,cat;dog,\np3,,\n', FOUR, ''),
    'header filename, tags': ('filename,tags\np0.png,cat\np1.png,dog\np2.png,cat;dog\np3.png,\n', FOUR, "labels in 'tags'"),
    'header Image, Label': ('Image,Label\np0.png,cat\np1.png,dog\np2.png,cat;dog\np3.png,\n', FOUR, "labels in 'Label'"),
    'header image_name, classes': ('image_name,classes\np0,cat\np1,dog\np2,cat;dog\np3,\n', FOUR, "labels in 'classes'"),
    'header File Name, Category': ('File Name,Category\np0.png,cat\np1.png,dog\np2.png,cat;dog\np3.png,\n', FOUR, "labels in 'Category'"),
    'number and name of the picture': ('id,file,labels\n1,p0.png,cat\n2,p1.png,dog\n3,p2.png,cat;dog\n4,p3.png,\n', FOUR, "names of pictures in 'file'"),
    'columns in another order': ('note,labels,id\nx,cat,p0\ny,dog,p1\n,cat;dog,p2\n,,p3\n', FOUR, ''),
    'a row per tag': ('id,label\np0,cat\np1,dog\np2,cat\np2,dog\np3,\n', FOUR, 'rows of one picture put together'),
    'a row per tag, and several in one': ('id,labels\np0,cat\np1,dog\np2,cat;dog\np2,dog\np3,\n', FOUR, 'rows of one picture put together'),
    'a row per box': (BOXES, dict(p0=CAT, p1=DOG, p2=BOTH), 'rows of one picture put together'),
    'Open Images': (OPEN_IMAGES, FOUR, 'rows of one picture put together'),
    'columns of 0 and 1': ('id,cat,dog\np0,1,0\np1,0,1\np2,1,1\np3,0,0\n', FOUR, 'labels in 2 columns'),
    'columns of marks': ('id;dog;cat\np0;;x\np1;x;\np2;x;x\np3;;\n', FOUR, 'labels in 2 columns'),
    'columns of true and false': ('file,cat,dog\np0.png,True,False\np1.png,False,True\np2.png,True,True\np3.png,False,False\n', FOUR, 'labels in 2 columns'),
    'columns of 1 and -1': ('id,cat,dog\np0,1,-1\np1,-1,1\np2,1,1\np3,-1,-1\n', FOUR, 'labels in 2 columns'),
    'folders in front': ('path,labels\npics/p0.png,cat\npics/p1.png,dog\npics/p2.png,cat;dog\npics/p3.png,\n', FOUR, "'pics/' in front of the names left off"),
    'folders of another computer': ('path,labels\nC:\\photos\\p0.png,cat\nC:\\photos\\p1.png,dog\nC:\\photos\\p2.png,cat;dog\nC:\\photos\\p3.png,\n', FOUR, "'C:/photos/' in front"),
    'a dot in front': ('path,labels\n./p0.png,cat\n./p1.png,dog\n./p2.png,cat;dog\n./p3.png,\n', FOUR, ''),
    'capitals in the extension': ('id,labels\np0.PNG,cat\np1.PNG,dog\np2.Png,cat;dog\np3,\n', FOUR, ''),
    'numbers as names': ('id,labels\np0,1\np1,2\np2,1;2\n', dict(p0=['1'], p1=['2'], p2=['1', '2']), ''),
    'names of two words': ('id,labels\np0,traffic light;\np1,dog\np2,traffic light;dog\n', dict(p0=['traffic light'], p1=['dog'], p2=['dog', 'traffic light']), "separated by ';'"),
    'names of two words in a row each': ('id,label\np0,traffic light\np0,stop sign\np1,stop sign\n', dict(p0=['stop sign', 'traffic light'], p1=['stop sign']), 'one name in each cell'),
    'one name written in two ways': (f'id,labels\np0,{unicodedata.normalize("NFC", "Käse")}\np1,{unicodedata.normalize("NFD", "Käse")}\np2,\u200bKäse \n', dict(p0=['Käse'], p1=['Käse'], p2=['Käse']), '1 class'),
    'a list in JSON': (json.dumps([dict(image=f'{id}.png', labels=labels) for id, labels in FOUR.items()]), FOUR, 'in lists'),
    'an object in JSON': (json.dumps({f'{id}.png': labels for id, labels in FOUR.items()}), FOUR, 'in lists'),
    'objects in an object': (json.dumps({id: dict(tags=labels) for id, labels in FOUR.items()}), FOUR, 'in lists'),
    'two words in JSON': (json.dumps(dict(p0=['traffic light'], p1=['dog'])), dict(p0=['traffic light'], p1=['dog']), 'in lists'),
    'texts in JSON': (json.dumps(dict(p0='cat', p1='dog', p2='cat;dog', p3='')), FOUR, "separated by ';'"),
    'flags in JSON': (json.dumps([dict(file=id, cat=int('cat' in labels), dog=int('dog' in labels)) for id, labels in FOUR.items()]), FOUR, 'labels in 2 columns'),
    'JSON by lines, as export writes it': (EXPORTED, FOUR, "'images/' in front"),
    'JSON of one line': (json.dumps(dict(file_name='p0.png', labels=['cat'])), dict(p0=CAT), ''),
}


@pytest.mark.parametrize('form', FORMS)
def test_form_is_read(form, pictures, tmp_path):
    content, wanted, how = FORMS[form]
    samples = read(pictures, tmp_path, content)
    assert said_of(samples) == wanted and samples.classes == sorted({name for names in wanted.values() for name in names})
    assert how in samples.reading and samples.reading.startswith('labels.csv: ') and '\n' not in samples.reading
    bare = sum(not names for names in wanted.values())
    assert (f'{bare} picture' in samples.reading) == (bare > 0)


REFUSED = {  # name: content of the table, what is said
    'two words, one tag per picture': ('id,labels\np0,traffic light\np1,stop sign\n', "line 2: 'traffic light' may be one name or 2; separate names by ';'"),
    'two words beside single ones': ('id,labels\np0,cat\np1,coffee cup\np2,dog\n', "line 3: 'coffee cup' may be one name or 2"),
    'two words that share one': ('id,labels\np0,traffic light\np1,traffic sign\np2,cat\n', "line 2: 'traffic light' may be"),
    'two words of which one is a class': ('id,labels\np0,dog\np1,hot dog\n', "line 3: 'hot dog' may be"),
    'adjectives and nouns': ('id,labels\np0,black cat\np1,white cat\np2,black dog\np3,white dog\n', "line 2: 'black cat' may be"),
    'three words': ('id,labels\np0,red traffic light\np1,cat\n', "'red traffic light' may be one name or 3"),
    'two separators': ('id,labels\np0,cat;dog\np1,"cat, cow"\n', "line 3: names separated by ',', and in line 2 by ';'"),
    'a slash between names': ('id,labels\np0,cat\np1,dog\np2,cat/dog\n', "line 4: is 'cat/dog' one class, or 'cat' and 'dog'?"),
    'an open quote': ('id,labels\np0,cat\np1,"cat\np2,dog\np3,cat\n', 'line 3: a quote begins here that is not closed'),
    'an open quote, closed by the next': ('id,labels\np0,"cat\np1,"dog"\np2,dog\n', 'line 2: a quote begins here that is not closed'),
    'an open quote around the name': ('id,labels\n"p0,cat\np1,dog\n', 'line 2: a quote begins here that is not closed'),
    'an open quote in the last line': ('id,labels\np0,cat\np1,"dog', None),
    'an open quote in another column': ('id,labels,note\np0,cat,"fine\np1,dog,"good"\np2,dog,\n', 'line 2: a quote begins here that is not closed'),
    'a quote in the middle': ('id,labels\np0,"cat" dog\np1,dog\n', 'line 2: a quote begins here that is not closed'),
    'cp1252': ('id,labels\np0,Käse\np1,dog\n'.encode('cp1252'), 'line 2: not UTF-8 text (byte 0xe4); save it as UTF-8'),
    'latin-1 far down': (('id,labels\n' + 'p0,cat\n'*1 + 'p1,Ñu\n').encode('latin-1'), 'line 3: not UTF-8 text (byte 0xd1); save it as UTF-8'),
    'UTF-16 without its mark': ('id,labels\np0,cat\n'.encode('utf-16-le'), 'save it as UTF-8'),
    'an Excel workbook': (b'PK\x03\x04' + bytes(100), "a workbook (Excel, OpenDocument), not text; save the sheet as 'CSV UTF-8'"),
    'no header': ('p0.png,cat\np1.png,dog\n', "line 1: no column of the pictures' names"),
    'no header of four columns': ('p0,1,0\np1,0,1\n', "line 1: no column of the pictures' names"),
    'no labels': ('id\np0\n', 'line 1: no column of labels'),
    'other columns than labels': ('id,width,height\np0,24,20\n', "line 2: '24' in the column 'width'"),
    'two columns of labels': ('id,label,class\np0,1,cat\n', "'label' and 'class' may each be the column of labels"),
    'a column twice': ('id,labels,labels\np0,cat,dog\n', "two columns are called 'labels'"),
    'no rows': ('id,labels\n', 'no rows under the header'),
    'empty': ('', "no column of the pictures' names"),
    'no labels in any row': ('id,labels\np0,\np1,\n', 'no label in any row'),
    'unquoted names': ('id,labels\np0,cat\np1,cat,dog\n', 'line 3: more cells than columns'),
    'a row without its cell': ('id,labels\np0,cat\np1\n', "line 3: no cell 'labels'"),
    'the same row twice': ('id,labels\np0,cat\np1,dog\np0,cat\n', "line 4: id 'p0' stands here a second time"),
    'one picture by two names': ('id,labels\np0,cat\np0.png,dog\n', "line 3: id 'p0' stands here a second time"),
    'a label and none': ('id,labels\np0,cat\np0,\np1,dog\n', "line 3: 'p0' has a label in one row and none in another"),
    'two splits': ('id,labels,split\np0,cat,train\np0,dog,val\n', "line 3: 'p0' is in split 'val' here and in 'train'"),
    'no such picture': ('id,labels\np0,cat\ntom,dog\n', "line 3: {root}: no picture 'tom' in this folder"),
    'a path out of the folder': ('id,labels\np0,cat\n../p1,dog\n', "line 3: '../p1' is not an id"),
    'an absolute path among names': ('id,labels\np0,cat\n/etc/passwd,dog\n', "line 3: '/etc/passwd' is not an id"),
    'background': ('id,labels\np0,cat\np1,background\n', "a class cannot be called 'background'"),
    'Background, with others': ('id,labels\np0,cat;_Background_\np1,dog\n', "a class cannot be called '_Background_'"),
    'a column background': ('id,cat,background\np0,1,0\np1,0,1\n', "a class cannot be called 'background'"),
    'nan': ('id,labels\np0,cat\np1,NaN\n', "a class cannot be called 'NaN'"),
    '0, 1 and -1': ('id,cat,dog\np0,1,0\np1,-1,1\n', "'-1' and '0' among the columns of classes"),
    '0, 1 and empty': ('id,cat,dog\np0,1,0\np1,,1\n', "'' and '0' among the columns of classes"),
    'a label that is half sure': ('ImageID,LabelName,Confidence\np0,cat,1\np1,dog,0.5\n', "line 3: '0.5' as the confidence of a label"),
    'a list that is cut': ('id,labels\np0,"[\'cat\', dog]"\n', 'is not a whole list'),
    'JSON that is cut': ('[{"id": "p0", "labels": ["cat"]}', 'line 1: not whole JSON'),
    'JSON by lines that is cut': ('{"id": "p0", "labels": ["cat"]}\n{"id": "p1", "la', 'line 2: not whole JSON'),
    'a name twice in JSON': ('{"p0": ["cat"], "p0": ["dog"]}', "the name 'p0' stands twice"),
    'COCO': ('{"images": [], "annotations": [], "categories": []}', 'an annotation file of COCO'),
    'JSON without labels': ('[{"id": "p0", "labels": ["cat"]}, {"id": "p1"}]', "entry 2: no cell 'labels'"),
    'null as labels': ('[{"id": "p0", "labels": ["cat"]}, {"id": "p1", "labels": null}]', "entry 2: no cell 'labels'"),
    'null among labels': ('{"p0": ["cat", null]}', 'None as the name of a class'),
    'JSON of another form': ('{"version": 5, "shapes": []}', 'JSON of another form'),
    'counts behind names': ('id,labels\np0,cat:2;dog:1\np1,dog:3\n', "'cat:2' ends in a number, as all names do; leave counts and scores out"),
    'scores behind names': ('id,labels\np0,cat=0.93\np1,dog=0.5\n', 'ends in a number, as all names do'),
    'single quotes': ("id,labels\np0,'cat'\np1,'cat;dog'\n", "write names without marks around them, separated by ';'"),
    'typographic quotes': ('id,labels\np0,cat\np1,“dog”\n', 'line 3: is “dog” the name of a class?'),
    'a tuple': ('id,labels\np0,"(\'cat\',)"\np1,"(\'cat\', \'dog\')"\n', 'write names without marks around them'),
    'a set': ('id,labels\np0,{cat}\np1,"{cat, dog}"\n', 'write names without marks around them'),
    'capitals in some rows': ('id,labels\np0,cat\np1,Cat;dog\n', "line 2: 'cat', and in line 3 'Cat': one class, or two? write one in one way"),
    'capitals in some columns': ('id,cat,CAT\np0,1,0\np1,0,1\n', 'one class, or two?'),
    'a row of column names in the middle': ('id,labels\np0,cat\nid,labels\np1,dog\n', "line 3: {root}: no picture 'id' in this folder"),
    'a comment above the header': ('# made by x\nid,labels\np0,cat\n', "line 1: no column of the pictures' names"),
    'a list of names and numbers': ('p0.png 0\np1.png 1\n', "line 1: no column of the pictures' names"),
    'shares in columns': ('id,cat,dog\np0,.9,.1\n', "'.9' in the column 'cat'"),
    'counts in columns': ('id,cat,dog\np0,2,0\n', "'2' in the column 'cat'"),
    'counts in JSON': ('{"p0": {"labels": {"cat": 2}}}', "{{'cat': 2}} as a label; write a list of names"),
    'objects as labels': ('{"id": "p0", "labels": [{"name": "cat"}]}\n{"id": "p1", "labels": []}', "{{'name': 'cat'}} as the name of a class; write it as text"),
    'objects in objects': ('{"file_name": "p0.png", "objects": {"categories": ["cat"]}}\n{"file_name": "p1.png", "objects": {"categories": []}}', "in the column 'objects'; with no column of labels"),
    'a packed table': (b'\x1f\x8b\x08\0' + bytes(range(128, 160)), 'not UTF-8 text'),
    'a comma in a name without quotes': ('id,labels\na,b.png,cat\np0,dog\n', 'line 2: more cells than columns; put names that stand in one cell in quotes'),
    'another spelling of a file': ('id,labels\nP0,cat\np1,dog\n', "no picture 'P0' in this folder; add it, or take its row out of the table (there is 'p0')"),
    'an address': ('id,labels\np0.png?x=1,cat\np1,dog\n', "no picture 'p0.png?x=1' in this folder"),
    'too many classes': ('id,labels\n' + 'p0,' + ';'.join(f'c{k}' for k in range(255)) + '\n', '255 classes, and a mask holds 254'),
}


@pytest.mark.parametrize('form', REFUSED)
def test_form_is_refused(form, pictures, tmp_path):
    content, said = REFUSED[form]
    with pytest.raises(InputError) as e: read(pictures, tmp_path, content)
    assert (said or 'line 3: a quote begins here').format(root=pictures) in str(e.value) and '\n' not in str(e.value) and 'keep one' not in str(e.value)


# What a table says of splits, and which of them a recipe takes

SPLITS = {  # name: table, options of the recipe, splits to train on and to hold out, or what is said
    'no column': ('id,labels\np0,cat\np1,dog\n', {}, ('all', '')),
    'no column, all': ('id,labels\np0,cat\np1,dog\n', dict(train='all'), ('all', '')),
    'no column, all and none': ('id,labels\np0,cat\np1,dog\n', dict(train='all', val=''), ('all', '')),
    'train and val': ('id,labels,split\np0,cat,train\np1,dog,val\n', {}, ('train', 'val')),
    'train and test': ('id,labels,subset\np0,cat,train\np1,dog,test\n', {}, ('train', 'test')),
    'Training and Validation': ('id,labels,Split\np0,cat,Training\np1,dog,Validation\n', {}, ('Training', 'Validation')),
    'train only': ('id,labels,split\np0,cat,train\np1,dog,train\n', {}, ('train', '')),
    'all although there are splits': ('id,labels,split\np0,cat,train\np1,dog,val\n', dict(train='all'), ('all', '')),
    'is_valid': ('fname,labels,is_valid\np0,cat,False\np1,dog,True\n', {}, ('train', 'val')),
    'other names': ('id,labels,split\np0,cat,a\np1,dog,b\n', {}, "no split 'train' among a, b; say which to train on by --train"),
    'other names, said': ('id,labels,split\np0,cat,a\np1,dog,b\n', dict(train='a', val='b'), ('a', 'b')),
    'a split that is not there': ('id,labels,split\np0,cat,train\np1,dog,val\n', dict(train='mine'), "no row of split 'mine'; the column has ['train', 'val']"),
    'a split without a column': ('id,labels\np0,cat\np1,dog\n', dict(train='train'), "no column split, so there is no split 'train'"),
}


@pytest.mark.parametrize('form', SPLITS)
def test_splits(form, pictures, tmp_path):
    content, given, wanted = SPLITS[form]
    (tmp_path/'t.csv').write_text(content)
    r = recipe('voc-quick', data='folder', root=str(pictures), labels=str(tmp_path/'t.csv'), **given)
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted.replace('[', r'\[').replace(']', r'\]')): dataset(settle_recipe(r), settle_recipe(r).data.train)
        return
    r = settle_recipe(r)
    assert (r.data.train, r.data.val) == wanted and settle_recipe(r) == r
    used = [id for split in wanted if split for id in dataset(r, split).ids]
    assert sorted(used) == ['p0', 'p1']


# Names of pictures, as cameras, people and operating systems write them

NAMES = ['IMG (1)', 'IMG_0001 copy', 'Käfer', unicodedata.normalize('NFD', 'Käfer2'), 'at 9.41.00\u202fAM', 'a\xa0b', 'zero\u200bwidth', '#1 100% & more', 'a..b', '-rf', "it's", 'a;b', '12:30', 'a:b', 'x,y', '画'*81, '🐱', '👩🏽\u200d🚀', 'photo ',
         ' photo', 'a.b.c', 'CON', '~', '*', '[x]', '$HOME', '😀\ufe0f', 'עברית', 'a=b', '{id}', 'tab?', '@2x', 'new+name', '“quoted”']


@pytest.mark.parametrize('extension', ['', '.png'])
def test_names(extension, tmp_path):
    "With and without their extension in the table, in JSON, where nothing is cut from them"
    for name in NAMES: picture(tmp_path/'p'/f'{name}.png')
    (tmp_path/'t.json').write_text(json.dumps({f'{name}{extension}': [['cat'], ['dog']][k % 2] for k, name in enumerate(NAMES)}), encoding='utf-8')
    samples = Folder(tmp_path/'p', tmp_path/'t.json')
    assert samples.ids == NAMES
    samples.check()


@pytest.mark.parametrize('form', ['NFC', 'NFD'])
def test_accents_on_the_disk_and_in_the_table(form, tmp_path):
    "composed in one, decomposed in the other; and so for the masks"
    other = dict(NFC='NFD', NFD='NFC')[form]
    here, there = (unicodedata.normalize(f, 'Müller/Käfer') for f in (form, other))
    picture(tmp_path/'p'/f'{here}.jpg'); picture(tmp_path/'p'/'b.jpg')
    write_mask(np.ones((20, 24), int), tmp_path/'m'/f'{there}.png')
    (tmp_path/'t.csv').write_text(f'id,labels\n{there}.jpg,cat\nb.jpg,dog\n')
    samples = Folder(tmp_path/'p', tmp_path/'t.csv', masks=tmp_path/'m')
    assert samples.ids == [here, 'b'] and samples.mask(0).eq(1).all() and samples.mask(1) is None


@pytest.mark.parametrize('bad', ['../a', 'a/../b', '/a', 'a//b', 'a/', '.', '..', '', 'a\nb', 'a\tb', 'a\0', 'C:/a', 'a\\b', '\udce9', 'a\u2028b', '画'*82, 'x'*244])
def test_names_that_no_product_can_have(bad):
    with pytest.raises(InputError, match='id number 1: '): checked_ids([bad])


@pytest.mark.parametrize('end, format', [('.jfif', 'JPEG'), ('.jpe', 'JPEG'), ('.JPG', 'JPEG'), ('.tga', 'TGA'), ('.jp2', 'JPEG2000'), ('.TIFF', 'TIFF'), ('.webp', 'WEBP'), ('.pgm', 'PPM'), ('.dib', 'DIB'), ('.apng', 'PNG'), ('.qoi', 'QOI'), ('.pcx', 'PCX')])
def test_extensions(end, format, tmp_path):
    Image.new('L' if end == '.pgm' else 'RGB', (24, 20), 'red' if end != '.pgm' else 9).save(tmp_path/f'a{end}', format)
    (tmp_path/'t.csv').write_text('id,labels\na,cat\n')
    Folder(tmp_path, tmp_path/'t.csv').check()


@pytest.mark.parametrize('name', ['a.heic', 'a.mov', 'a.cr2', 'a'])
def test_a_file_that_is_no_picture_is_named(name, tmp_path):
    picture(tmp_path/'b.png'); (tmp_path/name).touch(); (tmp_path/'t.csv').write_text('id,labels\nb,cat\na,dog\n')
    with pytest.raises(InputError, match=f"no picture 'a' in this folder.*there is '{name}', which does not end as pictures do"): Folder(tmp_path, tmp_path/'t.csv')


LISTED = {'single quotes': "p0,'cat'\np1,dog\n", 'counts': 'p0,cat:2\np1,dog:1\n', 'capitals': 'p0,cat\np1,Cat\n'}


@pytest.mark.parametrize('form', LISTED)
def test_names_of_such_forms_that_are_listed_are_classes(form, pictures, tmp_path):
    content = f'id,labels\n{LISTED[form]}'
    names = [line.split(',')[1] for line in LISTED[form].splitlines()]
    assert said_of(read(pictures, tmp_path, content, classes=names)) == dict(zip(('p0', 'p1'), [[n] for n in names]))


# Links, and masks under other names

def test_folders_behind_links_are_looked_into(tmp_path):
    for name in ('disk/dog/b.png', 'own/cat/a.png', 'disk/masks/dog/b.png'): picture(tmp_path/name)
    (tmp_path/'own'/'dog').symlink_to(tmp_path/'disk'/'dog')
    (tmp_path/'disk'/'dog'/'up').symlink_to(tmp_path/'own')  # leads back to where it stands
    samples = Folder(tmp_path/'own')
    assert said_of(samples) == {'cat/a': CAT, 'dog/b': DOG}
    write_mask(np.ones((20, 24), int), tmp_path/'disk'/'masks'/'dog'/'b.png')
    (tmp_path/'masks').mkdir(); (tmp_path/'masks'/'dog').symlink_to(tmp_path/'disk'/'masks'/'dog')
    assert [m is not None for m in Folder(tmp_path/'own', masks=tmp_path/'masks').mask_paths] == [False, True]
    (tmp_path/'disk'/'dog'/'c.heic').touch()
    assert 'a file of another kind, passed over; the first is' in command('verify', tmp_path/'own', '--data', 'folder', '--workers', 0, '--quiet').out
    (tmp_path/'disk'/'dog'/'up').unlink()
    assert list(ImageNet(tmp_path, 'own').ids) == ['cat/a', 'dog/b']


@pytest.mark.parametrize('names', [['p0.PNG', 'p1.PNG'], ['p0.PNG', 'p1.png'], ['p0.Png', 'p1.png']])
def test_masks_of_capital_extensions(names, pictures, tmp_path):
    for name in names: write_mask(np.ones((20, 24), int), tmp_path/'m'/name)
    samples = read(pictures, tmp_path, 'id,labels\np0,cat\np1,cat\n', masks=tmp_path/'m')
    assert [samples.mask(i).eq(1).all() for i in range(2)] == [True, True]


@pytest.mark.parametrize('name', ['p0_mask.png', 'p0.png.png', 'p0.bmp', 'p0.tif'])
def test_masks_of_other_names_are_refused_with_the_one_that_is_there(name, pictures, tmp_path):
    (tmp_path/'m').mkdir(); Image.fromarray(np.ones((20, 24), np.uint8)).save(tmp_path/'m'/name)
    with pytest.raises(InputError, match=f'no mask for any picture; a mask is named as its picture, such as p0.png, and there is {name}'): read(pictures, tmp_path, 'id,labels\np0,cat\n', masks=tmp_path/'m')


# No table at all

LAYOUTS = {  # name: files, what is found, or what is said
    'a folder for each class': (['cat/0.png', 'dog/1.png'], ({'cat/0': CAT, 'dog/1': DOG}, 'a folder for each class, 2 classes, no splits')),
    'splits of class folders': (['train/cat/0.png', 'train/dog/1.png', 'val/dog/2.png'], ({'train/cat/0': CAT, 'train/dog/1': DOG, 'val/dog/2': DOG}, 'splits train 2, val 1')),
    'folders below them': (['cat/images/0.png', 'dog/images/1.png'], ({'cat/images/0': CAT, 'dog/images/1': DOG}, '2 classes')),
    'folders of two words': (['traffic light/0.png', 'dog/1.png'], ({'dog/1': DOG, 'traffic light/0': ['traffic light']}, '2 classes')),
    'pictures only': (['0.png', '1.png'], 'name the table by --labels FILE'),
    'one folder': (['cat/0.png'], 'name the table by --labels FILE'),
    'pictures beside a folder': (['0.png', 'cat/1.png', 'dog/2.png'], 'name the table by --labels FILE'),
    'pictures and masks': (['images/0.png', 'masks/0.png'], 'name the table by --labels FILE'),
    'splits of pictures': (['train/0.png', 'val/1.png'], 'name the table by --labels FILE'),
    'folders of one name but for capitals': (['cat/0.png', 'Cat/1.png'], 'one class, or two? write one in one way'),
    'a folder called background': (['cat/0.png', 'background/1.png'], "a class cannot be called 'background'"),
    'a table beside': (['0.png', '1.png', '../labels.csv'], ({'0': CAT, '1': DOG}, 'labels.csv: ')),
    'a table within': (['0.png', '1.png', 'tags.csv'], ({'0': CAT, '1': DOG}, 'tags.csv: ')),
    'two tables': (['0.png', '1.png', 'tags.csv', 'labels.csv'], 'labels.csv and tags.csv may each hold the labels; say which by --labels'),
    'a table and class folders': (['cat/0.png', 'dog/1.png', '../labels.csv'], "no picture '0' in this folder; add it, or take its row out of the table (there is 'cat/0')"),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_labels_that_are_not_named(layout, tmp_path):
    files, wanted = LAYOUTS[layout]
    root = tmp_path/'deep'/'own'
    for f in files:
        if f.endswith('.csv'): (root/f).resolve().parent.mkdir(parents=True, exist_ok=True); (root/f).resolve().write_text('id,labels\n0,cat\n1,dog\n')
        else: picture(root/f)
    if isinstance(wanted, str):
        with pytest.raises(InputError) as e: Folder(root)
        assert wanted in str(e.value)
    else:
        samples = Folder(root)
        assert said_of(samples) == wanted[0] and wanted[1] in samples.reading


# The order of the classes

ORDERS = {  # name: {file: content}, the classes, or what is said
    'sorted': ({}, ['cat', 'dog']), 'beside the pictures': ({'../classes.txt': 'dog\ncat\n'}, ['dog', 'cat']), 'among them': ({'classes.txt': 'dog\ncat\n'}, ['dog', 'cat']),
    'beside the masks': ({'../../m/classes.txt': 'dog\ncat\n'}, ['dog', 'cat']), 'among the masks': ({'../../m/masks/classes.txt': 'dog\ncat\n'}, ['dog', 'cat']),
    'the same twice': ({'classes.txt': 'dog\ncat\n', '../classes.txt': '1 dog\n2 cat\n'}, ['dog', 'cat']), 'two': ({'classes.txt': 'dog\ncat\n', '../classes.txt': 'cat\ndog\n'}, 'other classes than in'),
    'as export writes it': ({'../classes.json': '{"1": "dog", "2": "cat"}'}, ['dog', 'cat']), 'with background': ({'../classes.txt': '__background__\ndog\ncat\n'}, ['dog', 'cat']),
    'with more': ({'../classes.txt': 'dog\ncow\ncat\n'}, ['dog', 'cow', 'cat']), 'with a slip': ({'../classes.txt': 'dgo\ncat\n'}, "unknown class 'dog'; did you mean 'dgo'? known: dgo, cat ("),
    'from 0': ({'../classes.txt': '0 dog\n1 cat\n'}, 'in a mask 0 is the background'), 'with a gap': ({'../classes.txt': '1 dog\n5 cat\n'}, 'number the classes 1 to 2'),
}


@pytest.mark.parametrize('order', ORDERS)
def test_order_of_the_classes(order, tmp_path):
    files, wanted = ORDERS[order]
    root, masks = tmp_path/'a'/'p', tmp_path/'m'/'masks'
    for name in '01': picture(root/f'{name}.png')
    write_mask(np.ones((20, 24), int), masks/'0.png')
    for f, content in files.items(): (root/f).resolve().write_text(content)
    (tmp_path/'t.csv').write_text('id,labels\n0,cat\n1,dog\n')
    for more in [{}] + [dict(classes=(root/f).resolve()) for f in files if len(files) == 1]:
        if isinstance(wanted, str):
            with pytest.raises(InputError) as e: Folder(root, tmp_path/'t.csv', masks=masks, **more)
            assert wanted in str(e.value)
        else: assert Folder(root, tmp_path/'t.csv', masks=masks, **more).classes == wanted


@pytest.mark.parametrize('content', ['a\nb', 'a\r\nb\r\n', '\ufeffa\nb\n', '1 a\n2 b', '2,b\n1,a', 'a,1\nb,2', '1: a\n2: b', 'id,name\n1,a\n2,b', 'name,id\na,1\nb,2', '0 background\n1 a\n2 b', 'background\na\nb', '__ignore__\n_background_\na\nb',
    '["a", "b"]', '["background", "a", "b"]', '{"1": "a", "2": "b"}', '{"a": 1, "b": 2}', '[{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]', '0 background\n1 a\n2 b\n255 void', '"a"\n"b"'])
def test_lists_of_classes(content, tmp_path):
    (tmp_path/'classes.txt').write_text(content)
    assert read_classes(tmp_path/'classes.txt')[0] == ['a', 'b']


# The whole way

TINY = ('--recipe quick --method cam --pool noisy_or --backbone resnet10t --output-stride 32 --frozen-stages 0 --pretrained random --epochs 1 --batch-size 4 --crop 64 --long-side 64 64 --scales 1 --workers 0 --no-pseudo-crf '
        '--affinity-crop 64 --affinity-long-side 64 64 --affinity-epochs 1 --affinity-batch-size 2 --walk-steps 2 --segment none --quiet').split()


@pytest.fixture(scope='module')
def negatives(tmp_path_factory):
    "Eight pictures, every second of which has none of the classes, with masks, and a run up to its pseudo-labels"
    d, r = tmp_path_factory.mktemp('negatives'), np.random.default_rng(0)
    for i in range(8):
        mask = np.zeros((64, 64), int)
        if i % 2: mask[16:48, 16:48] = 1 + i % 4 // 2
        (d/'pictures').mkdir(exist_ok=True)
        Image.fromarray((r.integers(0, 60, (64, 64, 3)) + 90*mask[..., None]).astype(np.uint8)).save(d/'pictures'/f'{i}.png'); write_mask(mask, d/'masks'/f'{i}.png')
    (d/'labels.csv').write_text('file,label\n' + ''.join(f'{i}.png,{["", "cat", "", "dog"][i % 4]}\n' for i in range(8)))
    options = ['--data', 'folder', '--root', d/'pictures', '--masks', d/'masks']
    done = command('run', d/'run', *options, *TINY)
    return SimpleNamespace(d=d, options=options, done=done)


@pytest.mark.filterwarnings('ignore')
def test_pictures_without_a_label_go_the_whole_way(negatives):
    "trained on, with masks of background that no warning speaks of, left out where edges between classes are learnt, in the report"
    from consistency_cam.files.checkpoint import read_json
    from consistency_cam.datasets.samples import read_mask
    d, run = negatives.d, negatives.d/'run'
    assert negatives.done.status == 0 and 'report: ' in negatives.done.out, negatives.done.err
    r = read_json(run/'recipe.json')['data']
    assert (r['train'], r['val'], r['labels']) == ('all', '', str(d/'labels.csv')), 'the table is found, all of it is trained on, nothing held out'
    about = read_json(run/'pseudo'/'all'/'manifest.json')
    assert not any(about['pictures'][str(i)]['all_zero'] for i in (0, 2, 4, 6)) and about['result']['pictures'] == 8
    assert all(read_mask(run/'pseudo'/'all'/f'{i}.png').eq(0).all() for i in (0, 2, 4, 6))
    assert read_json(run/'affinity'/'stage.json')['result']['pictures'] <= 4
    assert (run/'report.html').exists()
    assert command('verify', d, '--workers', 0, '--quiet').status == 0
    assert command('run', run, '--quiet').status == 0, 'asked again it is done'


def test_export_is_read_again(negatives, tmp_path):
    assert command('export', negatives.d/'run', '--as', 'folder', '--out', tmp_path/'out', '--quiet').status == 0
    again, old = Folder(tmp_path/'out'/'images', masks=tmp_path/'out'/'masks'), Folder(negatives.d/'pictures')
    assert (again.ids, again.classes, again.labels.tolist()) == (old.ids, old.classes, old.labels.tolist())
    again.check()


def test_quiet_still_warns_and_records(negatives, tmp_path):
    "The classes with their pictures in the record and the report, the class that stands everywhere on stderr"
    from consistency_cam.files.checkpoint import read_json
    (tmp_path/'all.csv').write_text('file,label\n' + ''.join(f'{i}.png,{"sky;cat" if i % 2 else "sky"}\n' for i in range(8)))
    done = command('run', tmp_path/'run', '--data', 'folder', '--root', negatives.d/'pictures', '--labels', tmp_path/'all.csv', *TINY, '--until', 'cams')
    assert done.status == 0 and done.err.splitlines() == ['consistency-cam: warning: all: sky: a class in every picture, so no negatives: nothing shows what does not belong to it; add pictures without it, with no label']
    kept = read_json(tmp_path/'run'/'classify'/'stage.json')['result']['labels']
    assert kept[0] == 'pictures of each of 2 classes: sky 8, cat 4' and "labels in 'label', separated by ';'" in kept[1]
    assert kept[0] in (tmp_path/'run'/'report.html').read_text(encoding='utf-8')
    assert read_json(negatives.d/'run'/'classify'/'stage.json')['result']['labels'][0] == 'pictures of each of 2 classes: cat 2, dog 2; 4 pictures without any class'
    assert 'no negatives' not in negatives.done.err


def roboflow(root, form='masks', splits=dict(train='ab', valid='c'), head='Pixel Value, Class\n0, background\n1, cat\n2, dog\n', shown=dict(a=[1], b=[2], c=[1, 2])):
    "An export of Roboflow: a folder for each split, pictures, table and masks beside each other"
    for split, ids in splits.items():
        for id in ids:
            picture(root/split/f'{id}_jpg.rf.00{id}.jpg')
            mask = np.zeros((20, 24), np.uint8)
            for k in shown[id]: mask[2 + 6*k:8 + 6*k] = k
            if form == 'masks': Image.fromarray(mask).save(root/split/f'{id}_jpg.rf.00{id}_mask.png')
        rows = ''.join(f'{id}_jpg.rf.00{id}.jpg, {int(1 in shown[id])}, {int(2 in shown[id])}\n' for id in ids)
        (root/split/'_classes.csv').write_text(head if form == 'masks' else f'filename, cat, dog\n{rows}')
    (root/'README.roboflow.txt').write_text('an export')
    return root


@pytest.mark.parametrize('form', ['masks', 'columns'])
def test_an_export_of_roboflow(form, tmp_path):
    root = roboflow(tmp_path/'export', form)
    done = command('verify', root, '--workers', 0, '--quiet')
    assert done.status == 0 and f'3 pictures, {3*(form == "masks")} masks: no problem' in done.out and 'splits train 2, valid 1' in done.out and 'passed over' not in done.out and 'no list names' not in done.out, done.out
    r = settle_recipe(recipe('quick', data='folder', root=str(root), pretrained='random'))
    assert (r.data.train, r.data.val) == ('train', 'valid')
    train, valid = dataset(r, 'train'), dataset(r, 'valid')
    assert said_of(train) == {'train/a_jpg.rf.00a': CAT, 'train/b_jpg.rf.00b': DOG} and said_of(valid) == {'valid/c_jpg.rf.00c': BOTH} and train.classes == ['cat', 'dog']
    for samples in (train, valid): samples.check(); assert samples.has_masks == (form == 'masks')
    if form == 'masks': assert valid.mask(0).unique().tolist() == [0, 1, 2]
    one = Folder(root/'train'); assert said_of(one) == {'a_jpg.rf.00a': CAT, 'b_jpg.rf.00b': DOG}


@pytest.mark.filterwarnings('ignore')
def test_a_run_on_an_export_of_roboflow(tmp_path):
    ids = 'abcdefgh'
    roboflow(tmp_path/'export', splits=dict(train=ids, valid='y'), shown={id: [[1], [2], [], [1, 2]][k % 4] for k, id in enumerate(ids + 'y')})
    for path in (tmp_path/'export').glob('*/*.*'):
        if path.suffix in ('.jpg', '.png'): Image.open(path).resize((64, 64), 0).save(path)
    done = command('run', tmp_path/'run', '--data', 'folder', '--root', tmp_path/'export', *TINY, '--until', 'cams')
    assert done.status == 0 and 'report: ' in done.out, done.err


WRONG_EXPORTS = {
    'a mask is missing': (lambda root: (root/'train'/'a_jpg.rf.00a_mask.png').unlink(), 'a_jpg.rf.00a.jpg: no mask a_jpg.rf.00a_mask.png beside it'),
    'a mask of a class that is not listed': (lambda root: Image.fromarray(np.full((20, 24), 3, np.uint8)).save(root/'train'/'a_jpg.rf.00a_mask.png'), '00a_mask.png: ids [3] in the mask, but classes are 1..2'),
    'a mask of another size': (lambda root: Image.fromarray(np.zeros((20, 25), np.uint8)).save(root/'train'/'a_jpg.rf.00a_mask.png'), 'the mask is 20 x 25, its picture 20 x 24'),
    'splits of other classes': (lambda root: (root/'valid'/'_classes.csv').write_text('Pixel Value, Class\n0, background\n1, dog\n2, cat\n'), 'other classes than in'),
    'a table beside it': (lambda root: (root/'labels.csv').write_text('id,labels\n'), 'labels.csv and _classes.csv may each hold the labels'),
    'a class at 0': (lambda root: [(root/s/'_classes.csv').write_text('Pixel Value, Class\n0, cat\n1, dog\n') for s in ('train', 'valid')], "id 0 is 'cat', and in a mask 0 is the background"),
}


@pytest.mark.parametrize('name', WRONG_EXPORTS)
def test_an_export_that_is_not_right_is_refused(name, tmp_path):
    change, said = WRONG_EXPORTS[name]
    change(root := roboflow(tmp_path/'export'))
    with pytest.raises(InputError) as e: Folder(root).check()
    assert said in str(e.value) and '\n' not in str(e.value)
    done = command('verify', root, '--data', 'folder', '--workers', 0, '--quiet')
    assert done.status == 1 and (said in done.out + done.err or name == 'a table beside it'), done.out + done.err


@pytest.mark.parametrize('arguments, said', [(['--labels', 'none.csv'], 'none.csv: no such file'), (['--train', 'mine'], "no column split, so there is no split 'mine'"), (['--classes', 'classes.txt'], 'classes.txt: no such file')])
def test_one_line_before_anything_is_made(arguments, said, negatives, tmp_path):
    done = command('run', tmp_path/'run', *negatives.options, *arguments, *TINY)
    assert done.status == 1 and done.err.count('\n') == 1 and said in done.err and not (tmp_path/'run').exists(), done.err


def test_more_classes_than_a_mask_holds(tmp_path):
    "are fine for single labels to pre-train on, and refused where masks would be made of them"
    for k in range(255): picture(tmp_path/'in'/'train'/f'c{k:03d}'/f'{k}.png', (16, 16))
    r = recipe('quick', data='imagenet', root=str(tmp_path/'in'), val='', pretrained='random', backbone='resnet10t', segment='none', affinity='none')
    assert len(dataset(r, 'train').classes) == 255
    from consistency_cam.experiments.pipeline import run
    with pytest.raises(InputError, match='255 classes, and a mask holds 254'): run(r, tmp_path/'run', progress=False)
    assert not (tmp_path/'run').exists()
    with pytest.raises(InputError, match='255 classes, and a mask holds 254'): Folder(tmp_path/'in'/'train')


@pytest.mark.parametrize('name', ['background', 'Background', '_background_', '__background__', 'nan', 'None', ''])
def test_a_class_that_is_none(name):
    with pytest.raises(InputError, match='a class cannot be called'): Samples(['a'], ['cat', name], [['cat']])
