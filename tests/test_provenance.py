"""Every product knows all that it was made from: what is edited behind the same names is refused or made again, never passed over."""
import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import consistency_cam.experiments.stages as doing
from consistency_cam.files.checkpoint import CheckpointError, read_json, save_state, write_json
from consistency_cam.cli import main
from consistency_cam.experiments.compare import compare
from consistency_cam.datasets.folder import Folder
from consistency_cam.experiments.imported import import_cams
from consistency_cam.experiments.pipeline import Run, dataset, run
from consistency_cam.experiments.recipes import change_recipe, recipe
from consistency_cam.datasets.samples import read_mask, write_mask
from consistency_cam.datasets.scenes import Scenes

pytestmark = pytest.mark.situation('data, masks and settings that changed under a run')

warnings.filterwarnings('ignore', message='.*class maps without any score')
NET = dict(backbone='tf_efficientnet_lite0', pretrained='random', frozen_stages=0, workers=0)
TINY = NET | dict(method='cam', epochs=1, batch_size=4, crop=64, long_side=(64, 72), scales=(1.,), walk_steps=1, pseudo_crf=False, segment_crf=False,
    affinity_epochs=1, affinity_batch_size=4, affinity_crop=64, affinity_long_side=(64, 72), segment_epochs=1, segment_batch_size=4, segment_crop=64, segment_long_side=(64, 72))


def edit_mask(root, id, value=1):
    path = root/'masks'/f'{id}.png'
    write_mask(torch.full_like(read_mask(path), value), path)


def edit_picture(root, id):
    path = root/'pictures'/f'{id}.png'
    with Image.open(path) as im: Image.fromarray(255 - np.array(im)).save(path)


def edit_labels(root, id):
    table = root/'labels.csv'
    lines = [f'{id},bird cat,{line.split(",")[2]}' if line.startswith(f'{id},') else line for line in table.read_text().splitlines()]
    table.write_text('\n'.join(lines) + '\n')


def edit_list(root, id):
    table = root/'labels.csv'
    table.write_text('\n'.join(line for line in table.read_text().splitlines() if not line.startswith(f'{id},')) + '\n')


def touch(root, id):
    "Nothing but the times of change, as a copy has them"
    for path in root.rglob('*.*'): path.touch()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A run with all its products, the pictures beside it: eight to train on, two held out"
    home = tmp_path_factory.mktemp('made')
    data, draw = home/'data', np.random.default_rng(0)
    (data/'pictures').mkdir(parents=True)
    for i in range(10):
        picture, mask, side = draw.integers(60, 120, (64, 64, 3), dtype=np.uint8), torch.zeros(64, 64, dtype=torch.uint8), slice(12, 52)
        picture[side, side], mask[side, side] = [(250, 40, 40), (40, 40, 250)][i % 2], 1 + i % 2
        Image.fromarray(picture).save(data/'pictures'/f'{i}.png'); write_mask(mask, data/'masks'/f'{i}.png')
    (data/'labels.csv').write_text('\n'.join(['id,labels,split', *(f"{i},{['bird', 'cat'][i % 2]},{'val' if i > 7 else 'train'}" for i in range(10)), '']))
    run(of(data), home/'run', progress=False)
    return home


def of(data, **more):
    "The recipe of the run that all tests here copy"
    return recipe('quick', **dict(data='folder', root=str(data/'pictures'), labels=str(data/'labels.csv'), masks=str(data/'masks'), train='train', val='val') | TINY | more)


@pytest.fixture
def copy(made, tmp_path):
    "The run and its pictures, for one test alone"
    home = tmp_path/'copy'
    shutil.copytree(made/'data', home/'data')
    shutil.copytree(made/'run', home/'run', copy_function=os.link)  # its files are replaced, and never written over
    return home/'data', home/'run'


def stages(folder): return {p.parent.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob('stage.json')}


def test_a_copy_of_run_and_data_is_the_same_run(copy):
    data, folder = copy
    touch(data, '')
    before = stages(folder)
    run(of(data), folder, progress=False)
    assert stages(folder) == before


@pytest.mark.parametrize('edit, id, says', [
    (edit_picture, '1', 'classify: made from other pictures'), (edit_labels, '1', 'classify: made from other labels'), (edit_list, '1', 'classify: made from other list of pictures'),
    (edit_picture, '9', 'cams/val: made from other pictures'), (edit_labels, '9', 'cams/val: made from other labels'), (edit_list, '9', 'cams/val: made from other list of pictures')])
def test_edited_data_is_refused(copy, edit, id, says):
    data, folder = copy
    edit(data, id)
    before = stages(folder)
    with pytest.raises(CheckpointError, match=says): run(of(data), folder, progress=False)
    assert stages(folder) == before


