"""Bad input of the compared methods: one line, before a training where that is possible."""
import numpy as np
import pytest
import torch
from PIL import Image

from consistency_cam.datasets.scenes import Scenes
from consistency_cam.experiments.pipeline import Run, recipe, run
from consistency_cam.files.checkpoint import CheckpointError
from consistency_cam.files.errors import InputError
from consistency_cam.methods.registry import find_method
import consistency_cam.experiments.stages as doing

SMALL = dict(data='folder', pictures=0, epochs=1, batch_size=4, size=64, crop=64, long_side=(60, 68), val='', train='all', log_every=1)
NEEDS_SALIENCY = dict(affinity=None, pseudo=dict(rule='saliency'))


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "Writes a folder of eight pictures of 64 pixels, and a table of their labels"
    scenes = Scenes(8, seed=0, size=64)

    def make(labels):
        folder = tmp_path_factory.mktemp('data')
        lines = ['id,labels']
        for i, names in enumerate(labels):
            Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(folder/f'p{i}.png')
            lines.append(f'p{i}.png,{names}')
        (folder/'labels.csv').write_text('\n'.join(lines) + '\n')
        return folder
    return make


EVEN = ['cat', 'cat', 'cat', 'cat', 'dog', 'dog', 'dog', 'dog;cat']
ONCE = ['cat'] * 7 + ['dog']  # dog is in one picture alone
APART = ['cat', 'dog', 'cow', 'hen', 'cat', 'dog', 'cow', 'hen']  # a batch of four may share no label


def started(table, tmp_path, labels, method, **more):
    "A run on these labels, whose training fails the test if it begins"
    return Run(tmp_path/'run', recipe('quick', method=method, root=str(table(labels)), **SMALL, **more), progress=False)


def no_training(monkeypatch): monkeypatch.setattr(doing, 'fit', lambda *a, **k: pytest.fail('a training began'))


@pytest.mark.parametrize('method, labels, options, message', [
    ('mcis', ONCE, {}, "class 'dog' is in one training picture alone, 'p7', and mcis needs a partner for it"),
    ('sc-cam', EVEN, dict(k=5), "class 'dog' is in 4 pictures, fewer than k=5 sub-categories; take --set k=4 or less"),
    ('sc-cam', ONCE, dict(k=2), "class 'dog' is in 1 picture, fewer than k=2 sub-categories"),
])
def test_labels_that_a_method_cannot_learn_from_are_refused_before_a_training(table, tmp_path, monkeypatch, method, labels, options, message):
    no_training(monkeypatch)
    made = started(table, tmp_path, labels, method, options=options)
    with pytest.raises(InputError) as refusal: made.classify()
    assert message in str(refusal.value) and '\n' not in str(refusal.value)


@pytest.mark.parametrize('method', ['seam', 'ficklenet', 'seenet', 'pmm'])
def test_a_class_that_is_seen_once_is_learnt(table, tmp_path, method):
    made = started(table, tmp_path, ONCE, method)
    made.classify()
    assert all(np.isfinite(v) for v in made.row()['losses'].values())


@pytest.mark.parametrize('partners', ['drawn', 'batch'])
def test_a_batch_without_a_shared_label_has_a_finite_loss(table, tmp_path, partners):
    made = started(table, tmp_path, APART, 'mcis', options=dict(partners=partners, width=8))
    task = made.make_task(made.make_net(False), 2).train()
    labels = made.samples('all').labels[:4]
    assert not (labels @ labels.T).fill_diagonal_(0).any()
    losses = task(dict(image=torch.randn(4, 3, 64, 64), labels=labels, id=made.samples('all').ids[:4]), 1)
    assert losses['common'] == 0 and losses['left'] == 0 and all(v.isfinite() for v in losses.values())
    sum(losses.values()).backward()


def test_a_round_of_another_k_is_not_gone_on_with(table, tmp_path):
    first = started(table, tmp_path, EVEN, 'sc-cam', options=dict(k=2))
    first.classify()
    with pytest.raises(CheckpointError, match=r'k.*2.*now.*3') as refusal:
        started(table, tmp_path, EVEN, 'sc-cam', options=dict(k=3)).classify()
    assert '\n' not in str(refusal.value)


def saliency(folder, size=(64, 64), absent=None, mode='L'):
    "Saliency maps of the eight pictures"
    folder.mkdir()
    for i in range(8):
        if i != absent: Image.new(mode, size).save(folder/f'p{i}.png')
    return str(folder)


@pytest.mark.parametrize('about, message', [
    (dict(size=(32, 64)), 'p0.png: the saliency map is 64 x 32, its picture 64 x 64 (H x W)'),
    (dict(absent=3), 'no saliency map for 1 of 8 pictures, the first would be p3.png'),
    (dict(mode='RGB'), 'a saliency map is a PNG of 8-bit grey'),
])
def test_saliency_maps_that_do_not_fit_are_refused_before_a_training(table, tmp_path, monkeypatch, about, message):
    no_training(monkeypatch)
    wanted = recipe('quick', method='seenet', root=str(table(EVEN)), saliency=saliency(tmp_path/'salient', **about), **SMALL, **NEEDS_SALIENCY)
    with pytest.raises(InputError) as refusal: run(wanted, tmp_path/'run', progress=False)
    assert message in str(refusal.value) and '\n' not in str(refusal.value)


@pytest.mark.parametrize('method', ['seam', 'ficklenet', 'seenet', 'sc-cam', 'mcis', 'pmm'])
def test_no_map_of_a_class_that_is_not_given_is_stored(table, tmp_path, method):
    options = {'sc-cam': dict(k=2, rounds=1), 'mcis': dict(width=8), 'ficklenet': dict(passes=2)}.get(method, {})
    have = find_method(method).options
    made = started(table, tmp_path, EVEN, method, options={k: v for k, v in options.items() if k in have})
    made.classify()
    store, samples = made.cams('all'), made.samples('all')
    for i, id in enumerate(samples.ids): assert {c for c in store.get(id) if c} <= {*samples.label_ids(i)}
