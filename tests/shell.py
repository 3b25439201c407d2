"""Lines of a shell as a person types them: each in a bash of its own that knows nothing but the environment of these tests."""
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from notebooks import ROOT


def children_seconds():
    "CPU seconds of the processes that this one has started and that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fresh_shell(folder, startup=''):
    "A function that starts a line in `folder`, in a shell as new as after `source .venv/bin/activate`; python imports what lies in the folder `startup` first"
    environment = dict(HOME=str(folder), PATH=f'{Path(sys.executable).parent}:/usr/bin:/bin', LANG='C.UTF-8', PYTHONPATH=os.pathsep.join(filter(None, [str(startup), str(ROOT)])),
        OMP_NUM_THREADS='1', BROWSER='echo browser %s')
    def start(line):
        bash = ['bash', '--noprofile', '--norc', '-c', line]
        return subprocess.Popen(bash, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    return start


def run_line(shell, line):
    "What a line wrote, which must end well; the server of the explorers is ended by SIGTERM once the browser has been told where they are"
    process, said = shell(line), ''
    try:
        for text in process.stdout:
            said += text
            if text.startswith('browser http://127.0.0.1:'): os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0, f'{line}\n{said[-3000:]}'
        return said
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
