"""What the command says where somebody slips: one line with what is wrong and what was meant, said at once."""
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace

import pytest

from consistency_cam import cli
from consistency_cam.experiments.recipes import recipe
from test_cli import call, children_seconds, process

pytestmark = pytest.mark.situation('slips on the command line')


@pytest.fixture(scope='module')
def ground(tmp_path_factory):
    "Folders that look like runs, and what lies around them"
    d = tmp_path_factory.mktemp('ground')
    for name in ('demo/cam-0', 'demo/puzzle-cam-0', 'mine'):
        (d/name/'cams').mkdir(parents=True)
        (d/name/'recipe.json').write_text(json.dumps(asdict(recipe('quick', method='cam'))))
    (d/'newer').mkdir(); (d/'newer'/'recipe.json').write_text(json.dumps(asdict(recipe('quick')) | dict(humidity=3)))
    (d/'slip').mkdir(); (d/'slip'/'recipe.json').write_text(json.dumps(asdict(recipe('quick')) | dict(epoch=3)))
    (d/'empty').mkdir(); (d/'masks').mkdir(); (d/'masks'/'a.png').write_bytes(b''); (d/'file').write_text('')
    return d


SLIPS = [  # (arguments, what the line says)
    # commands
    ('exlpore', "did you mean 'explore'?"), ('Run x', "did you mean 'run'?"), ('import_cams a b', "did you mean 'import-cams'?"), ('stat x', "did you mean 'status'?"), ('evaluat x', "did you mean 'evaluate'?"), ('zzz x', "unknown command 'zzz'; known: demo"),
    # options
    ('run x --metod cam', "unknown option '--metod'; did you mean '--method'?"), ('run x --epoch 3', "did you mean '--epochs'?"), ('run x --batch_size 4', "did you mean '--batch-size'?"), ('run x --batch_size=4', "unknown option '--batch_size'; did you mean '--batch-size'?"),
    ('run x --no-miror', "did you mean '--no-mirror'?"), ('run x --segment-o masks', "did you mean '--segment-on'?"), ('export x --ot y', "did you mean '--out'?"), ('run x --LR .1', "did you mean '--lr'?"), ('run --methods cam', "it is one of compare"), ('status x --lr .1', 'it is one of run, train'),
    ('status x --force', 'it is one of demo, run'), ('status x --quiet', 'it is one of demo, run'), ('doctor --force', 'it is one of demo, run'), ('paper table1 --quiet', 'it is one of demo, run'), ('--quiet run x', 'stands after the command'), ('run x -q', "unknown option '-q'"),
    ('predict {mine} -dash.png', 'is written ./-dash.png'), ('run x --tiles 2 --tiles 4', '--tiles stands twice'), ('compare {new} --methods cam --methods puzzle-cam', '--methods stands twice'), ('compare --methods cam puzzle-cam runs', '--methods takes all that follows it'),
    ('run x y', "'y' is one argument too many"), ('status', 'arguments are required'), ('run x --root', 'expected one argument'),
    # choices
    ('run x --until classifi', "did you mean 'classify'?"), ('run x --recipe voc_quick', "did you mean 'voc-quick'?"), ('run x --recipe papr', "did you mean 'paper'?"), ('run x --method puzzle', "did you mean 'puzzle-cam'?"), ('run x --method CAM', "did you mean 'cam'?"), ('run x --method=', "method='': known are cam"),
    ('train x --method consistency', "did you mean 'consistency-cam'?"), ('compare x --methods cam puzzlecam', "did you mean 'puzzle-cam'?"), ('run x --pool noisyor', "did you mean 'noisy_or'?"), ('run x --segment deeplab', 'did you mean'), ('run x --batch-norm Frozen', "did you mean 'frozen'?"), ('run x --data scene', "did you mean 'scenes'?"),
    ('run x --affinity boundry', "did you mean 'boundary'?"), ('paper tabel1', "did you mean 'table1'?"), ('paper Fig5', "did you mean 'fig5'?"), ('export {mine} --out x --as cocoa', "did you mean 'coco'?"), ('download vocc', "did you mean 'voc'?"), ('submit vocs {mine}', "did you mean 'voc'?"),
    # numbers
    ('run x --epochs 1e3', "a whole number is wanted, not '1e3'"), ('run x --epochs 0x10', 'a whole number is wanted'), ('run x --epochs 2.5', 'a whole number is wanted'), ('run x --epochs=', 'a whole number is wanted'), ('run x --lr high', 'a number is wanted'), ('run x --lr nan', 'lr=nan: from 0'), ('run x --lr inf', 'lr=inf: from 0'), ('run x --lr 1e400', 'lr=inf'),
    ('run x --lr=-1', 'lr=-1.0: from 0'), ('run x --crop -1', 'crop=-1: from 1'), ('run x --seed -1', 'seed=-1: from 0'), ('run x --long-side 400 300', 'the smaller one first'), ('run x --scales 1 nan', 'from 0.01'), ('compare x --seeds 0 -1', 'seed=-1: from 0'), ('compare x --seeds one', 'a whole number is wanted'), ('verify scenes --most -2', 'from 0 on is wanted'),
    # places
    ('status {demo}', 'it holds 2 of them, cam-0, puzzle-cam-0; name one, as'), ('predict {demo} {masks}', 'it holds 2 of them'), ('export {demo} --out {new}', 'it holds 2 of them'), ('cams {demo}', 'it holds 2 of them'), ('submit voc {demo}', 'it holds 2 of them'), ('status {mine}/cams', 'it is in the run mine'), ('status {mine}/recipe.json', 'it is in the run mine'), ('status {file}', 'it is a file'), ('status {demo}/', 'it holds 2'),
    ('status {min}', 'did you mean'), ('status {empty}', 'make one with `consistency-cam run`'), ('status {new}', 'there is no such folder'), ('explore {min}', 'did you mean'), ('explore {empty}', 'make one with'), ('explore {masks}', 'make one with'), ('evaluate {empty}', 'or name a folder of palette PNGs'), ('evaluate {mine} {masks}', 'are for runs'),
    ('status ~nobody-of-this-name/x', "nobody's home folder"), ('status {newer}', "knows no field 'humidity'; a newer version"), ('status {slip}', "did you mean 'epochs'?"), ('export {mine} --out {new}', '--until pseudo` does it'), ('export {mine} --out {new} --split val', "those of the training split, 'train'"),
    ('evaluate {masks}', 'no mask of scenes, val, whose first one would be'),
]