@pytest.mark.parametrize('product, id, edit', [(p, i, e) for p, i in (('cams/train', '1'), ('walk/train', '1'), ('pseudo/train', '1'), ('masks/val', '9'))
                                               for e in (edit_picture, edit_labels, edit_list) if p != 'walk/train' or e is edit_picture])
def test_a_product_of_other_data_is_refused_by_its_name(copy, product, id, edit):
    data, folder = copy
    edit(data, id)
    with pytest.raises(CheckpointError, match=f'{product}: made from other'): Run(folder, of(data), progress=False).product(product)


@pytest.mark.parametrize('command', [['evaluate'], ['export', '--out', 'OUT']])
def test_commands_refuse_products_of_other_data(copy, command, capsys, tmp_path):
    data, folder = copy
    write_json(folder/'recipe.json', dict(read_json(folder/'recipe.json'), **{k: str(data/v) for k, v in dict(root='pictures', labels='labels.csv', masks='masks').items()}))
    edit_labels(data, '1')
    assert main([command[0], str(folder), '--quiet', *(str(tmp_path/'out') if a == 'OUT' else a for a in command[1:])]) == 1
    assert 'made from other labels' in capsys.readouterr().err and not (tmp_path/'out').exists()


def halve(folder):
    "The masks show the left half of what they showed"
    for path in folder.glob('*.png'):
        mask = read_mask(path); mask[:, 32:] = 0
        write_mask(mask, path)


def of_whom(figures): return {s: f['miou'] for s, f in figures.items()}


@pytest.mark.parametrize('how', ['edited', 'another folder'])
def test_figures_are_of_the_masks_that_there_are(copy, how, capsys):
    data, folder = copy
    before = {s: Run(folder, of(data), progress=False).evaluate(s) for s in ('cams', 'walk', 'pseudo', 'segment')}
    assert 'evaluated again' not in capsys.readouterr().err
    if how == 'another folder': shutil.copytree(data/'masks', data/'others'); shutil.move(data/'masks', data/'first'); shutil.move(data/'others', data/'masks')
    halve(data/'masks')
    again = run(of(data), folder, progress=False)
    assert capsys.readouterr().err.count('made from other masks; evaluated again') == 4
    for stage, figures in before.items(): assert all(json.dumps(f) != json.dumps(figures[s]) for s, f in again.evaluate(stage).items())
    assert of_whom(run(of(data), folder, progress=False).figures('walk')) == of_whom(again.figures('walk'))


def test_the_same_command_with_another_folder_of_masks(copy, capsys):
    data, folder = copy
    shutil.copytree(data/'masks', data/'others')
    halve(data/'others')
    options = ['--root', str(data/'pictures'), '--labels', str(data/'labels.csv'), '--quiet']
    assert main(['evaluate', str(folder), *options, '--masks', str(data/'masks')]) == 0
    first = capsys.readouterr().out
    assert main(['evaluate', str(folder), *options, '--masks', str(data/'others')]) == 0
    said = capsys.readouterr()
    assert said.out != first and said.err.count('evaluated again') == 4
    assert read_json(folder/'recipe.json')['data']['masks'].endswith('others')
    assert main(['evaluate', str(folder), '--quiet', '--epochs', '3']) == 1
    assert '--epochs' in capsys.readouterr().err


def test_compare_shows_no_figure_of_other_masks(copy, capsys):
    data, folder = copy
    shutil.copytree(folder, folder.parent/'all'/'cam-0')
    first = compare(of(data), folder.parent/'all', ['cam'], progress=False)['rows'][0]
    halve(data/'masks')
    now = compare(of(data), folder.parent/'all', ['cam'], progress=False)['rows'][0]
    assert now['pseudo']['iou']['background'] != first['pseudo']['iou']['background'] and now['train']['curve'] != first['train']['curve']
    assert read_json(folder.parent/'all'/'comparison.json')['rows'] == [now]


def test_what_is_made_of_a_stage_made_anew_is_outdated(copy):
    data, folder = copy
    done = Run(folder, of(data, scales=(1.5,)), force=True, progress=False)
    done.cams('train')
    assert [name for name in stages(folder) if done.outdated(name)] == [n for n in stages(folder) if n.split('/')[0] in ('affinity', 'walk', 'pseudo', 'segment', 'masks') and n != 'affinity/labels' or n in ('evaluate/cams', 'evaluate/walk', 'evaluate/pseudo', 'evaluate/segment')]
    assert done.figures('walk') == {} and dict(done.status())['walk/train'].startswith('outdated')
    for use in (done.segmenter, lambda: done.product('pseudo/train'), done.relation):
        with pytest.raises(CheckpointError, match='made from other cams/train'): use()


