"""Out to where people work: every form of `export` by the command line, read back by the library it is for where that is installed; figures as a table; a tracker."""
import ast
import csv
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistency_cam.cli import main
from consistency_cam.datasets.samples import read_mask
from consistency_cam.experiments.formats import FORMS
from consistency_cam.experiments.pipeline import Run

SMALL = '--pictures 8 --epochs 1 --batch-size 4 --size 64 --crop 64 --long-side 60 68 --backbone test_resnet --output-stride 32 --pretrained random --frozen-stages 0 --scales 1 --affinity none --no-pseudo-crf --quiet'.split()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run up to its pseudo-labels"
    folder = tmp_path_factory.mktemp('outside')/'run'
    assert main(['run', folder, '--method', 'cam', '--until', 'pseudo', *SMALL]) == 0
    return folder


@pytest.fixture
def exported(run, tmp_path):
    def export(form):
        assert main(['export', run, '--as', form, '--out', tmp_path/form, '--quiet']) == 0
        return tmp_path/form
    return export


@pytest.fixture
def masks(run):
    "{id: the mask that the run made}"
    samples = Run(run, progress=False).samples('train')
    return {id: read_mask(run/'pseudo'/'train'/f'{id}.png').numpy() for id in samples.ids}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_has_all_pictures_and_a_legend(exported, masks, form):
    out = exported(form)
    assert json.loads((out/'classes.json').read_text())['1'] == 'cat'
    pictures = {p.stem for p in out.rglob('*.png')}
    assert pictures == {*masks}


@pytest.mark.parametrize('form, mode', [('png', 'P'), ('grey', 'L')])
def test_pngs(exported, masks, form, mode):
    out = exported(form)
    for id, mask in masks.items():
        with Image.open(out/f'{id}.png') as im: assert im.mode == mode and np.array_equal(np.array(im), mask)


def test_coco_by_pycocotools(exported, masks):
    coco = pytest.importorskip('pycocotools.coco')
    found = coco.COCO(exported('coco')/'annotations.json')
    for about in found.loadImgs(found.getImgIds()):
        mask = np.zeros((about['height'], about['width']), np.uint8)
        for a in found.loadAnns(found.getAnnIds(about['id'])): mask[found.annToMask(a) > 0] = a['category_id']
        wanted = masks[about['file_name'].removesuffix('.png')]
        assert np.array_equal(mask, np.where(wanted == 255, 0, wanted))


def test_folder_by_datasets(exported, masks, tmp_path):
    datasets = pytest.importorskip('datasets')
    for row in datasets.load_dataset('imagefolder', data_files=f'{exported("folder")}/**', split='train', cache_dir=str(tmp_path/'cache')):
        id = Path(row['mask'].filename).stem
        assert np.array_equal(np.array(row['mask']), masks[id]) and row['image'].size == row['mask'].size and row['labels']


def test_onnx_by_its_runtime(exported, run):
    runtime = pytest.importorskip('onnxruntime')
    session = runtime.InferenceSession(exported('onnx')/'classifier.onnx', providers=['CPUExecutionProvider'])
    picture = Run(run, progress=False).samples('train').image(0)
    shown, logits = session.run(None, dict(pictures=picture[None].numpy()))
    net = Run(run, progress=False).net().cpu()
    for mine, theirs in zip(net.evidence(net.normalize(picture[None])), (shown, logits)): assert np.allclose(mine.detach(), theirs, atol=1e-3)


def test_what_an_export_cannot_do_is_said(run, tmp_path, capsys):
    assert main(['export', run, '--as', 'onnx', '--split', 'train', '--out', tmp_path/'x', '--quiet']) == 1 and 'networks are of no split' in capsys.readouterr().err
    with pytest.raises(SystemExit): main(['export', run, '--as', 'yolo', '--out', tmp_path/'x'])
    assert "unknown value 'yolo'; known: png, grey, coco" in capsys.readouterr().err and not (tmp_path/'x').exists()


def test_figures_as_a_table(run, tmp_path):
    assert main(['evaluate', run, '--result', tmp_path/'figures.csv', '--quiet']) == 0
    with open(tmp_path/'figures.csv', newline='') as f: rows = list(csv.DictReader(f))
    made = Run(run, progress=False)
    assert [(r['stage'], r['pictures'], float(r['miou'])) for r in rows] == [
        ('CAMs', 'train', made.figures()['train']['miou']), ('CAMs', 'held out', made.figures()['val']['miou']), ('pseudo-labels', 'train', made.figures('pseudo')['train']['miou'])]
    assert float(rows[0]['IoU background']) == made.figures()['train']['iou']['background']


def test_a_tracker_by_the_command_line(tmp_path, capsys, monkeypatch):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    train = ['train', tmp_path/'run', '--method', 'cam', '--log-every', '1', *SMALL]
    assert main([*train, '--track', 'tensorboard']) == 0
    found = events.EventAccumulator(str(tmp_path/'run'/'classify'/'tensorboard')).Reload()
    records = [json.loads(line) for line in (tmp_path/'run'/'classify'/'metrics.jsonl').read_text().splitlines()]
    assert [e.step for e in found.Scalars('cls')] == [r['step'] for r in records] and np.allclose([e.value for e in found.Scalars('lr')], [r['lr'] for r in records])
    monkeypatch.setattr('consistency_cam.tools.training.find_spec', lambda name: None)
    assert main(['train', tmp_path/'other', '--track', 'wandb', *SMALL]) == 1
    assert 'the package wandb is not installed: pip install "consistency_cam[wandb]"' in capsys.readouterr().err and not (tmp_path/'other').exists()
    assert main([*train, '--track', 'no']) == 0, 'how it is shown is no setting that a finished training would have to be made anew for'


PAGE = Path(__file__).parent.parent/'nbs'/'tutorials'/'other_programs.ipynb'
BLOCKS = [block for cell in json.loads(PAGE.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'markdown'
          for block in re.findall(r'^```python\n(.*?)^```', ''.join(cell['source']), re.S | re.M)]


def needed(block):
    "The packages that a block imports"
    found = [node for node in ast.walk(ast.parse(block)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {name.split('.')[0] for node in found for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])}


@pytest.mark.parametrize('block', BLOCKS, ids=[re.search(r'smp|mmseg|BaseSegDataset|transformers|datasets', block)[0] for block in BLOCKS])
def test_the_lines_of_the_page_run(exported, tmp_path, monkeypatch, block):
    "In a folder with `masks`, where the packages that they are for are installed"
    if missing := [name for name in needed(block) if not find_spec(name)]: pytest.skip(f'{missing[0]} is not installed')
    exported('folder').rename(tmp_path/'masks')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'hf'))
    exec(block, {'__name__': 'block'})
