"""The command with arguments and files that nobody should give it: one line and a status, never a traceback, and nothing overwritten."""
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from consistency_cam import cli
from consistency_cam.camnet import read_weights
from consistency_cam.cams import CamStore
from consistency_cam.files.checkpoint import load_state, read_metrics, save_state
from consistency_cam.experiments.recipes import NAMES, RECIPES, default, option, recipe

COMMANDS = 'demo run status train cams evaluate predict compare paper explore doctor import-cams export submit'.split()
EVERY = list(cli.make_parser()._subparsers._group_actions[0].choices)
SMALL = '--pictures 8 --epochs 1 --size 64 --crop 64 --long-side 56 80 --tiles 2 4 --batch-size 4 --backbone resnet10t --pretrained random --val= --quiet'.split()
LIMIT = '--batch-size 9999999 --pretrain-batch-size 9999999 --segment-batch-size 9999999 --quiet'.split() # ends a run before it trains, if nothing else did


def call(arguments):
    "(status, stdout, stderr) of the command in this process"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: status = cli.main([str(a) for a in arguments])
        except SystemExit as end: status = end.code
    return status, out.getvalue(), err.getvalue()


def process(arguments, **more):
    "The same in a process of its own"
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = subprocess.run([sys.executable, '-m', 'consistency_cam', *map(os.fsencode, map(str, arguments))], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, **more)
    return done.returncode, *(text.decode(errors='replace') for text in (done.stdout, done.stderr))


def children_seconds():
    "Seconds of a processor that ended child processes took: a busy machine changes them little"
    return sum(os.times()[2:4])


def assert_readable(arguments, status, out, err):
    "Status 0, 1 or 2; where it is not 0, one line that a person can read"
    said = f'consistency-cam {" ".join(map(str, arguments))!r}: status {status}\n{err}'
    assert status in (0, 1, 2), said
    assert 'Traceback' not in out + err and 'unexpected' not in err, said
    lines = [line for line in err.splitlines() if not line.startswith('consistency-cam: warning: ')]
    assert len(lines) <= 1 and all(line.isprintable() and len(line) < 800 for line in lines), said
    assert status == 0 or len(lines) == 1 and ': error: ' in lines[0], said


# What lies about

