"""Methods of other people: a file beside the package, a module of its own in a term, two processes, a training that was cut."""
import os
import shutil
import subprocess
import sys

import pytest
import torch

import consistency_cam.experiments.stages as doing
from consistency_cam.methods import registry
from consistency_cam.files.checkpoint import CheckpointError, load_state, read_json, read_metrics
from consistency_cam.cli import main
from consistency_cam.consistency import METHODS
from consistency_cam.files.errors import InputError
from consistency_cam.experiments.pipeline import Run, recipe, run

HEAD = 'import torch\nfrom torch import nn\nfrom consistency_cam.consistency import Method, Option, register\n'
SHARPER = HEAD + '''
class Sharper(nn.Module):
    lr_factor = 10.
    def __init__(self, weight):
        super().__init__()
        self.weight, self.scale = weight, nn.Parameter(torch.ones(()))
    def forward(self, out): return dict(sharper=self.weight * (out.whole.cams * self.scale).sigmoid().mean())

register(Method('sharper', 'sharper CAM', terms=lambda options, net: [Sharper(options.weight)], options=dict(weight=Option(.1, 'of the mean', (0, 1)))))
'''
SMALL = dict(pictures=16, epochs=2, batch_size=4, size=64, crop=64, long_side=(60, 68), val='', log_every=1)
OPTIONS = '--pictures 16 --epochs 2 --batch-size 4 --size 64 --crop 64 --long-side 60 68 --val= --log-every 1 --quiet'.split()


@pytest.fixture
def file(tmp_path, monkeypatch):
    "A file with a method, and a registry that forgets it afterwards"
    monkeypatch.setenv(registry.FILES, '')
    known = dict(METHODS)
    path = tmp_path/'sharper.py'
    path.write_text(SHARPER)
    yield path
    METHODS.clear()
    METHODS.update(known)


def weights(folder): return load_state(folder/'classify'/'weights.safetensors')['net']


def forget():
    del METHODS['sharper']
    os.environ[registry.FILES] = ''


def test_a_term_is_trained_saved_and_resumed_and_its_run_opens_without_the_file(file, tmp_path, monkeypatch):
    registry.use_files([file])
    wanted = recipe('quick', method='sharper', options=dict(weight=.5), **SMALL)
    whole = run(wanted, tmp_path/'whole', progress=False, until='cams')
    assert all(c.endswith(f' --methods {os.path.relpath(file)}') for c in whole.next_commands())
    scale = weights(whole.folder)['terms.0.scale']
    assert scale != 1 and torch.equal(whole.net().terms[0].scale.detach().cpu(), scale)

    def cut(*given, **more):
        real_fit(*given, **more, stop_at=3)
        raise KeyboardInterrupt
    real_fit = doing.fit
    with monkeypatch.context() as m:
        m.setattr(doing, 'fit', cut)
        with pytest.raises(KeyboardInterrupt): run(wanted, tmp_path/'cut', progress=False, until='classify')
    assert len(read_metrics(tmp_path/'cut'/'classify'/'metrics.jsonl')) == 3
    run(wanted, tmp_path/'cut', progress=False, until='classify')
    one, other = weights(whole.folder), weights(tmp_path/'cut')
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)

    file.write_text(SHARPER + '\n# changed\n')
    with pytest.raises(CheckpointError, match='made from other method file'): Run(whole.folder, progress=False).classify()
    forget()
    with pytest.warns(UserWarning, match="the method 'sharper' is not here, .*; give --methods sharper.py"): alone = Run(whole.folder, progress=False)
    assert alone.title == 'sharper CAM' and alone.row()['losses']['sharper'] > 0 and alone.evaluate('cams') == whole.evaluate('cams')
    with pytest.raises(InputError, match="the method 'sharper' is not here"): alone.net()
    assert alone.cams('train').get(alone.samples('train').ids[0])
    assert read_json(whole.folder/'method.json')['file'] == 'sharper.py'


SMOOTH = HEAD + '''
class Smooth(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, out): return dict(smooth=(out.logits.softmax(1) * self.scale).diff(dim=-1).abs().mean())

register(Method('smooth', 'smooth masks', segment_terms=lambda options, net: [Smooth()]))
'''


