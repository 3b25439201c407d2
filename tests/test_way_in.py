"""What goes wrong on the way in is one sentence, on the command line and in the explorers, and nothing is lost by it.

Ports that are taken are in test_server.py, a tracker that is not installed in test_outside.py, a kernel that dies in test_browser.py."""
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from commands import command
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.explore.cams import explore_cams
from consistency_cam.explore.corrections import explore_corrections
from consistency_cam.explore.own_picture import explore_own_picture
from consistency_cam.explore.results import explore_results
from consistency_cam.explore.views import explore_views
from consistency_cam.explore.walk import explore_walk
from consistency_cam.files.checkpoint import hold_lock
from consistency_cam.tools.show import rgb

OF_A_RUN = dict(cams=explore_cams, views=explore_views, walk=explore_walk, results=explore_results, own_picture=explore_own_picture, corrections=explore_corrections)
SMALL = '--method cam --epochs 1 --batch-size 4 --crop 64 --long-side 60 68 --backbone test_resnet --output-stride 32 --pretrained random --frozen-stages 0 --scales 1 --affinity none --segment none --no-pseudo-crf --quiet'.split()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run of eight own pictures, one of them without a class, up to its pseudo-labels"
    root, samples = tmp_path_factory.mktemp('way'), Scenes(8, size=64)
    (root/'pictures').mkdir(); rows = ['id,labels']
    for i in range(8):
        Image.fromarray(rgb(samples.image(i))).save(root/'pictures'/f'{i}.png')
        rows.append(f"{i},{';'.join(samples.classes[c - 1] for c in samples.label_ids(i)) if i != 3 else ''}")
    (root/'labels.csv').write_text('\n'.join(rows) + '\n')
    done = command('run', root/'run', '--data', 'folder', '--root', root/'pictures', '--labels', root/'labels.csv', '--train', 'all', '--val', '', *SMALL)
    assert done.status == 0, done.err
    return root/'run'


@pytest.fixture
def run(trained, tmp_path):
    "A copy of it, to be harmed"
    shutil.copytree(trained, tmp_path/'run')
    return tmp_path/'run'


def sentence(html):
    "What an explorer says, without its frame: one line of words"
    text = re.sub('<[^>]*>', '', html)
    assert text and '\n' not in text and 'Traceback' not in text and not re.match(r'\w*Error: ', text), text
    return text


def refusal(*arguments):
    "The line with which a command fails"
    done = command(*arguments)
    assert done.status == 1 and done.err.count('\n') == 1 and done.err.startswith('consistency-cam: error: ') and 'unexpected' not in done.err, (done.out, done.err)
    return done.err


def test_a_run_that_is_being_written(run, tmp_path):
    "A second command waits for nobody and says so; the explorers show what is there, or say how far it is"
    shutil.rmtree(run/'cams'); shutil.rmtree(run/'pseudo')
    (run/'cams'/'all').mkdir(parents=True)
    with hold_lock(run/'cams'/'all'/'.lock'):
        assert 'is working here; wait for it or choose another run folder' in refusal('run', run, '--quiet')
        assert 'not done yet' in refusal('export', run, '--out', tmp_path/'masks') and not (tmp_path/'masks').exists()
        assert explore_cams(run).panels and explore_cams(run).message.value == '', 'the network makes the maps meanwhile'
        assert 'consistency-cam run' in sentence(explore_corrections(run).message.value)
        assert 'cams' in command('status', run).out


@pytest.mark.parametrize('name', OF_A_RUN)
def test_a_folder_of_unfinished_runs(run, name):
    "Begun, and nothing trained: each explorer says which command goes on"
    for begun in (run.parent/'runs'/'a', run.parent/'runs'/'b'):
        begun.mkdir(parents=True); shutil.copy(run/'recipe.json', begun)
    said = sentence(OF_A_RUN[name](run.parent/'runs').message.value)
    assert 'nothing is trained here yet; `consistency-cam run' in said and str(run.parent/'runs'/'a') in said


@pytest.mark.parametrize('name', ['cams', 'views', 'walk', 'corrections'])
def test_a_picture_without_a_class(run, name):
    "It is shown, or what is missing is said; the next picture is drawn again"
    made = OF_A_RUN[name](run)
    stepper = made.controls['picture']
    assert made.message.value == '' and '3' in stepper.options
    made.set(picture='3')
    if name == 'corrections': assert made.message.value == '' and [id for _, id in made.controls['paint'].options] == [0, 255]
    else: assert 'class' in sentence(made.message.value) and '3' in made.message.value
    made.set(picture='4')
    assert made.message.value == '' and made.panels


def test_a_correction_of_another_size(run, tmp_path):
    "Refused by everything that reads it, by its path and both sizes; taken away, all goes on"
    drawn = run/'corrections'/'4.png'
    drawn.parent.mkdir(); Image.fromarray(np.zeros((64, 60), np.uint8)).convert('P').save(drawn)
    said = refusal('run', run, '--segment', 'deeplabv3', '--segment.crop', 64, '--segment.epochs', 1, '--quiet')
    assert f'{drawn}: the mask is 64 x 60, its picture 64 x 64' in said
    assert f'{drawn}: the mask is 64 x 60' in refusal('export', run, '--out', tmp_path/'masks')
    made = explore_corrections(run)
    made.set(picture='4')
    assert '64 x 60' in sentence(made.message.value) and 'corrections/4.png' in made.message.value
    drawn.unlink()
    assert command('export', run, '--out', tmp_path/'masks', '--quiet').status == 0


def test_what_is_not_a_run(tmp_path):
    (tmp_path/'empty').mkdir()
    for place in (tmp_path/'empty', tmp_path/'none'): assert 'not a run' in refusal('explore', place, '--no-browser')
