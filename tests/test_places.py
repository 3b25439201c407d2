"""Where people work: file systems that cannot do all, shared folders, long names, schedulers, daemons, and Windows."""
import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import consistency_cam.tools.training as training
from consistency_cam.files.checkpoint import CheckpointError, StageFolder, append_metrics, is_main, hold_lock, processes, read_json, read_metrics, read_stage
from consistency_cam.cli import main
from consistency_cam.experiments.pipeline import Run
from consistency_cam.datasets.samples import WriteError, atomic_bytes, part_name

pytestmark = pytest.mark.situation('file systems, rights, schedulers and systems')

OPTIONS = '--recipe quick --pictures 4 --size 64 --epochs 2 --crop 64 --long-side 64 72 --method cam --batch-size 2 --quiet --pretrained random --workers 0 --scales 1 --frozen-stages 0 --val'.split() + ['']
UNKNOWN = 'EPERM ENOTSUP EINVAL ENOLCK ENOSYS'.split()


def refusing(name): return lambda *a, **k: (_ for _ in ()).throw(OSError(getattr(errno, name), os.strerror(getattr(errno, name))))


@pytest.mark.parametrize('name', UNKNOWN)
@pytest.mark.parametrize('call', ['os.chmod', 'os.fsync', 'os.open of a folder', 'fcntl.flock'])
def test_what_a_file_system_does_not_know_is_passed_over(call, name, tmp_path, monkeypatch):
    real = os.open
    if call == 'os.open of a folder': monkeypatch.setattr('os.open', lambda path, *a, **k: refusing(name)() if Path(path).is_dir() else real(path, *a, **k))
    else: monkeypatch.setattr(call, refusing(name))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('default')
        for n in range(2):
            with StageFolder(tmp_path/str(n), {}).work() as stage: append_metrics(tmp_path/str(n)/'metrics.jsonl', dict(step=0)); stage.finish(dict(n=n))
    assert [str(w.message)[:29] for w in said] == ['this file system has no locks'] * (call == 'fcntl.flock')
    assert StageFolder(tmp_path/'1', {}).result == dict(n=1) and read_metrics(tmp_path/'1'/'metrics.jsonl') == [dict(step=0)]


