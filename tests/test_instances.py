"""Instances of a run: the boundary beside the displacements is what it was, a stage that was cut goes on, and what cannot be compared is said in one line."""
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch

import consistency_cam.crf as crf
import consistency_cam.experiments.stages as doing
import consistency_cam.methods.irnet as irnet
from consistency_cam.cli import main
from consistency_cam.cams import CamStore
from consistency_cam.datasets.samples import InputError, MaskError, write_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.datasets.voc import VOC
from consistency_cam.experiments.pipeline import Run, run
from consistency_cam.experiments.recipes import change_recipe, recipe
from consistency_cam.files.checkpoint import load_state
from consistency_cam.tools.instances import true_instances

pytestmark = pytest.mark.situation('instances')
pytest.importorskip('pycocotools')
from pycocotools.coco import COCO

TINY = recipe('quick', method='cam', backbone='test_resnet', pretrained='random', batch_norm='trained', frozen_stages=0, lr=.05, val='', pool='noisy_or',
    data=dict(pictures=8, size=64, crowded=True), crop=64, long_side=(56, 80), epochs=2, batch_size=4, scales=(1.,), walk_steps=2, pseudo_crf=False,
    affinity=dict(kind='irnet', epochs=2, batch_size=4, crop=64, long_side=(56, 80), radius=4, scores=(.3, .6)), instances=dict(kind='displacement', smallest=.001), segment='none')


@pytest.fixture(scope='module', autouse=True)
def one_process():
    "Pictures of 64 pixels are walked in this process sooner than others begin"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(crf, 'cores', lambda: 0)
        yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return run(TINY, tmp_path_factory.mktemp('instances')/'run', progress=False)


@pytest.fixture
def copy(whole, tmp_path): return Run(shutil.copytree(whole.folder, tmp_path/'run'), progress=False)


def products(run): return {p.relative_to(run.folder).as_posix(): p.read_bytes() for p in (run.folder/'instances').rglob('*') if p.suffix == '.png' or 'json' in p.suffix and p.name != 'stage.json'}


def weights(run): return load_state(run.folder/'affinity'/'weights.safetensors')['net']


def test_boundary_and_walk_are_those_of_the_boundary_alone(whole, tmp_path):
    alone = run(change_recipe(TINY, affinity=dict(kind='boundary'), instances='none'), tmp_path/'alone', progress=False)
    one, both = weights(alone), weights(whole)
    assert all(torch.equal(v, both[k]) for k, v in one.items()) and {k.split('.')[0] for k in both.keys() - one.keys()} == {'field'}
    stores = [CamStore(r.folder/'walk'/'train') for r in (alone, whole)]
    for id in whole.samples('train').ids:
        a, b = (s.get(id, full=False) for s in stores)
        assert a.keys() == b.keys() and all(torch.equal(a[c], b[c]) for c in a)


def test_the_coco_file_holds_what_the_pngs_hold(whole, capsys):
    folder, samples = whole.folder/'instances'/'train', whole.samples('train')
    coco = COCO(folder/'instances.json')
    assert len(coco.anns) == whole._finished('instances/train')['instances'] > 0
    for n, id in enumerate(samples.ids, 1):
        p = irnet.read_picture_instances(folder, id)
        for k, a in enumerate(coco.loadAnns(coco.getAnnIds(n)), 1): assert (coco.annToMask(a) == (p.ids == k).numpy()).all() and a['category_id'] in samples.label_ids(n - 1)


def test_a_training_and_a_stage_that_were_cut_go_on(whole, tmp_path, monkeypatch):
    cut = Run(tmp_path/'cut', TINY, progress=False)
    cut.all_stages('cams')
    real, write, seen = doing.fit, irnet.write_picture_instances, []
    def stopped(*given, **more):
        real(*given, **more, stop_at=2)
        raise KeyboardInterrupt
    def counted(folder, id, *more):
        if len(seen) == 3 and 'again' not in seen: raise KeyboardInterrupt
        seen.append(id)
        write(folder, id, *more)
    with monkeypatch.context() as m:
        m.setattr(doing, 'fit', stopped)
        with pytest.raises(KeyboardInterrupt): cut.affinity()
    monkeypatch.setattr(irnet, 'write_picture_instances', counted)
    with pytest.raises(KeyboardInterrupt): cut.all_stages()
    seen.append('again')
    again = run(TINY, cut.folder, progress=False)
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(again).items()) and weights(again)['field.mean'].any()
    assert len(seen) == 1 + 8 and products(again) == products(whole) and len(products(whole)) == 3 * 8 + 1
    assert again.evaluate('instances') == whole.evaluate('instances')


