"""Folders of cut-outs that are not as they should be: one line each, by the class, by `dataset` and by the command."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_cam.datasets.cutouts import Cutouts
from consistency_cam.experiments.pipeline import Run, dataset, recipe
from consistency_cam.datasets.samples import InputError
from consistency_cam.datasets.verify import recognise
from commands import command

pytestmark = pytest.mark.situation('broken and hostile data')
CLASSES = 'disc', 'square'


def cutout(shape, n, side=80, alpha=255):
    "A disc or a square in a colour of its own, with a transparent margin"
    y, x = np.mgrid[-1.2:1.2:side*1j, -1.2:1.2:side*1j]
    inside = x**2 + y**2 < 1 if shape == 'disc' else np.maximum(abs(x), abs(y)) < .9
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = np.random.default_rng(n).integers(0, 256, 3), inside*alpha
    return Image.fromarray(rgba)


def dots():
    "Single opaque pixels, far from each other"
    rgba = np.zeros((101, 101, 4), np.uint8)
    rgba[::10, ::10] = 255
    return Image.fromarray(rgba)


def noise(n, shape=(120, 150, 3)): return Image.fromarray(np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    for name in CLASSES:
        (tmp_path/'own'/'cutouts'/name).mkdir(parents=True)
        for n in range(4): cutout(name, n).save(tmp_path/'own'/'cutouts'/name/f'{n}.png')
    (tmp_path/'own'/'backgrounds').mkdir()
    for n in range(4): noise(n).save(tmp_path/'own'/'backgrounds'/f'{n}.png')
    return tmp_path/'own'


def add(name, picture): return lambda root: ((root/name).parent.mkdir(exist_ok=True), picture.save(root/name))
def drop(*names): return lambda root: [shutil.rmtree(root/n) if (root/n).is_dir() else (root/n).unlink() for n in names]
def cut_off(name): return lambda root: (root/name).write_bytes((root/name).read_bytes()[:-60])
def written(name, content=b''): return lambda root: (root/name).write_bytes(content)


def renamed(root):
    "Every background is in a folder named like a class"
    (root/'backgrounds'/'disc').mkdir()
    for n in range(4): (root/'backgrounds'/f'{n}.png').rename(root/'backgrounds'/'disc'/f'{n}.png')


def same(root):
    "All backgrounds are one and the same"
    for n in range(1, 4): shutil.copy(root/'backgrounds'/'0.png', root/'backgrounds'/f'{n}.png')


BAD = {
    'RGB': (add('cutouts/disc/x.png', noise(7)), 'cutouts/disc/x.png: RGB pixels without transparency'),
    'JPEG': (add('cutouts/disc/x.jpg', noise(7)), 'cutouts/disc/x.jpg: RGB pixels without transparency'),
    'grey': (add('cutouts/disc/x.png', noise(7).convert('L')), 'L pixels without transparency'),
    'opaque': (add('cutouts/disc/x.png', noise(7).convert('RGBA')), 'transparent nowhere'),
    'wholly transparent': (add('cutouts/disc/x.png', cutout('disc', 7, alpha=0)), 'cutouts/disc/x.png: wholly transparent'),
    'a veil': (add('cutouts/disc/x.png', cutout('disc', 7, alpha=120)), 'wholly transparent, the most opaque pixel at 47%'),
    'dots': (add('cutouts/disc/x.png', dots()), 'would fill less than 1%'),
    'larger than the background': (add('cutouts/disc/x.png', cutout('disc', 7, 400)), 'larger than the smallest background, 120 at its shorter side'),
    'tiny': (add('cutouts/disc/x.png', cutout('disc', 7, 12)), 'sides may be 16'),
    'deep': (add('cutouts/disc/x.png', Image.fromarray(np.zeros((40, 40), np.uint16))), 'more than 8 bits each'),
    'cut off': (cut_off('cutouts/disc/0.png'), 'cutouts/disc/0.png: cannot be read'),
    'empty': (written('cutouts/disc/0.png'), 'cutouts/disc/0.png: an empty file'),
    'text': (written('cutouts/disc/0.png', b'no picture'), 'cutouts/disc/0.png: not a picture'),
    'one object': (add('cutouts/ring/x.png', cutout('disc', 7)), 'cutouts/ring: only one picture'),
    'one object twice': (lambda root: [add(f'cutouts/ring/{n}.png', cutout('disc', 7))(root) for n in 'xy'], 'cutouts/ring: only one picture'),
    'no class': (add('cutouts/x.png', cutout('disc', 7)), 'cutouts/x.png: in no folder of a class'),
    'no cut-outs': (drop(*(f'cutouts/{name}' for name in CLASSES)), 'cutouts: no pictures in this folder'),
    'no folder of cut-outs': (drop('cutouts'), "no folder 'cutouts' in it; it should hold cutouts/CLASS/….png and backgrounds/….jpg: `make photos`"),
    'no folder of backgrounds': (drop('backgrounds'), "no folder 'backgrounds' in it"),
    'no backgrounds': (drop(*(f'backgrounds/{n}.png' for n in range(4))), 'backgrounds: no pictures in this folder'),
    'no plain background': (renamed, 'each of its 4 pictures is in a folder named like a class'),
    'one background': (drop(*(f'backgrounds/{n}.png' for n in range(3))), 'backgrounds: only one picture'),
    'one background four times': (same, 'backgrounds: only one picture'),
    'a small background': (add('backgrounds/x.png', noise(7, (40, 300, 3))), 'backgrounds/x.png: 40 pixels at its shorter side, too small for pictures of 64'),
    'a background that is none': (written('backgrounds/0.png'), 'backgrounds/0.png: an empty file'),
    'a class called background': (lambda root: (root/'cutouts'/'disc').rename(root/'cutouts'/'background'), "a class cannot be called 'background'"),
}


def both(root):
    "What is said of a folder: nothing can be wrong with one split only that the other does not show"
    for split in ('train', 'val'): Cutouts(root, 4, split=split, size=64)


@pytest.mark.parametrize('kind', BAD)
def test_what_is_wrong_is_said_in_one_line(kind, root):
    both(root)
    spoil, said = BAD[kind]
    spoil(root)
    with pytest.raises(InputError) as error: both(root)
    assert said in str(error.value) and '\n' not in str(error.value) and str(error.value).startswith(str(root))


def test_verify_names_every_bad_cutout(root):
    assert recognise(root) == dict(data='cutouts', root=str(root))
    done = command('verify', root, '--size', 64, '--pictures', 6, '--quiet')
    assert done.status == 0 and 'cutouts (train, val): 70 pictures, 70 masks: no problem' in done.out
    for kind in ('RGB', 'wholly transparent'): BAD[kind][0](root)
    add('cutouts/square/y.png', noise(8))(root)
    done = command('verify', root, '--size', 64, '--pictures', 6, '--quiet')
    assert done.status == 1 and 'cutouts/disc/x.png: wholly transparent' in done.out and 'cutouts/square/y.png: RGB pixels without' in done.out


def test_a_background_that_breaks_off_is_said_when_it_is_shown(root):
    samples = Cutouts(root, 8, size=64)
    path = samples.backgrounds[0]
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=f'{path}: cannot be read'): samples.check()


def test_a_recipe_finds_them(root, monkeypatch, tmp_path):
    r = recipe('quick', data='cutouts', root=str(root), pictures=6, size=64)
    train, val = (dataset(r, split) for split in ('train', 'val'))
    sixth = train.image(5)
    assert (len(train), len(val), train.classes) == (6, 64, list(CLASSES)) and train[0].image.shape == (3, 64, 64)
    with pytest.raises(InputError, match="unknown split 'half_train'; .*known: train, val"): dataset(r, 'half_train')
    with pytest.raises(InputError, match="labels=own.csv: data 'cutouts' takes none"): dataset(recipe('quick', data='cutouts', labels='own.csv'), 'train')
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path/'photos')
    assert torch.equal(dataset(recipe('quick', data='cutouts', pictures=6, size=64), 'train').image(5), sixth)
    assert Run(tmp_path/'run', recipe('quick', data='cutouts')).recipe.data.root == 'photos'


def test_bad_cutouts_are_skipped_where_the_recipe_says_so(root, tmp_path):
    BAD['opaque'][0](root)
    skipping = Run(tmp_path/'run', recipe('quick', data='cutouts', root=str(root), pictures=4, size=64, on_bad_picture='skip'), progress=False)
    assert [len(skipping.samples(split)) for split in ('train', 'val')] == [4, 64]
    reasons = [reason for split in skipping.skipped('train', 'val').get('skipped', {}).values() for reason in split['reasons']]
    assert len(reasons) == 1 and 'transparent nowhere' in reasons[0]


def test_the_demo_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command('demo', '--data', 'cutouts', '--quiet')
    assert done.status == 1 and done.err.count('\n') == 1 and "photos: no folder 'cutouts' in it" in done.err and '`make photos` unpacks' in done.err
    done = command('demo', '--root', tmp_path, '--quiet')
    assert done.status == 1 and 'scenes are generated and have none' in done.err
    assert not [*tmp_path.rglob('*.safetensors')]
