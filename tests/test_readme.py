"""Every command of the README, as it is printed, in one folder with what the commands name; the trainings are small ones."""
import re
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image

import consistency_cam.explore.notebook
from commands import command
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.datasets.voc import CLASSES
from consistency_cam.experiments.recipes import RECIPES, change_recipe
from consistency_cam.files.errors import runs_in
from consistency_cam.tools.show import rgb
from notebooks import README, ROOT

pytestmark = pytest.mark.slow

LINES = [line for block in re.findall(r'^```sh\n(.*?)^```', README.read_text(encoding='utf-8'), re.S | re.M) for line in block.splitlines()]
ONLY_READ = 'make', 'pip', 'source'  # what installs, tests or downloads
TINY = dict(pictures=8, size=64, backbone='test_resnet', pretrained='random', frozen_stages=0, output_stride=32, crop=64, long_side=(60, 68), epochs=1, batch_size=4, tiles=(2,), scales=(1.,), affinity=None,
    segment=dict(crop=64, long_side=(60, 68), epochs=1, batch_size=4, scales=(1.,)))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with PICTURES, labels.csv, OTHERS, CAMS and VOC2012"
    root, samples = tmp_path_factory.mktemp('readme'), Scenes(8, size=64)
    voc = root/'VOC2012'
    for folder in (root/'PICTURES', root/'OTHERS', root/'CAMS', voc/'JPEGImages', voc/'SegmentationClass', voc/'ImageSets'/'Segmentation'): folder.mkdir(parents=True)
    rows = ['id,labels']
    for i, id in enumerate(samples.ids):
        for folder in (root/'PICTURES', voc/'JPEGImages', *([root/'OTHERS'] if i < 2 else [])): Image.fromarray(rgb(samples.image(i))).save(folder/f'{id}.jpg')
        mask = Image.fromarray(samples.mask(i).numpy().astype(np.uint8)).convert('P'); mask.save(voc/'SegmentationClass'/f'{id}.png')
        rows.append(f"{id},{';'.join(samples.classes[c - 1] for c in samples.label_ids(i))}")
    for split in ('train', 'val'): (voc/'ImageSets'/'Segmentation'/f'{split}.txt').write_text('\n'.join(samples.ids) + '\n')
    (root/'labels.csv').write_text('\n'.join(rows) + '\n')
    named = [f"{id},{';'.join(CLASSES[c - 1] for c in samples.label_ids(i))}" for i, id in enumerate(samples.ids)]
    (voc/'image_labels.csv').write_text('\n'.join(['id,labels', *named]) + '\n')
    for scenes in (Scenes(8, split='train', size=64), Scenes(64, split='val', size=64)):
        for i, id in enumerate(scenes.ids): np.save(root/'CAMS'/id, {c - 1: scenes.mask(i).eq(c).float().numpy() for c in scenes.label_ids(i)})
    return root


def test_every_command_works_as_printed(place, monkeypatch):
    monkeypatch.chdir(place)
    for name in ('quick', 'voc-quick'): monkeypatch.setitem(RECIPES, name, change_recipe(RECIPES[name], **TINY, **(dict(train='train', val='val') if name == 'voc-quick' else {})))
    monkeypatch.setattr(consistency_cam.explore.notebook, 'serve', lambda run, *_: 0 if runs_in(run) else 1)
    done, lines = [], []
    for line in LINES:
        if not line.startswith('make demo'): lines.append(line)
        else:
            demo = command('demo', '--quiet')  # what `make demo` does once everything is installed
            assert demo.status == 0, demo.err
            following = [step.removeprefix('next: ') for step in demo.out.splitlines() if step.startswith('next: ')]
            assert len(following) == 3
            lines += [step.replace(step.split()[0], 'consistency-cam', 1).replace('PICTURES', 'OTHERS') for step in following]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in ONLY_READ: continue
        assert words[0] == 'consistency-cam', line
        if words[1] in ('download', '--help'):
            with pytest.raises(SystemExit) as ended: command(*words[1:], '--help')
            assert ended.value.code == 0, line
        else:
            result = command(*words[1:])
            assert result.status == 0, f'{line}\n{result.out[-2000:]}\n{result.err[-2000:]}'
        done.append(words[1])
    assert {'verify', 'run', 'explore', 'export', 'predict', 'status', 'compare', 'import-cams', 'download', '--help'} <= {*done}
    assert len(list((place/'MASKS').rglob('*.png'))) == 8 and {*runs_in(place/'runs')} >= {place/'runs'/name for name in ('own', 'mine', 'cams', 'seam', 'other', 'voc')}


def test_what_installs_is_there():
    "Targets that `make -n` knows, extras that settings.ini has"
    settings = (ROOT/'settings.ini').read_text()
    for line in LINES:
        program, *words = shlex.split(line, comments=True)
        if program == 'make': assert subprocess.run(['make', '-n', *words], cwd=ROOT, capture_output=True).returncode == 0, line
        if program == 'pip':
            for extra in ''.join(re.findall(r'\[(.*?)\]', line)).split(','): assert not extra or f'{extra}_requirements' in settings, extra
        if program == 'source': assert words == ['.venv/bin/activate']


def test_a_fresh_shell_has_the_command(place):
    "`source` as the README says it, and then a command on what is there, in a shell that knows nothing"
    activate = ROOT/'.venv'/'bin'/'activate'
    if not activate.exists(): pytest.skip('no .venv in this clone: make install')
    lines = ['set -e', f'cd {shlex.quote(str(ROOT))}', next(line for line in LINES if line.startswith('source')), f'cd {shlex.quote(str(place))}',
        next(line for line in LINES if ' verify ' in line), 'consistency-cam --help']
    done = subprocess.run(['bash', '--noprofile', '--norc', '-c', '\n'.join(lines)], capture_output=True, text=True, env={'PATH': '/usr/bin:/bin', 'HOME': str(place)})
    assert done.returncode == 0 and 'no problem' in done.stdout and 'usage: consistency-cam' in done.stdout, done.stdout + done.stderr