RECIPE = dict(asdict(recipe('quick', method='cam', val='', pictures=8, size=64, backbone='resnet10t')))
RECIPE_FILES = { # what a recipe.json may hold
    'no_json': 'epochs: 3', 'cut': json.dumps(RECIPE)[:200], 'empty_file': '', 'list': '[1, 2]', 'number': '7', 'null': 'null', 'deep': '[' * 100_000, 'long_number': '{"epochs": ' + '9' * 5000 + '}',
    'unknown_field': json.dumps(RECIPE | dict(temperature=3)), 'odd_fields': json.dumps(RECIPE | dict(r=1, self=2, name='x')), 'text_for_number': json.dumps(RECIPE | dict(epochs='three')), 'true_for_number': json.dumps(RECIPE | dict(epochs=True)), 'nothing_for_text': json.dumps(RECIPE | dict(backbone=None)),
    'nan': json.dumps(RECIPE | dict(lr=float('nan'))), 'negative': json.dumps(RECIPE | dict(crop=-64)), 'huge': json.dumps(RECIPE | dict(size=10**12)), 'no_scales': json.dumps(RECIPE | dict(scales=[])), 'words_for_tiles': json.dumps(RECIPE | dict(tiles=['2', None])),
    'other_method': json.dumps(RECIPE | dict(method='grad-cam')), 'other_data': json.dumps(RECIPE | dict(data='cifar')), 'way_out': json.dumps(RECIPE | dict(train='../../elsewhere')), 'zero_byte': json.dumps(RECIPE | dict(data='folder', root='a\0b')), 'other_network': json.dumps(RECIPE | dict(backbone='../x')), 'twenty_classes': json.dumps(RECIPE | dict(data='voc', root='nowhere')),
}
DONE = dict(config={}, inputs='', result=dict(pictures=8, seconds=1.))
RECORDS = { # {file: content} of runs whose records are cut off, changed, or of another version
    'cut_stage': {'classify/stage.json': json.dumps(DONE)[:20]}, 'no_stage': {'classify/stage.json': '[]'}, 'text_for_result': {'classify/stage.json': json.dumps(DONE | dict(result='fine'))}, 'other_stage': {'classify/stage.json': json.dumps(dict(version=9, settings={}, output={}))},
    'text_for_seconds': {'classify/stage.json': json.dumps(DONE | dict(result=dict(steps='many', seconds='long')))}, 'cut_losses': {'classify/metrics.jsonl': '{"step": 0, "cls": 1.0}\n{"step": 1, "cl'}, 'broken_losses': {'classify/metrics.jsonl': '{"step": 0\n{"step": 1}\n'}, 'other_losses': {'classify/metrics.jsonl': '{"iteration": 0, "loss": {"cls": 1}}\n'},
    'other_figures': {'evaluate/cams/stage.json': json.dumps(DONE | dict(result=dict(train=dict(iou_mean=3))))}, 'no_figures': {'evaluate/cams/stage.json': json.dumps(DONE | dict(result=dict(train=None)))}, 'text_for_figures': {'evaluate/cams/stage.json': json.dumps(DONE | dict(result=dict(train=dict(miou='high', iou={}))))},
    'broken_weights': {'classify/weights.safetensors': 'no weights', 'classify/stage.json': json.dumps(DONE)}, 'broken_store': {'cams/train/store.json': '{}', 'cams/train/stage.json': json.dumps(DONE)}, 'stage_folder_is_a_file': {'classify': ''}, 'stage_file_is_a_folder': {'classify/stage.json/x': ''},
}
LABELS = {'no_columns.csv': 'picture,what\na,cat\n', 'no_rows.csv': 'id,labels\n', 'absent_picture.csv': 'id,labels\nz,cat\n', 'way_out.csv': 'id,labels\n../a,cat\n', 'twice.csv': 'id,labels\na,cat\na,dog\n', 'empty.csv': '', 'good.csv': 'id,labels\na,cat\nb,dog\n', 'more_cells.csv': 'id,labels\na,cat,dog,cow\n'}


def put(path, content=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding='utf-8')


@pytest.fixture(scope='module')
def ground(tmp_path_factory):
    "A folder of runs, one of them sound, and of files that are not what they should be"
    d = tmp_path_factory.mktemp('ground')
    assert call(['run', d/'sound', '--method', 'cam', '--until', 'cams', *SMALL])[0] == 0
    for name, text in RECIPE_FILES.items(): put(d/name/'recipe.json', text)
    for name, files in RECORDS.items():
        put(d/name/'recipe.json', json.dumps(RECIPE))
        for file, text in files.items(): put(d/name/file, text)
    (d/'folder_for_recipe'/'recipe.json').mkdir(parents=True)
    put(d/'latin1'/'recipe.json'); (d/'latin1'/'recipe.json').write_bytes(b'{"root": "caf\xe9"}')
    for name, text in LABELS.items(): put(d/'labels'/name, text)
    (d/'pictures').mkdir(); (d/'same').mkdir(); (d/'empty').mkdir()
    for name in ('pictures/a.png', 'pictures/b.png', 'same/a.png', 'same/a.jpg', 'two\nlines.png', 'ünïcødé ✓.png', '\udcff\udcfe.png', '-dash.png', 'masks.png'): Image.new('RGB', (40, 32), 'teal').save(os.fsencode(d/name), 'PNG')
    put(d/'a_file', 'text'); put(d/'text.png', 'no picture'); put(d/'unreadable'); (d/'unreadable').chmod(0)
    (d/'cut.png').write_bytes((d/'pictures'/'a.png').read_bytes()[:60])
    return d


# Lists of arguments