@pytest.mark.parametrize('name', ['EIO', 'ENOSPC', 'EDQUOT', 'EROFS'])
@pytest.mark.parametrize('call', ['os.fsync', 'os.replace'])
def test_what_is_wrong_with_the_disk_is_said(call, name, tmp_path, monkeypatch):
    atomic_bytes(tmp_path/'a.json', b'first')
    monkeypatch.setattr(call, refusing(name))
    with pytest.raises(WriteError, match='a.json: cannot be written'): atomic_bytes(tmp_path/'a.json', b'second')
    assert (tmp_path/'a.json').read_bytes() == b'first' and [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr('fcntl.flock', refusing('EIO'))
    with pytest.raises(OSError, match='Input/output'): hold_lock(tmp_path/'.lock').__enter__()
    monkeypatch.undo()
    with hold_lock(tmp_path/'.lock'), pytest.raises(CheckpointError, match='is working here'): hold_lock(tmp_path/'.lock').__enter__()


@pytest.mark.parametrize('mask, mode', [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644), (0o027, 0o640), (0o007, 0o660), (0, 0o666)])
def test_files_have_the_rights_that_umask_leaves(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        with StageFolder(tmp_path/'run'/'classify', {}).work() as stage: append_metrics(stage.folder/'metrics.jsonl', dict(step=0)); stage.finish({})
        threads = [threading.Thread(target=atomic_bytes, args=(tmp_path/'run'/str(n), b'x')) for n in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
    finally: os.umask(before)
    files = [p for p in (tmp_path/'run').rglob('*') if p.is_file()]
    assert len(files) == 11 and {p.stat().st_mode & 0o777 for p in files} == {mode}


def test_a_lock_of_somebody_else_may_be_held(tmp_path, monkeypatch):
    "It may be read and not written by the second member of a group"
    (tmp_path/'.lock').write_text('12345')
    real = os.open
    monkeypatch.setattr('os.open', lambda path, flags, *a: refusing('EACCES')() if flags & os.O_RDWR else real(path, flags, *a))
    with hold_lock(tmp_path/'.lock'):
        with pytest.raises(CheckpointError, match='process 12345 is working here'): hold_lock(tmp_path/'.lock').__enter__()
    with pytest.raises(WriteError, match='none/.lock: cannot be written'): hold_lock(tmp_path/'none'/'.lock').__enter__()


@pytest.mark.parametrize('name', ['a' * 255, '名' * 85, 'é' * 121 + '.safetensors', '名' * 80 + '.png', '🙂' * 61 + '.json', 'a'])
def test_names_as_long_as_they_may_be(name, tmp_path):
    assert len(os.fsencode(name)) <= 255
    for content in (b'first', b'second'): atomic_bytes(tmp_path/name, content)
    assert (tmp_path/name).read_bytes() == b'second' and [p.name for p in tmp_path.iterdir()] == [name]
    assert len(part_name(name, '0' * 8)) < 32
    with pytest.raises(WriteError, match='File name too long'): atomic_bytes(tmp_path/('a' * 256), b'')


ENVIRONMENTS = [({}, (0, 1)), (dict(RANK='1'), (0, 1)), (dict(RANK='3', WORLD_SIZE='1'), (0, 1)), (dict(RANK='', WORLD_SIZE=''), (0, 1)), (dict(SLURM_PROCID='2', SLURM_NTASKS='4', SLURM_LOCALID='1'), (0, 1)),
    (dict(LOCAL_RANK='1'), 'LOCAL_RANK=1 is set, but not RANK'), (dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='here'), (0, 1)),
    (dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', MASTER_ADDR='here'), (1, 2)), (dict(WORLD_SIZE='4'), 'WORLD_SIZE=4 is set, but not RANK'), (dict(RANK='1', WORLD_SIZE='4'), 'not LOCAL_RANK, MASTER_ADDR'),
    (dict(RANK='0', WORLD_SIZE='2', MASTER_ADDR='here'), 'not LOCAL_RANK'), (dict(RANK='first', WORLD_SIZE='2'), 'RANK=first')]


@pytest.mark.parametrize('variables, found', ENVIRONMENTS)
def test_variables_of_a_scheduler(variables, found, monkeypatch):
    for k in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'): monkeypatch.delenv(k, raising=False)
    for k, v in variables.items(): monkeypatch.setenv(k, v)
    if isinstance(found, tuple): assert processes() == found and is_main() == (found[0] == 0); return
    with pytest.raises(CheckpointError, match=found): is_main()


def test_half_an_environment_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1'); monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(['run', str(tmp_path/'run'), *OPTIONS, '--until', 'classify']) == 1
    assert 'start by `torchrun`' in capsys.readouterr().err and not [*tmp_path.rglob('*.safetensors')]


@pytest.mark.parametrize('at', [0, 2])
def test_sigterm_interrupts_and_the_same_command_goes_on(at, tmp_path, monkeypatch, capsys):
    see, command = training.Watch.see, ['run', str(tmp_path/'run'), *OPTIONS, '--save-every', '1', '--until', 'classify']
    with monkeypatch.context() as m:
        m.setattr(training.Watch, 'see', lambda self, step, *a: os.kill(os.getpid(), signal.SIGTERM) if step == at else see(self, step, *a))
        assert main(command) == 130
    assert capsys.readouterr().err.strip().endswith('interrupted; run the same command again to go on')
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and not [*tmp_path.rglob('.*.part')]
    assert 'result' not in read_stage(tmp_path/'run'/'classify'/'stage.json')
    assert main(command) == 0 and read_json(tmp_path/'run'/'classify'/'stage.json')['result']['steps'] == 4
    assert 'classify: 4 steps are a very short training; --epochs 100 makes 200' in capsys.readouterr().out
    assert Run(tmp_path/'run').net() is not None


WINDOWS = '''
import os, sys
sys.modules['fcntl'] = sys.modules['pwd'] = sys.modules['grp'] = sys.modules['resource'] = None
import torch, consistency_cam
for name in 'register_at_fork sched_getaffinity pread getuid'.split(): delattr(os, name)
real = os.open
def without_folders(path, *a, **k):
    if os.path.isdir(path): raise PermissionError(13, 'Permission denied', path)
    return real(path, *a, **k)
os.open = without_folders
from consistency_cam.cli import main
sys.exit(main(sys.argv[1:]))
'''
DAEMON = '''
import os, sys
os.close(0)
from consistency_cam.cli import main
sys.exit(main(sys.argv[1:]))
'''
KINDS = dict(windows=(WINDOWS, 'classify', {}), daemon=(DAEMON, 'cams', dict(PATH='/usr/bin:/bin', LANG='C', LC_ALL='C', PYTHONUTF8='0', RANK='1', SLURM_PROCID='3', SLURM_NTASKS='8', XDG_CACHE_HOME='/proc/none', MPLCONFIGDIR='/proc/none')))


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_by_a_process_that_lacks_much(kind, tmp_path):
    program, until, more = KINDS[kind]
    env = {k: v for k, v in os.environ.items() if k in ('PYTHONPATH', 'TMPDIR', 'LD_LIBRARY_PATH', 'PATH')} | dict(OMP_NUM_THREADS='1') | more
    done = subprocess.run([sys.executable, '-c', program, 'run', str(tmp_path/'Läufe'), *OPTIONS, '--until', until], capture_output=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-600:]
    assert ('no locks' in done.stderr.decode()) == (kind == 'windows')
    assert (tmp_path/'Läufe'/'classify'/'weights.safetensors').exists()