def test_a_segmenter_goes_on_in_its_second_round_with_a_term_soft_labels_and_the_classifiers_start(file, tmp_path, monkeypatch):
    file.write_text(SMOOTH)
    registry.use_files([file])
    small = dict(epochs=2, batch_size=4, crop=64, long_side=(60, 68), frozen_stages=4)
    wanted = recipe('quick', method='smooth', affinity=None, pseudo=dict(crf=False), segment=dict(start='classifier', loss='collision', rounds=2, crf=False, side=64, **small), **SMALL)
    whole = run(wanted, tmp_path/'whole', progress=False)
    shutil.copytree(whole.folder, tmp_path/'cut', ignore=shutil.ignore_patterns('segment', 'masks', 'evaluate'))

    def cut(task, data, folder, *given, **more):
        real_fit(task, data, folder, *given, **more, stop_at=5 if folder.name == 'segment' else None)
        if folder.name == 'segment': raise KeyboardInterrupt
        return read_metrics(folder/'metrics.jsonl')
    real_fit = doing.fit
    with monkeypatch.context() as m:
        m.setattr(doing, 'fit', cut)
        with pytest.raises(KeyboardInterrupt): run(wanted, tmp_path/'cut', progress=False)
    assert len(read_metrics(tmp_path/'cut'/'segment'/'metrics.jsonl')) == 5
    again = run(wanted, tmp_path/'cut', progress=False)
    first, one, other = (load_state(folder/'weights.safetensors')['net'] for folder in (whole.folder/'segment'/'round1', whole.folder/'segment', again.folder/'segment'))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one) and not torch.equal(one['terms.0.scale'], first['terms.0.scale'])
    assert {*read_metrics(whole.folder/'segment'/'round1'/'metrics.jsonl')[0]} >= {'collision', 'smooth'} and {*read_metrics(whole.folder/'segment'/'metrics.jsonl')[0]} >= {'ce', 'smooth'}
    middle = 'backbone.blocks.3.0.conv_pw.weight'  # the classifier has trained it, the segmenter has not
    assert torch.equal(one[middle], weights(whole.folder)[middle]) and torch.equal(whole.segmenter().terms[0].scale.cpu(), one['terms.0.scale'])
    changed = recipe('quick', **{**SMALL, 'lr': .001}, method='smooth', affinity=None, pseudo=dict(crf=False), segment=dict(start='classifier', on='masks', crf=False, **small))
    bound = run(changed, tmp_path/'bound', progress=False)
    assert bound.stages() == ['classify', 'segment'] and 'classify' in read_json(bound.folder/'segment'/'stage.json')['data']


OWN = {'ficklenet': {}, 'seenet': dict(width=8), 'mcis': dict(width=8, larger=1.25), 'icd': dict(width=8)}


@pytest.mark.parametrize('method', OWN)
def test_a_method_of_chance_is_the_same_to_the_bit_over_resume_and_another_with_another_seed(method, tmp_path, monkeypatch):
    small = dict(SMALL, pictures=32, method=method, options=OWN[method], cams=dict(scales=(1.,)))
    def maps(made): return {id: made.cams('train').get(id, full=False) for id in made.samples('train').ids}
    def cut(*given, **more):
        real_fit(*given, **more, stop_at=3)
        raise KeyboardInterrupt
    whole, real_fit = run(recipe('quick', **small), tmp_path/'whole', progress=False, until='cams'), doing.fit
    with monkeypatch.context() as m:
        m.setattr(doing, 'fit', cut)
        with pytest.raises(KeyboardInterrupt): run(recipe('quick', **small), tmp_path/'cut', progress=False, until='classify')
    again = run(recipe('quick', **small), tmp_path/'cut', progress=False, until='classify')
    one, other = weights(whole.folder), weights(again.folder)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    real_infer = doing.infer
    with monkeypatch.context() as m:  # the inference is cut, too
        m.setattr(doing, 'infer', lambda *given, **more: (found for _, found in zip(range(5), real_infer(*given, **more))))
        m.setattr(doing.StageFolder, 'finish', lambda *_: exec('raise KeyboardInterrupt'))
        with pytest.raises(KeyboardInterrupt): again.cams('train')
    found, resumed, samples = maps(whole), maps(Run(again.folder, progress=False)), whole.samples('train')
    assert [[*m] for m in found.values()] == [samples.label_ids(i) for i in range(len(samples))]  # no class that is not given
    assert all(torch.equal(found[id][c], resumed[id][c]) for id in found for c in found[id])
    if method == 'ficklenet':  # chance at inference alone: the same weights, and another seed
        from consistency_cam.cams import infer_batch
        given = whole.net(), samples.image(0)[None], samples.labels[:1], (1.,)
        a, b, c = (infer_batch(*given, ids=samples.ids[:1], seed=seed)[0] for seed in (0, 0, 1))
        assert all(torch.equal(a[k], b[k]) and not torch.equal(a[k], c[k]) for k in a)
    second = run(recipe('quick', **small, seed=1), tmp_path/'second', progress=False, until='classify')
    assert not torch.equal(weights(second.folder)['classifier.weight' if method != 'seenet' else 'classifier.0.weight'], one['classifier.weight' if method != 'seenet' else 'classifier.0.weight'])