WORDS = ['', ' ', 'x', 'nan', '-1', 'train', 'résumé ✓', 'two\nlines', '\x1b[31mred', 'a' * 5000, '../..', '..', '0x10', '١٢', '\udcff\udcfe', '--', '-', '$(id)', '%s%n', '{}', 'None', 'cat', '/etc']
NUMBERS = ['0', '-1', 'nan', 'inf', '-inf', '1e400', '99999999999999999999', '9' * 5000, '1e-9', '3.5', 'two', '', '1,5', '0x10', '1_0', '٣', '--1', '2', '64', '.5', '\n', '-0', '1e6']
PATHS = 'data.root data.labels data.masks pretrain.root'.split()


def of(r, options, most): return r.sample(options, r.randint(0, most))


def options(r, places):
    "Some fields of a recipe, with values of any kind"
    for field in r.sample(NAMES, r.randint(1, 4)):
        name, usual = option(field), default(field)
        if isinstance(usual, bool): yield from (r.choice([name, name.replace('--', '--no-', 1)]),)
        elif field in PATHS: yield from (name, r.choice(places))
        else: yield from (name, *(r.choice(WORDS if isinstance(usual, str) else NUMBERS) for _ in range(r.choice([1, 1, 2, 3]) if isinstance(usual, tuple) else 1)))


def own_pictures(r, d):
    "Pictures and labels that may be anything"
    return ['--data', r.choice(['folder', 'folder', 'voc', 'coco']), '--root', r.choice([d/'pictures', d/'pictures', d/'same', d/'empty', d/'a_file', d/'absent']),
        '--labels', d/'labels'/r.choice([*LABELS, 'absent.csv']), '--train', r.choice(['all', 'train', 'x'])]


def random_list(r, d):
    "One command with arguments that end it soon"
    places = [d/name for name in (*RECIPE_FILES, *RECORDS, 'sound', 'absent', 'a_file', 'a_file/below', 'empty', 'pictures', 'text.png', 'cut.png', 'unreadable', 'folder_for_recipe', 'latin1', 'two\nlines.png', 'ünïcødé ✓.png', '\udcff\udcfe.png', 'n' * 300)]
    place = lambda: r.choice(places)
    command = r.choice(COMMANDS)
    maybe = lambda *words: list(words) if r.random() < .5 else []
    return dict(
        run=lambda: ['run', place(), *options(r, places), *(own_pictures(r, d) if r.random() < .5 else []), *maybe('--until', r.choice(WORDS + ['cams'] * 20)), *maybe('--recipe', r.choice([*RECIPES, 'x'])), *LIMIT],
        train=lambda: ['train', place(), *options(r, places), *maybe('--force'), *LIMIT],
        compare=lambda: ['compare', d/'absent', *options(r, places), *maybe('--methods', *r.sample(WORDS + ['cam', 'puzzle-cam'], 2)), *maybe('--seeds', r.choice(NUMBERS)), *maybe('--result', place()), *LIMIT],
        status=lambda: ['status', place(), *of(r, WORDS, 1)], cams=lambda: ['cams', place(), *maybe('--split', r.choice(WORDS)), '--quiet'],
        evaluate=lambda: ['evaluate', *[place() for _ in range(r.randint(1, 2))], *options(r, places), *maybe('--split', r.choice(WORDS)), *maybe('--result', place()), *maybe(*own_pictures(r, d)), '--quiet'],
        predict=lambda: ['predict', place(), place(), *maybe('--out', place()), *maybe('--classes', *r.sample(WORDS, 2)), '--quiet'],
        paper=lambda: ['paper', r.choice(['table1', 'table2', 'table3', 'table4', 'noisy-or', 'fig1', 'fig5', 'fig6', *WORDS]), *[place() for _ in range(r.randint(0, 2))], *maybe('--out', place()), *maybe('--result', place())],
        explore=lambda: ['explore', d/r.choice(['absent', 'a_file', 'empty', 'n' * 300, 'pictures']), '--no-browser'], demo=lambda: ['demo', '--folder', d/'a_file'/'x', '--quiet', *of(r, WORDS[:-3], 1)][:r.randint(4, 5)],
        export=lambda: ['export', place(), '--out', place(), *maybe('--as', r.choice([*WORDS, 'coco', 'folder'])), *maybe('--split', r.choice(WORDS))], submit=lambda: ['submit', 'voc', place(), *maybe('--out', place()), '--quiet'],
        doctor=lambda: ['doctor', *options(r, places), *own_pictures(r, d), '--quiet'],
        **{'import-cams': lambda: ['import-cams', place(), d/'absent'/'new', *options(r, places), *maybe('--title', r.choice(WORDS)), '--quiet']})[command]()