def test_corrections_train_the_segmenter_again_and_nothing_else(copy, tmp_path, capsys):
    data, folder = copy
    def go(): return main(['run', str(folder), '--quiet'])
    def without_seconds(): return {k: {w: v for w, v in json.loads(text).items() if w != 'result'} for k, text in stages(folder).items()}
    write_json(folder/'recipe.json', dict(read_json(folder/'recipe.json'), **{k: str(data/v) for k, v in dict(root='pictures', labels='labels.csv', masks='masks').items()}))
    before, drawn, weights = without_seconds(), Run(folder, progress=False).corrections(), Run(folder).segmenter().state_dict()
    drawn.keep('0', torch.full((64, 64), 2))
    assert dict(Run(folder).status())['segment'] == 'outdated: made from other corrections'
    assert main(['predict', str(folder), str(data/'pictures'/'9.png'), '--out', str(tmp_path/'p')]) == 1 and 'made from other corrections; `consistency-cam run' in capsys.readouterr().err
    assert go() == 0
    said, after = capsys.readouterr(), without_seconds()
    assert 'corrections: 1 of 8 training pictures' in said.out and 'segment: made from other corrections; made again' in said.err
    assert {k for k in before if after[k] != before[k]} == {'segment', 'masks/val', 'evaluate/segment'}
    assert after['segment']['data'].pop('corrections') == drawn.fingerprint() and after['segment']['data'] == before['segment']['data']
    assert '1 corrected by hand' in dict(Run(folder).status())['segment']
    assert go() == 0 and 'made again' not in capsys.readouterr().err
    assert main(['export', str(folder), '--out', str(tmp_path/'out'), '--quiet']) == 0 and '1 of them corrected by hand' in capsys.readouterr().out
    assert (read_mask(tmp_path/'out'/'0.png') == 2).all() and (tmp_path/'out'/'1.png').read_bytes() == (folder/'pseudo'/'train'/'1.png').read_bytes()
    drawn.keep('9', torch.zeros(64, 64).byte())
    kept = stages(folder)
    assert go() == 1 and "corrections/9.png: no picture '9' among the 8" in capsys.readouterr().err and stages(folder) == kept
    drawn.take_back('9'); drawn.take_back('0')
    assert go() == 0 and without_seconds() == before and all(torch.equal(v, weights[k]) for k, v in Run(folder).segmenter().state_dict().items())
    edit_labels(data, '1'); drawn.keep('1', torch.zeros(64, 64).byte())
    kept = stages(folder)
    assert go() == 1 and 'made from other labels' in capsys.readouterr().err and stages(folder) == kept


def test_a_run_of_before_opens_and_goes_on(made, tmp_path, monkeypatch, capsys):
    "Its stages have nothing on record but settings and inputs"
    r, folder = of(made/'data', affinity='none', segment='none'), tmp_path/'run'
    with monkeypatch.context() as before:
        before.setattr(doing, 'stage_data', lambda *a: {})
        for name in ('products', '_compared', 'first_weights'): before.setattr(Run, name, lambda *a: {})
        run(r, folder, progress=False, until='cams')
    assert not any('data' in read_json(p) for p in folder.rglob('stage.json'))
    old = stages(folder)
    done = run(r, folder, progress=False)
    now = stages(folder)
    assert [k for k in old if now[k] != old[k]] == ['evaluate/cams'] and 'of which nothing is on record; evaluated again' in capsys.readouterr().err
    assert 'data' in read_json(folder/'pseudo'/'train'/'stage.json') and done.net() is not None


def test_the_content_of_given_weights_counts(made, tmp_path):
    data, weights = made/'data', tmp_path/'weights.safetensors'
    def write(seed):
        torch.manual_seed(seed)
        save_state(weights, dict(a=torch.rand(3)))
    write(0); kept = of(data, pretrained=str(weights))
    first = Run(tmp_path/'run', kept, progress=False)
    assert first.first_weights()['pretrained weights'] == Run(tmp_path/'other', kept).first_weights()['pretrained weights']
    before = first.first_weights(); write(1)
    assert first.first_weights() != before
    stage = lambda: Run(tmp_path/'run', kept, progress=False).stage('classify', {}, '', data=first.first_weights())
    with stage().work() as _: pass
    write(2)
    with pytest.raises(CheckpointError, match='classify: made from other pretrained weights'): stage()


def test_settings_of_finished_stages_stay_in_the_recipe(copy):
    data, folder = copy
    before = read_json(folder/'recipe.json')
    (folder/'cams'/'val'/'stage.json').unlink()  # a stage that has work to do, before the one that differs
    with pytest.raises(CheckpointError, match='segment: made with segment.lr=0.005 .now 0.5.'): run(of(data, segment_lr=.5), folder, progress=False)
    assert read_json(folder/'recipe.json') == before


def maps_for(data, folder, split):
    for i, id in enumerate((samples := dataset(of(data), split)).ids):
        for k in samples.label_ids(i):
            path = folder/f'{id}_{samples.classes[k - 1]}.png'; path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((64, 64), 200, np.uint8)).save(path)