def test_saliency_is_looked_at_before_the_training_and_a_run_with_somebodys_maps_says_so(tmp_path, capsys):
    from PIL import Image
    folder, start = tmp_path/'maps', ['run', str(tmp_path/'run'), '--method', 'cam', '--affinity', 'none', '--segment', 'none', '--no-pseudo.crf', *OPTIONS]
    def refused(text, *more):
        assert main([*start, *more]) == 1
        err = capsys.readouterr().err
        assert text in err and err.count('\n') == 1 and not (tmp_path/'run'/'classify').exists(), err
    refused('no such folder', '--saliency', str(folder))
    folder.mkdir()
    refused('no saliency map for 16 of 16 pictures', '--saliency', str(folder))
    ids = Run(tmp_path/'other', recipe('quick', **SMALL)).samples('train').ids
    for id in ids: Image.new('L', (64, 64), 255).save(folder/f'{id}.png')
    Image.new('L', (32, 64)).save(folder/f'{ids[3]}.png')
    refused(f'{ids[3]}.png: the saliency map is 64 x 32, its picture 64 x 64', '--saliency', str(folder))
    refused("the rule 'power' of pseudo-labels reads none", '--saliency', str(folder), '--pseudo.rule', 'power')
    refused('it reads saliency maps; add --saliency FOLDER', '--pseudo.rule', 'harmonic')
    Image.new('L', (64, 64)).save(folder/f'{ids[3]}.png')
    assert main([*start, '--saliency', str(folder)]) == 0 and 'plain CAM, I+S' in capsys.readouterr().out
    done = Run(tmp_path/'run', progress=False)
    from consistency_cam.datasets.samples import read_mask
    assert not read_mask(done.pseudo('train')/f'{ids[3]}.png').any()  # nothing stands out there
    Image.new('L', (64, 64), 255).save(folder/f'{ids[3]}.png')
    with pytest.raises(CheckpointError): done.pseudo('train')          # other maps are another stage
    own = recipe('quick', **SMALL, method='cam', affinity=None, segment=None, saliency='barrier', pseudo=dict(crf=False))
    assert run(own, tmp_path/'barrier', progress=False).title == 'plain CAM'


def test_what_somebody_gives_wins_over_a_method_and_a_method_over_the_preset(file, tmp_path):
    file.write_text(SHARPER.replace("options=dict(", "recipe={'walk.steps': 32, 'walk.beta': 8.}, options=dict("))
    registry.use_files([file])
    r = recipe('quick', method='sharper', walk=dict(beta=3.), **SMALL)
    made = run(r, tmp_path/'run', progress=False, until='classify')
    assert (r.walk.steps, r.walk.beta) == (32, 3.) and Run(made.folder).recipe == r
    words = made.line[0].words(made)['settings that sharper CAM wants']
    assert words == 'walk.steps 32, walk.beta 3.0 (given, in place of 8.0)'
    written = read_json(made.folder/'recipe.json')
    assert written['wished'] == {'walk.steps': 8} and {'walk.beta', 'classify.method'} <= {*written['given']}


@pytest.mark.slow
def test_two_processes_train_a_term_as_one_does(file, tmp_path):
    registry.use_files([file])
    run(recipe('quick', method='sharper', **SMALL), tmp_path/'one', progress=False, until='classify')
    two = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'consistency_cam']
    done = subprocess.run([*two, 'train', tmp_path/'two', '--methods', file, '--method', 'sharper', *OPTIONS], env=dict(os.environ, OMP_NUM_THREADS='1', CONSISTENCY_CAM_METHODS=''), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path/name) for name in ('one', 'two'))
    assert one['terms.0.scale'] != 1 and abs(one['terms.0.scale'] - two['terms.0.scale']) < 1e-4
    for a, b in zip(*(read_metrics(tmp_path/name/'classify'/'metrics.jsonl') for name in ('one', 'two'))): assert abs(a['sharper'] - b['sharper']) < 1e-3