def every_list(d):
    "The lists of the tests: first each kind of file once, then random ones, the same every time"
    named = [['status', d/name] for name in (*RECIPE_FILES, *RECORDS, 'folder_for_recipe', 'latin1', 'sound')] + [[], ['--version'], ['x'], ['--x'], ['-'], ['--'], ['\n'], ['\udcff'], ['run'], ['demo', 'x'], ['status', ''], ['predict', d/'sound']]
    named += [['predict', d/'sound', d/name, '--out', d/f'out{n}', '--quiet'] for n, name in enumerate(['a_file', 'text.png', 'cut.png', 'two\nlines.png', 'ünïcødé ✓.png', '\udcff\udcfe.png', '-dash.png', 'same', 'empty', 'unreadable', 'pictures'])]
    named += [['train', d/name, *LIMIT] for name in RECORDS] + [['run', d/'new', '--data', 'folder', '--root', d/'pictures', '--labels', d/'labels'/name, '--train', 'all', '--val=', *LIMIT] for name in LABELS]
    r = random.Random(7)
    return named + [random_list(r, d) for _ in range(200 - len(named))]


def test_no_list_of_arguments_ends_in_a_traceback(ground, tmp_path, monkeypatch, figure):
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('CONSISTENCY_CAM_RUNS', str(ground/'runs'))
    lists, found, slowest = every_list(ground), [], (0, '')
    for arguments in lists:
        begun = time.perf_counter()
        status, out, err = call(arguments)
        slowest = max(slowest, (time.perf_counter() - begun, ' '.join(map(str, arguments))))
        assert_readable(arguments, status, out, err)
        found.append(status)
    assert len(lists) == 200 and min(found.count(s) for s in (0, 1, 2)) >= 10, 'the lists are all of one kind'
    figure('argument lists', f'{len(lists)}, none with a traceback: {found.count(0)} done, {found.count(1)} failed, {found.count(2)} refused as usage; the slowest took {slowest[0]:.1f} s')


@pytest.mark.slow
def test_no_process_ends_in_a_traceback(ground, tmp_path, figure):
    lists = every_list(ground)[::10]
    assert len(lists) == 20
    for arguments in lists: assert_readable(arguments, *process(arguments, cwd=tmp_path))
    figure('argument lists as processes', f'{len(lists)}, none with a traceback')


# Interrupts, pipes, help

def test_an_interrupt_is_one_line_and_130(monkeypatch):
    def interrupted(args): raise KeyboardInterrupt
    monkeypatch.setitem(cli.COMMANDS, 'explore', replace(cli.COMMANDS['explore'], function=interrupted))
    assert call(['explore', 'x']) == (130, '', 'consistency-cam: error: interrupted; run the same command again to go on\n')


def test_a_mistake_of_the_program_is_one_line_too(monkeypatch):
    def wrong(args): raise KeyError('step\n')
    monkeypatch.setitem(cli.COMMANDS, 'explore', replace(cli.COMMANDS['explore'], function=wrong))
    status, _, err = call(['explore', 'x'])
    assert status == 1 and err.count('\n') == 1 and 'unexpected KeyError' in err and 'CONSISTENCY_CAM_DEBUG' in err
    monkeypatch.setenv('CONSISTENCY_CAM_DEBUG', '1')
    with pytest.raises(KeyError): call(['explore', 'x'])


