"""Every command of the README, as it is printed, in one folder with what the commands name; the trainings are small ones."""
import re
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image

from consistency_cam.datasets.scenes import Scenes
from consistency_cam.datasets.voc import CLASSES
from consistency_cam.files.errors import runs_in
from consistency_cam.tools.show import rgb
from notebooks import README, ROOT
from shell import children_seconds, fresh_shell, run_line

pytestmark = pytest.mark.slow

LINES = [line for block in re.findall(r'^```sh\n(.*?)^```', README.read_text(encoding='utf-8'), re.S | re.M) for line in block.splitlines()]
ONLY_READ = 'make', 'pip', 'source'  # what installs, tests or downloads
TINY = dict(pictures=8, size=64, backbone='test_resnet', pretrained='random', frozen_stages=0, output_stride=32, crop=64, long_side=(60, 68), epochs=1, batch_size=4, tiles=(2,), scales=(1.,), affinity=None,
    segment=dict(crop=64, long_side=(60, 68), epochs=1, batch_size=4, scales=(1.,)))

SMALL = f'''
from consistency_cam.experiments.recipes import RECIPES, change_recipe
for name, splits in [('quick', {{}}), ('voc-quick', dict(train='train', val='val'))]: RECIPES[name] = change_recipe(RECIPES[name], **{TINY}, **splits)
'''


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


@pytest.fixture(scope='module')
def shell(place, tmp_path_factory):
    "What starts a line in `place`, where the recipes are small ones"
    startup = tmp_path_factory.mktemp('startup')
    (startup/'sitecustomize.py').write_text(SMALL)  # python imports it as it starts
    return fresh_shell(place, startup)


def commands_of(lines):
    "The lines that are run; of what downloads, its help"
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in ONLY_READ: continue
        assert words[0] == 'consistency-cam', line
        yield f'consistency-cam {words[1]} --help' if words[1] == 'download' else line


@pytest.mark.timeout(1800)
def test_every_command_works_as_printed(place, shell, figure):
    "Each line in a fresh shell of its own, in the order of the README"
    lines, before = [*commands_of(LINES)], children_seconds()
    assert {'verify', 'run', 'explore', 'export', 'predict', 'status', 'compare', 'import-cams', 'download', '--help'} <= {line.split()[1] for line in lines}
    said = {line: run_line(shell, line) for line in lines}
    figure('commands of the README', f'{len(lines)}, each in a fresh shell, {children_seconds() - before:.0f} s of CPU')
    assert {*runs_in(place/'runs')} >= {place/'runs'/name for name in ('own', 'mine', 'cams', 'seam', 'other', 'voc')}
    assert all('test_resnet' in (run/'recipe.json').read_text() for run in runs_in(place/'runs')), 'the recipes were not made small'
    assert all((place/'runs'/name/'report.html').exists() for name in ('own', 'mine', 'voc', 'two'))
    assert len(list((place/'MASKS').rglob('*.png'))) == 8 and len(list((place/'runs'/'own'/'predictions').glob('*.overlay.png'))) == 2 and {*(place/'NETS').glob('*.onnx')}
    for line, text in said.items():
        if line.split()[1] == 'explore': assert 'browser http://127.0.0.1:' in text
        if line.split()[1] == 'verify': assert 'no problem' in text


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
