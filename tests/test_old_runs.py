"""A run that version 0.1 made, with flat names in its recipe and its stages, goes on as if this version had made it."""
import json
import shutil
from pathlib import Path

import pytest

from consistency_cam.files.checkpoint import CheckpointError, read_stage
from consistency_cam.experiments.compare import collect
from consistency_cam.explore.runs import open_runs
from consistency_cam.experiments.pipeline import Run, read_recipe, run
from consistency_cam.experiments.recipes import OLD_NAMES
from test_cli import call

WRITTEN = json.loads((Path(__file__).parent/'old_run.json').read_text())  # {file: text}, all that 0.1 wrote but arrays and pictures


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "The old run: arrays and pictures are made anew by its recipe, all records are those of 0.1"
    folder = tmp_path_factory.mktemp('old')/'run'; folder.mkdir()
    (folder/'recipe.json').write_text(WRITTEN['recipe.json'])
    run(read_recipe(folder/'recipe.json'), folder, progress=False)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob('*.json')} == {name for name in WRITTEN if name.endswith('.json')}
    for name, text in WRITTEN.items(): (folder/name).write_text(text)
    return folder


@pytest.fixture
def old(made, tmp_path):
    shutil.copytree(made, tmp_path/'run')
    return tmp_path/'run'


def contents(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name != '.lock'}


def test_it_opens_and_says_what_it_is(old):
    opened = Run(old, progress=False)
    written = json.loads(WRITTEN['recipe.json'])
    assert {*written, 'options', 'track', 'dilated', 'saliency', 'instances'} == {*OLD_NAMES} and opened.recipe.classify.method == written['method'] == 'puzzle-cam' and opened.recipe.segment.lr == written['segment_lr']
    assert opened.title == 'Puzzle-CAM, iterated learning' and all(state.startswith(('done', 'mIoU')) for _, state in opened.status())
    assert len(opened.net().state_dict()) and opened.segmenter().num_classes == 9 and opened.relation()[1] == 4
    assert list(open_runs(old)) == [opened.title]


def test_nothing_of_it_is_done_again(old):
    before = contents(old)
    again = Run(old, progress=False).all_stages()
    assert contents(old) == before
    figures = collect([again], command='test')['rows'][0]
    assert figures['segment'] == json.loads(WRITTEN['evaluate/segment/stage.json'])['result']['val']
    assert figures['train'] == json.loads(WRITTEN['evaluate/cams/stage.json'])['result']['train'] and contents(old) == before


@pytest.mark.parametrize('options, says', [(['--lr', '.01'], 'made with classify.lr=0.05 (now 0.01)'), (['--walk-steps', '4'], 'made with walk.steps=8 (now 4)'), (['--segment.lr', '.1'], 'made with segment.lr=0.005 (now 0.1)'), (['--threshold', '.5'], 'made with cams.threshold=0.2 (now 0.5)'), (['--pretrain', 'none'], 'classify: made from other inputs')])
def test_other_settings_are_refused(old, options, says):
    status, _, err = call(['run', old, '--quiet', *options])
    assert status == 1 and says in err, err


def test_it_is_evaluated_and_shown_from_the_command_line(old):
    assert call(['status', old])[0] == 0
    status, out, err = call(['evaluate', old, '--quiet'])
    assert status == 0 and 'Puzzle-CAM, iterated learning' in out, err
    assert call(['run', old, '--quiet', '--epochs', '3', '--segment-epochs', '1'])[0] == 0


def test_a_setting_that_its_version_did_not_know_had_its_default(old):
    about = old/'classify'/'stage.json'
    younger = json.loads(about.read_text()); del younger['config']['frugal']; about.write_text(json.dumps(younger))
    assert Run(old, progress=False).classify() == younger['result']
    del younger['config']['lr']; about.write_text(json.dumps(younger))  # .05, and not the default
    with pytest.raises(CheckpointError, match=r'made with classify.lr=0.1 \(now 0.05\)'): Run(old, progress=False).classify()


def test_a_training_that_was_cut_goes_on(old):
    about = old/'classify'/'stage.json'
    cut = json.loads(about.read_text()); cut.pop('result'); about.write_text(json.dumps(cut))
    for later in 'cams', 'affinity', 'walk', 'pseudo', 'segment', 'masks', 'evaluate', 'sweeps': shutil.rmtree(old/later)
    checkpoint = (old/'classify'/'checkpoint.safetensors').read_bytes()
    Run(old, progress=False).all_stages('classify')
    assert read_stage(about)['result']['steps'] == 9 and (old/'classify'/'checkpoint.safetensors').read_bytes() == checkpoint