WRONG = {
    'no dictionary': (HEAD + "register(Method('wrong', 'x', terms=lambda options, net: [lambda out: 3.]))", [], 'it returns float; a dictionary of named losses is wanted'),
    'no scalar': (HEAD + "register(Method('wrong', 'x', terms=lambda options, net: [lambda out: dict(a=out.whole.cams)]))", [], "its loss 'a' is not a scalar tensor"),
    'a taken name': (HEAD + "register(Method('wrong', 'x', terms=lambda options, net: [lambda out: dict(cls=out.whole.cams.mean())]))", [], "there is a loss 'cls' already"),
    'no dictionary of the segmenter': (HEAD + "register(Method('wrong', 'x', segment_terms=lambda options, net: [lambda out: 3.]))", ['--until', 'segment'], 'it returns float; a dictionary of named losses is wanted'),
    'a part of the network twice': (HEAD + "register(Method('wrong', 'x', terms=lambda options, net: [nn.ModuleList([net.classifier])]))", [], 'it holds a part of the network'),
    'views of one name': (HEAD + "from consistency_cam.views import HFlip\nregister(Method('wrong', 'x', views=lambda options, recipe: [HFlip(name='cls')]))", [], "two losses would be named 'cls'"),
    'a term and frugal': (HEAD + "register(Method('wrong', 'x', terms=lambda options, net: [lambda out: {}]))", ['--frugal'], 'a term sees all views at once'),
    'registered twice': (HEAD + "for title in 'xy': register(Method('wrong', title))", [], "a method 'wrong' is registered already"),
    'unknown option': (HEAD + "register(Method('wrong', 'x', options=dict(size=Option(1, 'cells', (1, 9)))))", ['--set', 'siez=2'], "has no option 'siez'; did you mean 'size'?"),
    'option out of its limits': (HEAD + "register(Method('wrong', 'x', options=dict(size=Option(1, 'cells', (1, 9)))))", ['--set', 'size=10'], 'from 1 to 9 is wanted'),
    'option of another kind': (HEAD + "register(Method('wrong', 'x', options=dict(size=Option(1, 'cells', (1, 9)))))", ['--set', 'size=big'], 'a whole number is wanted'),
    'no import': (HEAD + "register(Method('wrong', 'x')); import absent_of_all", [], "cannot be imported (ModuleNotFoundError: No module named 'absent_of_all')"),
    'no Python': ('register(', [], 'not Python'),
    'a name of ours': (HEAD + "register(Method('cam', 'x'))", ['--method', 'cam'], "two methods are registered as 'cam'"),
}