def test_imported_cams(copy, tmp_path, capsys):
    data, _ = copy
    theirs = tmp_path/'theirs'
    for split in ('train', 'val'): maps_for(data, theirs, split)
    options, r = ['--quiet', '--epochs', '1'], change_recipe(of(data), affinity='none', segment='none')
    mine = import_cams(theirs, tmp_path/'run', r, 'theirs', progress=False)
    for path in theirs.iterdir(): path.touch()
    before = stages(tmp_path/'run'); import_cams(theirs, tmp_path/'run', r, 'theirs', progress=False)
    assert stages(tmp_path/'run') == before
    recipe_before = (tmp_path/'run'/'recipe.json').read_bytes()
    for command in (['train'], ['train', '--method', 'cam'], ['run', '--method', 'cam', '--until', 'classify'], ['run', '--recipe', 'quick', '--pictures', '8', '--until', 'classify']):
        assert main([command[0], str(tmp_path/'run'), *options, *command[1:]]) == 1
        assert 'imported' in capsys.readouterr().err and (tmp_path/'run'/'recipe.json').read_bytes() == recipe_before
    edit_picture(data, '1')
    with pytest.raises(CheckpointError, match='cams/train: made from other pictures'): Run(tmp_path/'run', mine.recipe, progress=False).cams('train')
    edit_picture(data, '1'); Image.fromarray(np.full((64, 64), 90, np.uint8)).save(next(theirs.glob('1_*')))
    with pytest.raises(CheckpointError, match='cams/train: made from other maps'): import_cams(theirs, tmp_path/'run', r, 'theirs', progress=False)


REFUSED = {  # options without the data that they speak of: what the message names
    'a folder': (['--root', 'D/pictures'], '--data folder --root'), 'a folder with a table beside it': (['--root', 'D'], '--data folder'),
    'a table': (['--labels', 'D/labels.csv'], 'labels='), 'masks': (['--masks', 'D/masks'], 'masks='), 'all three': (['--root', 'D/pictures', '--labels', 'D/labels.csv', '--masks', 'D/masks'], 'D/labels.csv'),
    'a VOC': (['--root', 'V'], '--data voc --root V'), 'pretrain-root': (['--pretrain-root', 'V'], '--pretrain imagenet'), 'no segmenter': (['--segment', 'none', '--segment-on', 'masks'], 'no segmenter'),
    'masks of VOC': (['--data', 'voc', '--root', 'V', '--masks', 'D/masks'], "data 'voc' takes none"), 'masks of COCO': (['--data', 'coco', '--root', 'V', '--masks', 'D/masks'], "data 'coco' takes none"),
    'a table of VOC': (['--data', 'voc', '--root', 'V', '--train', 'half_train', '--labels', 'D/labels.csv'], 'no image labels'),
    'a table of COCO': (['--data', 'coco', '--root', 'V', '--labels', 'D/labels.csv'], 'labels=')}


@pytest.mark.parametrize('kind', REFUSED)
def test_fields_that_the_data_passes_over_are_refused(kind, made, tmp_path, capsys):
    (tmp_path/'V'/'JPEGImages').mkdir(parents=True)
    options, says = REFUSED[kind]
    options = [f'{made}/data' if o == 'D' else o.replace('D/', f'{made}/data/') if o.startswith('D/') else str(tmp_path/'V') if o == 'V' else o for o in options]
    says = says.replace('D/', f'{made}/data/').replace('root V', f'root {tmp_path}/V')
    for command in (['run', str(tmp_path/'r')], ['train', str(tmp_path/'r')], ['compare', str(tmp_path/'c')], ['doctor']):
        if command == ['doctor'] and '--root' not in options: continue
        assert main([*command, '--quiet', *options]) == 1
        assert says in capsys.readouterr().err and not [*tmp_path.rglob('stage.json')]


def test_short_trainings_are_said(copy, capsys):
    data, folder = copy
    done = Run(folder, of(data), progress=False)
    assert [line.split(' a very')[0] for line in done.short_trainings()] == ['classify: 2 steps are', 'affinity: 1 step is', 'segment: 2 steps are']
    assert 'very short' in dict(done.status())['classify']
    assert done.few_steps('classify', 160) == done.few_steps('affinity', 48) == ''  # those of the demo


def test_fingerprints_of_each_kind_of_pictures(made, tmp_path):
    assert Scenes(4, 0, size=64).masks_fingerprint() != Scenes(4, 0, size=96).masks_fingerprint()
    data = made/'data'
    plain = Folder(data/'pictures', data/'labels.csv', data/'masks')
    assert plain.subset([0]).pictures_fingerprint() != plain.pictures_fingerprint()
    assert Folder(data/'pictures', data/'labels.csv').masks_fingerprint() == ''
