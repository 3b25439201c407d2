"""Pictures in shards train as those in folders do, whatever the processes, and a shard that is not safe is refused."""
import io
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from consistency_cam.datasets import shards
from consistency_cam.files.checkpoint import load_state
from consistency_cam.datasets.imagenet import ImageNet
from consistency_cam.iterated import IteratedLearning
from consistency_cam.experiments.pipeline import Run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError, WriteError
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.datasets.shards import Shards
from commands import command as in_this_process
from test_download import tar, tgz, zipped

CLASSES, EACH = 3, 6


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "The same pictures in class folders, and in three shards whose borders are not those of the classes"
    d, scenes, members = tmp_path_factory.mktemp('both'), Scenes(CLASSES * EACH, size=64), []
    for i in range(CLASSES * EACH):
        out = io.BytesIO(); Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(out, 'JPEG', quality=95)
        path = d/'folders'/'train'/f'{i // EACH}'/f'{i:03d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True); path.write_bytes(out.getvalue())
        members.append([(f'{i:03d}.jpg', out.getvalue()), (f'{i:03d}.cls', b'%d\n' % (i // EACH)) if i % 2 else (f'{i:03d}.json', b'{"label": %d}' % (i // EACH))])
    (d/'shards'/'train').mkdir(parents=True)
    for k, part in enumerate((members[:4], members[4:11], members[11:])): (d/'shards'/'train'/f'{k:04d}.tar').write_bytes(tar(*(m for pair in part for m in pair)))
    return d


def pretrained(folder, root, **changes):
    "A pre-training of six steps, and its weights"
    r = recipe('quick', pretrain='imagenet', pretrain_root=str(root), backbone='resnet10t', pretrained='random', frozen_stages=0, batch_norm='trained', pretrain_k_teacher=2, pretrain_k_student=2, pretrain_crop=32,
        pretrain_long_side=(32, 48), pretrain_epochs=2, pretrain_batch_size=6, pictures=8, size=64, save_every=2, **changes)
    Run(folder, r, progress=False).pretrain()
    return load_state(folder/'pretrain'/'weights.safetensors')


def same(a, b): return a['classes'] == b['classes'] and a['net'].keys() == b['net'].keys() and all(torch.equal(v, b['net'][k]) for k, v in a['net'].items())


def test_the_samples_are_the_same(both):
    a, b = ImageNet(both/'folders'), Shards(both/'shards')
    assert len(a) == len(b) == CLASSES * EACH and a.classes == b.classes and torch.equal(a.labels.targets, b.labels.targets)
    assert all(torch.equal(x.image, y.image) for x, y in zip(a, b))
    assert [id.split('/')[-1] for id in a.ids] == [id.split('/')[-1] for id in b.ids]


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pretraining_from_shards_ends_in_the_same_weights(both, tmp_path, workers):
    folders = pretrained(tmp_path/'folders', both/'folders')
    assert same(folders, pretrained(tmp_path/'shards', both/'shards', workers=workers))
    assert not same(folders, pretrained(tmp_path/'seed', both/'shards', seed=1)), 'and could have ended in others'


def test_a_pretraining_from_shards_goes_on_exactly(both, tmp_path, monkeypatch):
    forward, seen = IteratedLearning.forward, []
    def cut(self, batch, step):
        seen.append(step)
        if step == 3: raise KeyboardInterrupt
        return forward(self, batch, step)
    monkeypatch.setattr(IteratedLearning, 'forward', cut)
    with pytest.raises(KeyboardInterrupt): pretrained(tmp_path/'cut', both/'shards')
    monkeypatch.undo()
    assert seen == [0, 1, 2, 3]
    assert same(pretrained(tmp_path/'cut', both/'shards'), pretrained(tmp_path/'whole', both/'folders'))


def held(): return [p for f in os.listdir('/proc/self/fd') if (p := os.path.realpath(f'/proc/self/fd/{f}')).endswith('.tar')]


class Watched(torch.utils.data.Dataset):
    def __init__(self, samples): self.samples = samples
    def __len__(self): return len(self.samples)
    def __getitem__(self, i): return self.samples.image(i), os.getpid(), held()


def test_workers_share_no_file(both):
    samples = Shards(both/'shards'); samples.image(0)
    assert held() == []
    found = list(DataLoader(Watched(samples), batch_size=None, num_workers=2))
    assert len({pid for _, pid, _ in found}) == 2 and all(open_files == [] for *_, open_files in found)
    assert all(torch.equal(image, ImageNet(both/'folders').image(i)) for i, (image, *_) in enumerate(found))


# From the command line

def command(*arguments): return in_this_process(*arguments, '--quiet')


def test_the_command_takes_shards(both, tmp_path):
    done = command('verify', both/'shards', '--workers', 0)
    assert done.status == 0 and f'imagenet (train): {CLASSES * EACH} pictures, 0 masks: no problem' in done.out, done.out + done.err
    done = command('run', tmp_path/'run', '--data', 'imagenet', '--root', both/'shards', '--train', 'train', '--val=', '--method', 'cam', '--until', 'cams', *'--epochs 1 --batch-size 6 --crop 32 --long-side 32 48 --backbone resnet10t --pretrained random'.split())
    assert done.status == 0 and len(list((tmp_path/'run'/'cams'/'train').rglob('*.safetensors'))) == CLASSES * EACH, done.err


def test_verify_names_what_is_wrong_in_a_shard(both, tmp_path):
    good = (both/'folders'/'train'/'0'/'000.jpg').read_bytes()
    (tmp_path/'train').mkdir()
    (tmp_path/'train'/'0.tar').write_bytes(tar(('a.jpg', good), ('a.cls', b'0\n'), ('b.jpg', good[:500]), ('b.cls', b'1\n'), ('c.jpg', good), ('c.cls', b'cat'), ('d.jpg', good)))
    done = command('verify', tmp_path, '--workers', 0)
    assert done.status == 1 and '3 problems (2 LabelError, 1 PictureError)' in done.out, done.out
    for said in ('0.tar: 0/b: cannot be read', '0.tar: c.cls: no class', '0.tar: d: no class; the shard must hold d.cls or d.json'): assert said in done.out, done.out


# Shards that are not safe

def beyond(size, /, **pax):
    "A member that says it has so many bytes"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as t:
        for name, content in GOOD: m = tarfile.TarInfo(name); m.size = len(content); t.addfile(m, io.BytesIO(content))
        m = tarfile.TarInfo('evil.jpg'); m.size, m.pax_headers = size, pax
        out.write(m.tobuf(t.format))
    return out.getvalue()


GOOD = [('a.jpg', b'picture'), ('a.cls', b'0\n')]
HOSTILE = {
    'parent': (tar(*GOOD, ('../evil.jpg', b'x')), "'../evil.jpg' leads out of its folder"), 'absolute': (tar(*GOOD, ('/evil.jpg', b'x')), "'/evil.jpg' has an absolute path"),
    'symbolic link': (tar(*GOOD, ('evil.jpg', tarfile.SYMTYPE, '/etc/passwd')), "'evil.jpg' is a symbolic link"), 'hard link': (tar(*GOOD, ('evil.jpg', tarfile.LNKTYPE, 'a.jpg')), "'evil.jpg' is a hard link"),
    'device': (tar(*GOOD, ('evil.jpg', tarfile.CHRTYPE, '')), "'evil.jpg' is a device"), 'twice': (tar(*GOOD, ('a.jpg', b'other')), "'a.jpg' stands in it a second time"),
    'beyond the end': (beyond(10**12), 'larger than 100 GB'), 'beyond the end of a small file': (beyond(1 << 20), 'cannot be read'), 'beyond the end, in a pax header': (beyond(0, size=str(10**12)), 'larger than 100 GB'),
    'negative': (beyond(-1), 'is not -1 bytes in this file'), 'far negative': (beyond(-2**40), 'cannot be read'), 'negative, in a pax header': (beyond(0, size='-5'), 'is not -5 bytes'), 'sparse, in a pax header': (beyond(0, **{'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', 'GNU.sparse.map': '0,9', 'GNU.sparse.size': '9'}), 'is not 9 bytes'),
    'cut': (tar(*GOOD)[:1400], 'cannot be read'), 'without an end': (tar(*GOOD)[:2048], 'it has no end'), 'compressed': (tgz(*GOOD), 'compressed'), 'zip': (zipped(*GOOD), 'compressed'), 'empty': (b'', 'cannot be read'), 'text': (b'no tar ' * 200, 'cannot be read'),
    'only text': (tar(('a.txt', b'x')), 'no pictures'), 'huge class': (tar(GOOD[0], ('a.cls', b'9' * 4000)), 'a.cls: no class'), 'deep JSON': (tar(GOOD[0], ('a.json', b'[' * 100_000)), 'a.json: no class'),
}


@pytest.mark.parametrize('what', HOSTILE)
def test_hostile_shards_are_refused(tmp_path, what):
    content, said = HOSTILE[what]
    (tmp_path/'train').mkdir(); path = tmp_path/'train'/'0.tar'; path.write_bytes(content)
    with pytest.raises(InputError) as e: Shards(tmp_path)
    assert '\n' not in str(e.value) and len(str(e.value)) < 500 + len(str(path)) and said in str(e.value), str(e.value)
    assert str(path) in str(e.value) and not (tmp_path/'train'/'.train.index').exists() or said.startswith(('no pictures', 'a.'))


def test_a_shard_that_got_shorter_is_named(both, tmp_path):
    (tmp_path/'train').mkdir(); path = tmp_path/'train'/'0.tar'
    path.write_bytes((both/'shards'/'train'/'0000.tar').read_bytes())
    samples = Shards(tmp_path); os.truncate(path, 3000)
    with pytest.raises(InputError, match='0.tar: cut off before the end of 0/003; get the shard once more'): samples.image(3)
    path.unlink()
    with pytest.raises(InputError, match='0.tar: no such file'): samples.image(0)


def test_a_folder_that_cannot_be_written_to(both, tmp_path, monkeypatch):
    "costs the time for the index again, and says so"
    (tmp_path/'train').mkdir(); (tmp_path/'train'/'0.tar').write_bytes((both/'shards'/'train'/'0000.tar').read_bytes())
    def closed(path, content): raise WriteError(f'{path}: cannot be written (Read-only file system)')
    monkeypatch.setattr(shards, 'atomic_bytes', closed)
    with pytest.warns(UserWarning, match='.train.index: cannot be written .*; so each process makes this index of 1 shards anew'): samples = Shards(tmp_path)
    assert len(samples) == 4 and [p.name for p in (tmp_path/'train').iterdir()] == ['0.tar']
    monkeypatch.undo()
    assert Shards(tmp_path).ids == samples.ids and (tmp_path/'train'/'.train.index').exists()


def test_an_index_is_made_anew_when_a_shard_changes(both, tmp_path):
    (tmp_path/'train').mkdir(); path, whole = tmp_path/'train'/'0.tar', (both/'shards'/'train'/'0000.tar').read_bytes()
    path.write_bytes(whole); assert len(Shards(tmp_path)) == 4
    about = path.stat()
    changed = whole.replace(b'{"label": 0}', b'{"label": 2}', 1); path.write_bytes(changed)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert Shards(tmp_path).labels.targets.tolist() == [2, 0, 0, 0], 'as long as before, but at another time'
    (tmp_path/'train'/'1.tar').write_bytes((both/'shards'/'train'/'0001.tar').read_bytes())
    assert len(Shards(tmp_path)) == 4 + 7