@pytest.mark.parametrize('what', WRONG)
def test_what_is_wrong_with_a_method_is_one_line_before_anything_is_trained(file, tmp_path, capsys, what):
    text, more, said = WRONG[what]
    file.write_text(text)
    method = [] if '--method' in more else ['--method', 'wrong']
    assert main(['run', str(tmp_path/'run'), '--methods', str(file), *method, '--until', 'classify', *OPTIONS, *more]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1 and not (tmp_path/'run').exists(), err


def test_a_comparison_takes_files_and_gives_each_method_its_own_options(file, tmp_path, capsys):
    common = ['compare', str(tmp_path/'runs'), '--methods', 'cam', str(file), '--until', 'classify', *OPTIONS]
    assert main([*common, '--set', 'weight=2']) == 1 and "option weight=2 of method 'sharper'" in capsys.readouterr().err
    assert main([*common, '--set', 'height=2']) == 1 and "option 'height': none of cam, sharper has it; they have weight" in capsys.readouterr().err
    assert not (tmp_path/'runs').exists()


def test_processes_that_are_started_know_the_files_and_import_nothing_heavy_for_it(file):
    registry.use_files([file])
    said = subprocess.run([sys.executable, '-c', 'import sys; from consistency_cam.methods.registry import method_names; print(*method_names(), "torch" in sys.modules)'], capture_output=True, text=True).stdout.split()
    assert said[-1] == 'False' and {'cam', 'consistency-cam', 'seam', 'sharper'} <= {*said}


def test_a_package_brings_a_method_by_an_entry_point(file, tmp_path, monkeypatch):
    about = tmp_path/'plug-1.5.dist-info'
    about.mkdir()
    (about/'METADATA').write_text('Metadata-Version: 2.1\nName: plug\nVersion: 1.5\n')
    (about/'entry_points.txt').write_text('[consistency_cam.methods]\nplugged = plug_module\nabsent = plug_absent\ncam = plug_module\n')
    (tmp_path/'plug_module.py').write_text(HEAD + "register(Method('plugged', 'Plugged'))")
    monkeypatch.syspath_prepend(tmp_path)
    registry._installed_methods.cache_clear()
    try:
        assert 'plugged' in registry.method_names() and 'plugged' not in METHODS
        assert registry.find_method('plugged').title == 'Plugged' and registry.origin('plugged') == dict(package='plug 1.5')
        with pytest.raises(InputError, match='the package plug: cannot be imported .ModuleNotFoundError'): registry.find_method('absent')
        with pytest.raises(InputError, match="two methods are registered as 'cam', in consistency_cam.consistency and the package plug"): registry.find_method('cam')
    finally: registry._installed_methods.cache_clear()


ROUNDS = dict(SMALL, pictures=32, epochs=1, options=dict(k=2, rounds=1))


def test_a_method_of_rounds_is_the_same_for_one_seed_over_a_cut_and_another_for_another(tmp_path, monkeypatch):
    wanted = recipe('quick', method='sc-cam', **ROUNDS)
    whole = run(wanted, tmp_path/'whole', progress=False, until='cams')
    lesson = load_state(whole.folder/'classify'/'round1'/'lesson.safetensors')
    assert lesson['ids'] == whole.samples('train').ids and (lesson['sub_labels'] >= 0).equal(whole.samples('train').labels.bool())

    def cut(task, data, folder, *given, **more):
        if folder.name == 'round1': return real_fit(task, data, folder, *given, **more)
        real_fit(task, data, folder, *given, **more, stop_at=3)
        raise KeyboardInterrupt
    real_fit = doing.fit
    with monkeypatch.context() as m:
        m.setattr(doing, 'fit', cut)
        with pytest.raises(KeyboardInterrupt): run(wanted, tmp_path/'cut', progress=False, until='classify')
    first = (tmp_path/'cut'/'classify'/'round1'/'weights.safetensors').stat().st_mtime_ns
    run(wanted, tmp_path/'cut', progress=False, until='classify')
    assert first == (tmp_path/'cut'/'classify'/'round1'/'weights.safetensors').stat().st_mtime_ns
    one, other = weights(whole.folder), weights(tmp_path/'cut')
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    again = weights(run(recipe('quick', method='sc-cam', seed=1, **ROUNDS), tmp_path/'again', progress=False, until='classify').folder)
    assert not torch.equal(one['terms.0.head.weight'], again['terms.0.head.weight'])
    with pytest.raises(CheckpointError, match='made with'): run(recipe('quick', method='sc-cam', **dict(ROUNDS, options=dict(k=3, rounds=1))), tmp_path/'cut', progress=False, until='classify')


@pytest.mark.parametrize('more, said', [(['--set', 'k=20'], 'fewer than k=20 sub-categories; take --set k='), (['--set', 'k=0'], 'from 1 to 1,000 is wanted')])
def test_clusters_that_cannot_be_are_one_line_before_anything_is_trained(tmp_path, capsys, more, said):
    assert main(['run', str(tmp_path/'run'), '--method', 'sc-cam', '--until', 'classify', *OPTIONS, *more]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1 and not (tmp_path/'run').exists(), err


def test_a_class_that_never_stands_alone_is_one_line_before_icd_is_trained_and_may_be_let_in(tmp_path, capsys):
    more = ['--method', 'icd', '--until', 'classify', *OPTIONS, '--set', 'width=8']
    assert main(['run', str(tmp_path/'run'), *more]) == 1
    err = capsys.readouterr().err
    assert "class 'rabbit' is in no training picture without another class" in err and err.count('\n') == 1, err
    assert not [*tmp_path.rglob('*.safetensors')]
    assert main(['run', str(tmp_path/'all'), *more, 'alone=false']) == 0 and weights(tmp_path/'all')['sides'].any()


@pytest.mark.parametrize('more, said', [
    (['--pseudo.labels', 'proportional'], 'such as --pseudo.background 11'),
    (['--pseudo.labels', 'two-sided'], 'add --pseudo.rule map'),
    (['--affinity.labels', 'alpha'], 'such as --affinity.scores 4 32'),
    (['--walk.background', 'power'], 'add --pseudo.rule map --pseudo.background 1, or leave it out'),
    (['--segment.cap', '.5', '--segment.loss', 'balanced'], 'take --segment.loss ce, or leave the cap out'),
    (['--affinity.long-side', '0', '64'], 'two sizes are wanted, or 0 0 for as it is')])
def test_settings_that_do_not_go_together_are_one_line(tmp_path, capsys, more, said):
    assert main(['run', str(tmp_path/'run'), *OPTIONS, *more]) != 0
    err = capsys.readouterr().err
    assert said in err and 'Traceback' not in err and not (tmp_path/'run').exists(), err