def test_evaluate_and_status_say_ap50_and_the_baseline(copy, capsys):
    figures = copy.figures('instances')['train']
    assert 0 <= figures['ap50'] <= 100 and {*figures['ap']} <= {*copy.classes} and figures['true_instances'] == sum(len(true_instances(copy.samples('train'), i).classes) for i in range(8))
    assert main(['evaluate', str(copy.folder), '--quiet']) == 0
    said = capsys.readouterr().out
    assert 'AP50 of instances, train | by connected parts' in said and f"{figures['ap50']:.1f} | {figures['ap50_components']:.1f}" in said
    assert main(['status', str(copy.folder)]) == 0
    assert f"AP50 {figures['ap50']:.1f}, {figures['ap50_components']:.1f} by connected components" in capsys.readouterr().out


def test_instances_of_another_affinity_network_are_outdated(copy):
    about = copy.folder/'affinity'/'stage.json'
    known = json.loads(about.read_text())
    about.write_text(json.dumps(dict(known, inputs='another')))
    assert copy.outdated('instances/train') == 'affinity'


def test_without_displacements_or_the_package_nothing_begins(tmp_path, capsys, monkeypatch):
    assert main(['run', str(tmp_path/'run'), '--instances', 'displacement', '--quiet']) == 1
    assert capsys.readouterr().err.strip().endswith("instances=displacement: they follow displacements, which affinity 'boundary' does not learn; add --affinity irnet, or leave it out")
    for name in [m for m in sys.modules if m.split('.')[0] == 'pycocotools']: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'pycocotools', None)
    with pytest.raises(InputError, match=re.escape('pip install "consistency_cam[coco]"')): run(TINY, tmp_path/'other', progress=False)
    assert not (tmp_path/'other'/'classify').exists()


@pytest.fixture
def voc(tmp_path):
    "Two pictures in VOC's layout, with masks and without instances"
    from PIL import Image
    root, scenes = tmp_path/'VOC2012', Scenes(2, size=64)
    for folder in ('JPEGImages', 'ImageSets/Segmentation', 'SegmentationClass'): (root/folder).mkdir(parents=True)
    for i, id in enumerate(('2007_000001', '2007_000002')):
        Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(root/'JPEGImages'/f'{id}.jpg')
        write_mask(scenes.mask(i), root/'SegmentationClass'/f'{id}.png')
    (root/'ImageSets/Segmentation/train.txt').write_text('2007_000001\n2007_000002\n')
    return root, scenes


def test_what_is_wrong_with_instance_masks_is_one_line(voc, whole):
    root, scenes = voc
    def refused(kind, wanted):
        with pytest.raises(kind, match=re.escape(wanted)) as e: true_instances(VOC(root, 'train', labels='masks'), 0)
        assert '\n' not in str(e.value)
    refused(InputError, 'does not tell the things of a class apart: Scenes does, and VOC where its folder SegmentationObject is there')
    path = root/'SegmentationObject'/'2007_000001.png'
    write_mask(np.ones((20, 30), np.uint8), path)
    refused(MaskError, '2007_000001.png: the mask is 20 x 30, its picture 64 x 64 (H x W)')
    write_mask((scenes.mask(0) == 0).byte() * 5, path)
    refused(MaskError, '2007_000001: the mask has no class anywhere in instance 5; are the instances those of this picture?')
    write_mask(scenes.instances(0), path)
    samples = VOC(root, 'train', labels='masks')
    assert true_instances(samples, 0).classes == [scenes.mask(0)[scenes.instances(0) == k].unique().item() for k in scenes.instances(0).unique()[1:].tolist()] and true_instances(samples, 1) is None


def test_a_run_without_true_instances_makes_them_and_says_that_it_cannot_rate_them(voc, whole, tmp_path):
    root, _ = voc
    r = change_recipe(TINY, data=dict(kind='voc', root=str(root), labels='masks', train='train', crowded=False, pictures=0), batch_size=2, affinity=dict(batch_size=2))
    made = run(r, tmp_path/'run', progress=False)
    assert (made.folder/'instances'/'train'/'instances.json').exists() and made.figures('instances') == {}
    with pytest.raises(InputError, match='no instance masks of train to compare with: Scenes has some, and VOC where its folder SegmentationObject is there'): made.evaluate('instances')