@pytest.mark.slow
def test_ctrl_c_in_a_training(tmp_path):
    "The signal goes to all processes of the terminal, those that load pictures among them; where Python loses one, as it does in a finalizer, the next one ends it"
    command = [sys.executable, '-m', 'consistency_cam', 'run', str(tmp_path/'run'), '--method', 'cam', *SMALL, '--epochs', '4000', '--log-every', '1', '--workers', '2']
    running = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS='1'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # tests in the background of a shell ignore it, and so would this
    while len(read_metrics(tmp_path/'run'/'classify'/'metrics.jsonl')) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(.05)
    for pressed in range(1, 4):
        os.killpg(running.pid, signal.SIGINT)
        try: out, err = running.communicate(timeout=20); break
        except subprocess.TimeoutExpired: pass
    else: os.killpg(running.pid, signal.SIGKILL); pytest.fail(f'goes on after Ctrl-C was pressed three times: {running.communicate()}')
    assert running.returncode == 130 and ('Traceback' not in out + err or pressed > 1), (running.returncode, err)
    assert err.splitlines()[-1] == 'consistency-cam: error: interrupted; run the same command again to go on'


def test_an_interrupt_while_a_file_is_read_is_no_damage(tmp_path):
    "Ctrl-C at any moment of reading maps, a checkpoint or weights is Ctrl-C, and never said to be a fault of the file"
    reading = False
    def ring(number, frame):
        if reading: raise KeyboardInterrupt
    store = CamStore(tmp_path/'store', ['cat'])
    store.put('a', {c: torch.rand(16, 16) for c in range(1, 5)}, (64, 64))
    save_state(tmp_path/'c.safetensors', dict(net={f'layer{n}': torch.rand(8) for n in range(40)}, step=3))
    before, rung = signal.signal(signal.SIGALRM, ring), 0
    try:
        for read in (lambda: store.get('a'), lambda: load_state(tmp_path/'c.safetensors'), lambda: read_weights(tmp_path/'c.safetensors')):
            read()
            begun = time.perf_counter(); read(); took = time.perf_counter() - begun
            for n in range(300):
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, took * n / 300))
                try: reading = True; read(); reading = False
                except KeyboardInterrupt: rung += 1
                reading = False
    finally: signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, before)
    assert rung > 100


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(ground):
    with subprocess.Popen([sys.executable, '-m', 'consistency_cam', 'status', str(ground/'sound')], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b''


@pytest.mark.parametrize('command', ['', *EVERY])
def test_help_answers_at_once(command):
    times = []
    for _ in range(3):
        before = children_seconds()
        status, out, err = process([*command.split(), '--help'])
        times.append(children_seconds() - before)
        assert status == 0 and out.startswith('usage: consistency-cam') and not err
        if times[-1] < 1: return
    pytest.fail(f'consistency-cam {command} --help took {min(times):.2f} s of a processor at best')


@pytest.mark.parametrize('command', EVERY)
def test_help_fits_a_screen_and_a_half(command):
    out = call([command, '--help'])[1]
    assert len(out.splitlines()) <= 60 and len(out) < 3500
    few = {'doctor', 'import-cams', 'verify'}
    options = {o for action in cli.make_parser()._subparsers._group_actions[0].choices[command]._actions for o in action.option_strings}
    assert ('--classify.lr' in options) == (command in ('run', 'train', 'compare', 'evaluate')) and (command not in few or '--root' in options)
    assert ('--segment.lr' in options) == ('--classify.lr' in options or command == 'import-cams')  # of what is done with maps that are there


def test_every_field_of_a_recipe_is_explained_under_its_stage():
    texts = {group: call(['run', '--help', group])[1] for group in cli.GROUPS}
    for field in NAMES:
        if isinstance(default(field), dict): continue
        flag = option(field)[2:]
        says = [group for group, text in texts.items() if any(line.strip().split(' ')[0] in (f'--{flag}', f'--[no-]{flag}') for line in text.splitlines())]
        assert says == [field.rpartition('.')[0] or 'shared'], field
    assert call(['run', '--help', 'segmnt'])[0] == 2 and "did you mean 'segment'?" in call(['run', '--help', 'segmnt'])[2]


# Nothing is overwritten

def written(ground, d):
    "{what: (arguments, the file it writes)}, the commands that write files beside a run's own"
    run, pictures = ground/'sound', ground/'pictures'
    compare = ['compare', d/'runs', '--methods', 'cam', '--until', 'classify', *SMALL]
    return {
        'figures of runs': (['evaluate', run, '--result', d/'f.json', '--quiet'], d/'f.json'),
        'a mask': (['predict', run, pictures, '--out', d/'masks', '--quiet'], d/'masks'/'b.png'),
        'an overlay': (['predict', run, pictures/'a.png', '--out', d/'masks', '--quiet'], d/'masks'/'a.overlay.png'),
        'a figure of the paper': (['paper', 'fig5', run, '--out', d/'fig5.png'], d/'fig5.png'),
        'a table of the paper': (['paper', 'table1', '--out', d/'table1.md'], d/'table1.md'),
        'the record of a table': (['paper', 'table1', '--result', d/'t.json'], d/'t.json'),
        'the page of a folder that is no run': (['run', d/'run', '--until', 'classify', *SMALL], d/'run'/'report.html'),
        'weights in a folder that is no run': (['train', d/'run', *SMALL], d/'run'/'classify'/'weights.safetensors'),
        'the page of a folder without runs': (compare, d/'runs'/'report.html'),
        'figures of a folder without runs': (compare, d/'runs'/'comparison.json'),
        'figures of a comparison': ([*compare, '--result', d/'c.json'], d/'c.json'),
        'an export': (['export', run, '--out', d/'export'], d/'export'/'a.png'),
        'an archive of masks': (['submit', 'voc', run, '--out', d, '--quiet'], d/'voc2012_comp5_test.tar.gz'),
        'CAMs in a folder that is no run': (['import-cams', d, d/'run', '--quiet'], d/'run'/'cams'/'x'),
        'the page of the demo': (['demo', '--folder', d/'demo', '--quiet'], d/'demo'/'report.html'),
    }


@pytest.mark.parametrize('what', written(Path(), Path()))
def test_nothing_is_overwritten_unasked(ground, tmp_path, what):
    arguments, file = written(ground, tmp_path)[what]
    put(file, 'mine')
    status, _, err = call(arguments)
    assert status == 1 and any(f'{p}: exists already' in err for p in (file, file.parent)), err
    assert file.read_text() == 'mine'
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [file], 'something was written before the refusal'


@pytest.mark.parametrize('what', ['figures of runs', 'a mask', 'an overlay', 'a figure of the paper', 'a table of the paper', 'the record of a table'])
def test_force_overwrites(ground, tmp_path, what):
    arguments, file = written(ground, tmp_path)[what]
    put(file, 'mine')
    assert call([*arguments, '--force'])[0] == 0 and file.read_bytes() != b'mine'


def test_every_command_that_writes_has_force_and_says_what_it_does():
    for command in {*EVERY} - {'status', 'explore', 'download', 'doctor'}:
        out = call([command, '--help'])[1]
        assert '--force' in out and 'overwrite' in out


def test_a_run_goes_on_without_force(ground):
    "What a run made of itself is no obstacle to the same command"
    assert (ground/'sound'/'report.html').exists()
    assert call(['run', ground/'sound', '--method', 'cam', '--until', 'cams', *SMALL])[0] == 0


def test_a_run_may_end_before_there_is_anything_to_report(tmp_path):
    status, out, err = call(['run', tmp_path/'run', '--method', 'cam', '--until', 'classify', *SMALL])
    assert (status, err) == (0, '') and 'done up to classify' in out and not (tmp_path/'run'/'report.html').exists()
