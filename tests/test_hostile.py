"""Bad pictures, bad masks and bad labels: all of them named, refused in one line, or skipped and recorded."""
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from consistency_cam.files.checkpoint import load_state, read_json
from consistency_cam.cli import main
from consistency_cam.datasets.folder import Folder
from consistency_cam.datasets.samples import write_mask

CAT = Image.fromarray(data.chelsea()[:120, :160])
SMALL = ('--epochs 1 --size 64 --crop 64 --long-side 56 80 --method cam --batch-size 2 --quiet --backbone resnet10t --output-stride 32 --pretrained random --save-every 100 '
         '--segment-crop 64 --segment-long-side 56 80 --segment-epochs 1 --segment-batch-size 2 --segment-frozen-stages 0 --no-segment-crf --workers').split()


def encoded(image, format, **kwargs):
    out = io.BytesIO()
    image.save(out, format, **kwargs)
    return out.getvalue()


def png(size, bits, colour, rows):
    "A PNG of kinds that Pillow does not write; a row is bytes"
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    header = struct.pack('>IIBBBBB', *size, bits, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows))) + chunk(b'IEND', b'')


def turned(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


JPEG, PNG = encoded(CAT, 'JPEG'), encoded(CAT, 'PNG')

PICTURES = { # name: content, error, what it says
    'cut.jpg': (JPEG[:len(JPEG)//2], 'PictureError', 'cannot be read (image file is truncated'),
    'cut_png.png': (PNG[:len(PNG)//2], 'PictureError', 'cannot be read'),
    'cut_end.png': (PNG[:-20], 'PictureError', 'cannot be read'),
    'changed.png': (PNG[:9000] + bytes(b ^ 255 for b in PNG[9000:9020]) + PNG[9020:], 'PictureError', 'cannot be read'),
    'cut_gif.gif': (encoded(CAT, 'GIF')[:3000], 'PictureError', 'cannot be read'),
    'cut_tif.tif': (encoded(CAT, 'TIFF')[:-3000], 'PictureError', 'cannot be read'),
    'cut_webp.webp': (encoded(CAT, 'WEBP')[:1000], 'PictureError', 'cannot be read'),
    'header.jpg': (JPEG[:20], 'PictureError', 'not a picture'),
    'empty.jpg': (b'', 'PictureError', 'an empty file'),
    'page.jpg': (b'<!doctype html><title>404</title>', 'PictureError', 'not a picture'),
    'text.png': ('Übung\n'.encode('utf-16'), 'PictureError', 'not a picture'),
    'zeros.jpg': (bytes(4096), 'PictureError', 'not a picture'),
    'deep.png': (encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), 'PNG'), 'PictureError', 'I;16 pixels, more than 8 bits each'),
    'deep_tif.tif': (encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), 'TIFF'), 'PictureError', 'I;16 pixels, more than 8 bits each'),
    'integers.tif': (encoded(CAT.convert('I'), 'TIFF'), 'PictureError', 'I pixels, more than 8 bits each'),
    'floats.tif': (encoded(CAT.convert('F'), 'TIFF'), 'PictureError', 'F pixels, more than 8 bits each'),
    'dot.png': (encoded(CAT.resize((1, 1)), 'PNG'), 'PictureError', '1 x 1 pixels'),
    'line.png': (encoded(CAT.resize((400, 3)), 'PNG'), 'PictureError', '3 x 400 pixels'),
    'wide.png': (encoded(Image.new('L', (20_000, 40)), 'PNG'), 'PictureError', '40 x 20000 pixels'),
    'bomb.png': (encoded(Image.new('1', (20_000, 20_000)), 'PNG'), 'BombError', 'Image size (400000000 pixels) exceeds limit'),
    'small_bomb.png': (encoded(Image.new('1', (10_000, 10_000)), 'PNG'), 'BombError', 'Image size (100000000 pixels) exceeds limit'),
}
GOOD = { # name: content, the note
    'good.jpg': (JPEG, None), 'good.webp': (encoded(CAT, 'WEBP'), None), 'good.bmp': (encoded(CAT, 'BMP'), None),
    'trailing.jpg': (JPEG + b'notes of a camera', None), 'progressive.jpg': (encoded(CAT, 'JPEG', progressive=True), None),
    'grey.jpg': (encoded(CAT.convert('L'), 'JPEG'), 'greyscale'), 'black_and_white.png': (encoded(CAT.convert('1'), 'PNG'), 'greyscale'),
    'palette.png': (encoded(CAT.quantize(32), 'PNG'), 'palette'), 'see_through.png': (encoded(CAT.quantize(32), 'PNG', transparency=bytes(range(32))), 'alpha'),
    'cmyk.jpg': (encoded(CAT.convert('CMYK'), 'JPEG'), 'CMYK'), 'alpha.png': (encoded(CAT.convert('RGBA'), 'PNG'), 'alpha'),
    'grey_alpha.png': (encoded(CAT.convert('LA'), 'PNG'), 'alpha'), 'frames.gif': (encoded(CAT, 'GIF', save_all=True, append_images=[CAT.rotate(90)]), 'several frames'),
    'sixteen.png': (png((160, 120), 16, 2, (row.astype('>u2').tobytes() for row in np.array(CAT).astype(np.uint16)*257)), '16 bits a channel'),
    'turned.jpg': (encoded(CAT.transpose(Image.ROTATE_90), 'JPEG', exif=turned(6)), 'turned as its EXIF'),
    'turned_png.png': (encoded(CAT.transpose(Image.ROTATE_90), 'PNG', exif=turned(6)), 'turned as its EXIF'),
    'lying.jpg': (encoded(CAT.transpose(Image.ROTATE_90), 'JPEG', exif=turned(6)), 'EXIF orientation passed over'),
}
IDS = np.zeros((120, 160), np.uint8)
IDS[30:90, 40:120] = 1
MASKS = { # name of the picture: content, what is said of its mask
    'm_size': (IDS[:-1], 'the mask is 119 x 160, its picture 120 x 160'),
    'm_turned': (IDS.T, 'the mask is 160 x 120, its picture 120 x 160'),
    'm_range': (IDS*7, 'ids [7] in the mask'),
    'm_rgb': (encoded(CAT, 'PNG'), 'PNG RGB, not class ids'),
    'm_jpeg': (encoded(Image.fromarray(IDS), 'JPEG'), 'JPEG L, not class ids'),
    'm_deep': (encoded(Image.fromarray(IDS.astype(np.uint16)), 'PNG'), 'PNG I;16B, not class ids'),
    'm_four_bits': (png((160, 120), 4, 0, [b'\x11'*80]*120), 'PNG L;4, not class ids'),
    'm_empty': (b'', 'an empty file'),
    'm_cut': (encoded(Image.fromarray(IDS), 'PNG')[:-40], 'cannot be read'),
    'm_text': (b'1 0 1', 'not a picture'),
    'm_bomb': (encoded(Image.new('L', (20_000, 20_000)), 'PNG'), 'Image size (400000000 pixels)'),
    'm_label': (IDS*2, "the mask shows dog, the labels of 'm_label' name cat"),
}
ROWS = [ # row of the table, what is said of its line
    ('good.jpg,cat', "id 'good.jpg' stands here a second time"), ('tom,cat', "no picture 'tom' in this folder"), ('two,cat', "'two' may be two.jpg or two.png"),
    ('../secret,cat', "'../secret' is not an id"), ('/etc/passwd,cat', "'/etc/passwd' is not an id"), ('a/../b,cat', 'is not an id'), ('spare1,kat', "unknown class 'kat'; did you mean 'cat'?"),
    ('spare3,cat,dog', 'more cells than columns'), (',cat', "'' is not an id"),
]


def make_folder(root):
    "Pictures, masks and a table with everything in it; the lines of the bad rows"
    (root/'pictures').mkdir(parents=True)
    (root/'masks').mkdir()
    names = [*PICTURES, *GOOD]
    for name, (content, *_) in {**PICTURES, **GOOD}.items(): (root/'pictures'/name).write_bytes(content)
    for name in ('lying', 'grey'): write_mask(IDS.T if name == 'lying' else IDS, root/'masks'/f'{name}.png')
    for name, (mask, _) in MASKS.items():
        (root/'pictures'/f'{name}.jpg').write_bytes(JPEG)
        write_mask(mask, root/'masks'/f'{name}.png') if isinstance(mask, np.ndarray) else (root/'masks'/f'{name}.png').write_bytes(mask)
    for name, content in {'two.jpg': JPEG, 'two.png': PNG}.items(): (root/'pictures'/name).write_bytes(content)
    rows = ['id,labels', '', *(f'{name},cat' for name in [*names, *MASKS]), '']
    first = len(rows) + 1
    (root/'labels.csv').write_bytes('\r\n'.join([*rows, *(row for row, _ in ROWS), 'good.bmp,dog', '']).encode())
    return {first + k: said for k, (_, said) in enumerate(ROWS)}


def make_voc(root):
    "A VOC whose lists and annotations are wrong; what is to be said of each"
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Segmentation'): (root/folder).mkdir(parents=True)
    annotation = lambda *names: '<annotation>' + ''.join(f'<object><name>{name}</name></object>' for name in names) + '</annotation>'
    for name, text in dict(good=annotation('cat'), kitten=annotation('kitten'), nothing=annotation(), torn=annotation('cat')[:20], absent=annotation('dog')).items():
        (root/'Annotations'/f'{name}.xml').write_text(text)
        if name != 'absent': (root/'JPEGImages'/f'{name}.jpg').write_bytes(JPEG)
    lists = root/'ImageSets'/'Segmentation'
    (lists/'train.txt').write_bytes(b'\xef\xbb\xbfgood\r\n\r\n kitten\r\nnothing\r\ntorn\r\nabsent\r\n')
    (lists/'val.txt').write_bytes(b'good\n../good\nC:/good\ngood\nunknown\n')
    (lists/'none.txt').write_bytes(b'\r\n')
    return [('LabelError', 'kitten.xml: unknown class'), ('LabelError', 'torn.xml: cannot be read'), ('PictureError', 'absent.jpg: no such file'),
            ('IdError', "val.txt, line 2: '../good' is not an id"), ('IdError', "val.txt, line 3: 'C:/good' is not an id"), ('IdError', "val.txt, line 4: id 'good' stands here a second time"),
            ('LabelError', 'unknown.xml: no such file'), ('IdError', 'none.txt: no ids in it')]


def make_imagenet(root):
    "Class folders that are wrong; what is to be said of each"
    for name in ('n01/a.jpg', 'n01/a.png', 'n03/b.jpg', 'n01/c\td.jpg'):
        (root/'train'/name).parent.mkdir(parents=True, exist_ok=True)
        (root/'train'/name).write_bytes(PNG if name.endswith('png') else JPEG)
    (root/'train'/'n02').mkdir()
    (root/'classes.txt').write_bytes(b'n01 tabby\r\n\r\nn02\r\nn02 rocket\r\nn01 cup\r\n')
    return [('LabelError', "classes.txt, line 3: 'n02' has no name"), ('LabelError', "classes.txt, line 5: 'n01' stands here a second time"), ('LabelError', "n03: unknown class 'n03'"),
            ('PictureError', 'n02: no pictures in this class folder'), ('IdError', "a.png: id 'n01/a' stands here a second time"), ('IdError', r"'n01/c\td' is not an id")]


def test_whole_zoo_is_named(tmp_path, capsys, figure):
    rows, voc, imagenet = make_folder(tmp_path/'own'), make_voc(tmp_path/'voc'), make_imagenet(tmp_path/'imagenet')
    assert main(['verify', *(str(tmp_path/name) for name in ('own', 'voc', 'imagenet')), '--quiet', '--report', str(tmp_path/'all.txt')]) == 1
    text, lines = capsys.readouterr().out, (tmp_path/'all.txt').read_text().splitlines()
    named = lambda error, *parts: [line for line in lines if line.startswith(f'{error}: ') and all(part in line for part in parts)]

    for name, (_, error, said) in PICTURES.items():
        assert len(named(error, f'pictures/{name}: ', said)) == 1, name
    for name, (_, said) in MASKS.items(): assert len([line for line in lines if 'Error: ' in line and f'masks/{name}.png: ' in line and said in line]) == 1, name
    errors = []
    Folder(tmp_path/'own'/'pictures', tmp_path/'own'/'labels.csv', classes=['cat', 'dog'], errors=errors) # with the classes listed, a slip in one is found
    lines += [str(e) for e in errors if 'unknown class' in str(e)]
    assert any("note: kat: a class of 0 pictures, like 'cat'" in line for line in lines)
    for number, said in rows.items(): assert any(f'labels.csv, line {number}: ' in line and said in line for line in lines), (number, said)
    for error, said in voc + imagenet: assert len(named(error, said)) == 1, said
    for name, (_, note) in GOOD.items():
        if note: assert any(line.startswith('note: ') and f'pictures/{name}: {note}' in line for line in lines), name
        assert not any(f'pictures/{name}: ' in line and 'Error: ' in line for line in lines), name

    assert text.count('more problems') >= 1 and len(text.splitlines()) < len(lines)
    figure('bad pictures', f'{len(PICTURES)}, each named')
    figure('bad labels and masks', f'{len(MASKS) + len(rows) + len(voc) + len(imagenet)}, each named')


def folder_data(root, bad=True):
    "Six pictures in a folder, with masks; where `bad`, two more that cannot be used, in the middle of the table"
    names = [f'p{i}' for i in range(6)]
    for i, name in enumerate([*names, 'cut', 'other']):
        (root/'pictures').mkdir(parents=True, exist_ok=True)
        CAT.rotate(10*i).save(root/'pictures'/f'{name}.jpg')
        write_mask(IDS + i % 2, root/'masks'/f'{name}.png')
    (root/'pictures'/'cut.jpg').write_bytes(JPEG[:2000])
    write_mask(IDS[:50], root/'masks'/'other.png')
    order = [*names[:2], 'cut', *names[2:4], 'other', *names[4:]] if bad else names
    (root/'labels.csv').write_text('id,labels\n' + ''.join(f'{name},{"cat;dog" if i % 2 else "cat"}\n' for i, name in enumerate(order) if name in names or bad))
    return ['--data', 'folder', '--train', 'all', '--val', '', '--root', str(root/'pictures'), '--labels', str(root/'labels.csv'), '--masks', str(root/'masks'), *SMALL, '0']


def test_refused_before_training_and_by_a_worker(tmp_path, capsys):
    options = folder_data(tmp_path/'own')
    assert main(['train', str(tmp_path/'run'), *options]) == 1
    assert main(['run', str(tmp_path/'deeplab'), *options, '--segment-on', 'masks']) == 1
    (tmp_path/'single'/'train'/'n01').mkdir(parents=True)
    for i, content in enumerate([JPEG, JPEG[:2000]]): (tmp_path/'single'/'train'/'n01'/f'{i}.jpg').write_bytes(content)
    pretrain = f'--pretrain imagenet --pretrain-root {tmp_path/"single"} --pretrain-batch-size 2 --pretrain-crop 64 --pretrain-long-side 56 80 --pretrain-epochs 1 --pretrain-k-student 0 --workers 1'
    assert main(['train', str(tmp_path/'pretrained'), *folder_data(tmp_path/'clean', bad=False), *pretrain.split()]) == 1
    lines = capsys.readouterr().err.splitlines()
    for line, path in zip(lines, ('own/pictures/cut.jpg', 'own/pictures/cut.jpg', 'single/train/n01/1.jpg'), strict=True):
        assert line.startswith(f'consistency-cam: error: {tmp_path/path}: cannot be read (image file is truncated'), line
    assert not (tmp_path/'run'/'classify'/'weights.safetensors').exists()


@pytest.mark.parametrize('stage', ['classify', pytest.param('segment', marks=pytest.mark.slow)])
def test_skipped_is_recorded_and_trains_as_if_it_never_was(tmp_path, capsys, stage):
    with_bad, clean = folder_data(tmp_path/'own'), folder_data(tmp_path/'good', bad=False)
    rows = (tmp_path/'own'/'labels.csv').read_text().splitlines()
    (tmp_path/'good'/'labels.csv').write_text('\n'.join(row for row in rows if not row.startswith(('cut', 'other'))) + '\n')
    more = dict(classify=[], segment=['--segment-on', 'masks'])[stage]
    for kind, options in (('skip', [*with_bad, '--on-bad-picture', 'skip']), ('clean', clean)):
        assert main([dict(classify='train', segment='run')[stage], str(tmp_path/kind), *options, *more]) == 0
    skip, whole = (load_state(tmp_path/kind/stage/'weights.safetensors')['net'] for kind in ('skip', 'clean'))
    assert all((skip[k] == whole[k]).all() for k in whole)
    found = read_json(tmp_path/'skip'/stage/'stage.json')['result']['skipped']['all']
    assert (found['count'], found['of']) == (2, 8) and 'cut.jpg: cannot be read' in found['reasons'][0] and 'other.png: the mask is 50 x 160' in found['reasons'][1]
    assert 'skipped' not in read_json(tmp_path/'clean'/stage/'stage.json')['result']
    assert main(['status', str(tmp_path/'skip')]) == 0
    assert '2 of 8 skipped' in capsys.readouterr().out


def test_cams_name_a_picture_that_went_bad(tmp_path, capsys):
    options = folder_data(tmp_path/'own', bad=False)
    assert main(['train', str(tmp_path/'run'), *options]) == 0
    assert 'all: cat: a class in every picture, so no negatives' in capsys.readouterr().err
    (tmp_path/'own'/'pictures'/'p3.jpg').write_bytes(JPEG[:2000])
    assert main(['cams', str(tmp_path/'run'), '--quiet']) == 1
    assert capsys.readouterr().err.startswith(f"consistency-cam: error: {tmp_path/'own'/'pictures'/'p3.jpg'}: cannot be read")


def test_record_is_never_written_over_another_file(tmp_path, capsys):
    options = folder_data(tmp_path/'own', bad=False)[:12]
    for text in ('{"a": 1}\n', 'id,labels\n', '\x00\x01'):
        (tmp_path/'mine').write_text(text)
        assert main(['verify', *options, '--quiet', '--record', str(tmp_path/'mine')]) == 1
        assert 'not a record of `verify`' in capsys.readouterr().err and (tmp_path/'mine').read_text() == text


@pytest.mark.slow
def test_killed_scan_goes_on_and_leaves_no_process(tmp_path):
    "kill -9 in the middle: the record is whole, the same command looks at the rest only, and the pool ends with its master"
    (tmp_path/'own'/'pictures').mkdir(parents=True)
    big = encoded(CAT.resize((1600, 1200)), 'JPEG')
    for i in range(400): (tmp_path/'own'/'pictures'/f'{i}.jpg').write_bytes(big if i != 300 else big[:9000])
    (tmp_path/'own'/'labels.csv').write_text('id,labels\n' + ''.join(f'{i},cat\n' for i in range(400)))
    record = tmp_path/'record.jsonl'
    command = [sys.executable, '-m', 'consistency_cam', 'verify', str(tmp_path/'own'), '--quiet', '--workers', '2', '--record', str(record)]
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not record.exists() or record.read_text().count('"job"') < 32:
        assert process.poll() is None, process.stdout.read()
        time.sleep(.02)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.kill(), process.wait()
    begun = record.read_text().count('"job"')
    assert 32 <= begun < 400 and children
    for _ in range(100):
        if not any(Path(f'/proc/{child}').exists() for child in children): break
        time.sleep(.1)
    else: raise AssertionError('processes of the pool are still there')
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and '400 pictures' in done.stdout and 'pictures/300.jpg: cannot be read' in done.stdout, done.stderr
    jobs = [json.loads(line)['job'][0] for line in record.read_text().splitlines() if '"job"' in line and line.endswith('}')]
    assert len(set(jobs)) == 400 and len(jobs) <= 401