@pytest.mark.parametrize('line, says', SLIPS)
def test_a_slip_is_one_line_with_what_was_meant(ground, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    places = {n: ground/n for n in 'demo mine masks file empty min newer slip new'.split()}
    status, out, err = call([a.format(**places) for a in line.split(' ')])
    assert status in (1, 2) and says in err and err.count('\n') == 1 and out == '', (status, err)
    assert not [*tmp_path.iterdir()], 'something was written'


ODD = {'an empty path': ['status', ''], 'a long name': ['status', 'n' * 300], 'a very long path': ['status', 'a/' * 9000], 'two lines': ['status', 'two\nlines'], 'an escape code': ['status', '\x1b[31mred'], 'a bell': ['run', 'x', '--method', '\a'], 'a long option': ['run', 'x', '--' + 'x' * 5000],
    'a long value': ['run', 'x', '--method', 'm' * 9000], 'no text': ['status', '\udcff'], 'dashes': ['status', '--', '--'], 'a dash': ['status', '-'], 'a space': ['status', ' '], 'quotes': ['status', '"mine"'], 'only dashes': ['--'], 'a digit from elsewhere': ['run', 'x', '--epochs', '\u00b2'], 'many digits': ['run', 'x', '--epochs', '9' * 5000]}


@pytest.mark.parametrize('what', ODD)
def test_odd_arguments(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(ODD[what])
    assert status in (1, 2) and err.count('\n') == 1 and err[:-1].isprintable() and len(err) < 900, err


def test_names_that_are_written_otherwise(ground, monkeypatch):
    "A ~ that the shell left there, a slash at the end, a folder with the name of an option, backslashes of Windows"
    monkeypatch.chdir(ground); monkeypatch.setenv('HOME', str(ground))
    (ground/'--quiet').mkdir(); (ground/'--quiet'/'recipe.json').write_text((ground/'mine'/'recipe.json').read_text())
    for name in ('~/mine', 'mine/', './mine/.', './--quiet'): assert call(['status', name])[0] == 0, name
    assert call(['status', '--', '--quiet'])[0] == 0
    assert 'did you mean demo/cam-0?' in call(['status', 'demo\\cam-0'])[2]
    assert cli.given_fields(cli.make_parser().parse_args(['run', 'x', '--root=~/VOC2012', '--labels', 'auto']))['data.root'] == str(ground/'VOC2012')


def test_runs_that_are_a_file(ground, monkeypatch):
    monkeypatch.setenv('CONSISTENCY_CAM_RUNS', str(ground/'file'))
    assert 'a file; name the folder for runs' in call(['doctor'])[2]


def test_warnings_are_sentences(ground, monkeypatch):
    def warn(args):
        for _ in range(3): warnings.warn('no mask for 2 of 12 pictures')
    monkeypatch.setitem(cli.COMMANDS, 'status', replace(cli.COMMANDS['status'], function=warn))
    assert call(['status', ground/'mine']) == (0, '', 'consistency-cam: warning: no mask for 2 of 12 pictures\n')


@pytest.mark.parametrize('line', ['run x --metod a', 'run x --method puzzle', 'status nowhere', 'explore nowhere'])
def test_a_slip_is_answered_at_once(tmp_path, line):
    took = []
    for _ in range(3):
        before = children_seconds()
        status = process(line.split(), cwd=tmp_path)[0]
        took.append(children_seconds() - before)
        assert status in (1, 2)
        if took[-1] < 1: return
    pytest.fail(f'{min(took):.2f} s of a processor at best')


@pytest.mark.parametrize('line', ['status nowhere >&- 2>&-', 'status nowhere <&- >&-', 'COLUMNS=20 --help >/dev/null', 'LC_ALL=C status r\u00e9sum\u00e9'])
def test_closed_streams_and_narrow_terminals(tmp_path, line):
    *before, line = line.partition(' ')[::2] if '=' in line.split()[0] else ('', line)
    done = subprocess.run(['sh', '-c', f'{" ".join(before)} {sys.executable} -m consistency_cam {line}'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if 'help' in line else 1) and 'Traceback' not in done.stderr and done.stderr.count('\n') <= 1, done.stderr


SERVER = "import os, sys, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_to_explore_ends_its_server(tmp_path, name):
    code = f'import subprocess, sys; from consistency_cam.explore.notebook import wait_for; raise SystemExit(wait_for(subprocess.Popen([sys.executable, "-c", {SERVER!r}])))'
    explore = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, start_new_session=True)
    while not (tmp_path/'pid').exists() or not (tmp_path/'pid').read_text(): time.sleep(.02)
    time.sleep(.2)
    explore.send_signal(getattr(signal, name))
    assert explore.wait(20) == 0
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path/'pid').read_text()), 0)
