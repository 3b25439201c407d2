"""The notebook servers that the project starts: on this machine only, with a token, for one folder."""
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from notebooks import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('server')]


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def explore(folder, port): return [sys.executable, '-m', 'consistency_cam', 'explore', str(folder/'run'), '--lab', '--no-browser', '--port', str(port)]
def lab(folder, port): return ['make', '-C', str(folder), '-o', 'install', 'lab', f'BIN={Path(sys.executable).parent}', 'LABFLAGS=--no-browser']


@pytest.fixture(scope='module', params=[explore, lab], ids=['consistency-cam explore', 'make lab'])
def server(request, tmp_path_factory):
    "(what the server says of itself, the folder that it should serve); `run/` and `nbs/` lie in a folder with a secret beside them"
    folder, port = tmp_path_factory.mktemp('server'), free_port()
    (folder/'secret.txt').write_text('secret'); (folder/'run').mkdir(); (folder/'nbs').mkdir()
    (folder/'run'/'recipe.json').write_text('{}'); (folder/'run'/'note.txt').write_text('mine')
    shutil.copy(ROOT/'Makefile', folder); shutil.copy(ROOT/'nbs'/'index.ipynb', folder/'nbs'); shutil.copy(ROOT/'constraints.txt', folder)
    settings, records = folder/'config', folder/'runtime'
    settings.mkdir(); (settings/'jupyter_server_config.json').write_text(json.dumps(dict(ServerApp=dict(port=port, port_retries=0))))
    environment = {k: v for k, v in os.environ.items() if not k.startswith('JUPYTER')} | dict(JUPYTER_CONFIG_DIR=str(settings), JUPYTER_RUNTIME_DIR=str(records), HOME=str(folder))
    with open(folder/'log.txt', 'w') as log: process = subprocess.Popen(request.param(folder, port), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(600):
            if process.poll() is not None: pytest.fail((folder/'log.txt').read_text())
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', port)) == 0: break
            time.sleep(.1)
        told = json.loads(next(records.glob('jpserver-*.json')).read_text())
        yield dict(told, port=port), folder/('run' if request.param is explore else 'nbs')
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def ask(server, path, token=None, method='GET', body=None):
    "(status, text) of a request whose path is sent as it is"
    connection = http.client.HTTPConnection('127.0.0.1', server['port'], timeout=30)
    connection.request(method, path, body, {'Authorization': f'token {token}'} if token else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors='replace')


def listening(port):
    "The addresses at which the kernel has a listener on the port, in hexadecimal"
    rows = [line.split() for name in ('tcp', 'tcp6') if Path(f'/proc/net/{name}').exists() for line in Path(f'/proc/net/{name}').read_text().splitlines()[1:]]
    return {row[1].split(':')[0] for row in rows if row[3] == '0A' and int(row[1].split(':')[1], 16) == port}


@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='the list of listeners is that of Linux')
def test_the_port_answers_on_this_machine_only(server):
    told, _ = server
    assert listening(told['port']) == {'0100007F'}  # 127.0.0.1
    assert told['hostname'] == '127.0.0.1'
    others = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {'127.0.0.1'}
    for address in others:
        if address.startswith('127.'): continue
        with socket.socket() as s:
            s.settimeout(5)
            assert s.connect_ex((address, told['port'])) != 0, address


def test_nothing_is_told_without_the_token(server):
    told, folder = server
    assert len(told['token']) >= 32
    for path in ('/api/contents', '/api/kernels', '/api/sessions', '/api/terminals'):
        assert ask(told, path)[0] == 403, path
        assert ask(told, path, 'x' * 48)[0] == 403, path
    assert ask(told, '/api/kernels', method='POST', body='{}')[0] == 403
    for path in ('/lab', '/tree', '/files/Makefile', '/files/note.txt'):
        status, text = ask(told, path)
        assert status in (302, 403, 404) and 'mine' not in text, (path, status)


def test_with_the_token_it_serves_its_folder(server):
    told, folder = server
    assert Path(told['root_dir']).resolve() == folder.resolve()
    status, text = ask(told, '/api/contents', told['token'])
    assert status == 200
    assert {f['name'] for f in json.loads(text)['content']} == {p.name for p in folder.iterdir() if not p.name.startswith('.') and p.name != '__pycache__'}


def test_and_no_other(server):
    told, folder = server
    for way in ('../secret.txt', '../../secret.txt', '..%2fsecret.txt', '%2e%2e/secret.txt', '%2e%2e%2fsecret.txt', 'x/../../secret.txt', '..%5csecret.txt', '....//secret.txt', quote(str(folder.parent/'secret.txt'), safe=''), '../../../../../../../../etc/passwd', '..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd'):
        for root in ('/files/', '/api/contents/', '/view/', '/nbconvert/html/', '/static/', '/lab/tree/'):
            status, text = ask(told, root + way, told['token'])
            assert status in (400, 403, 404) or root == '/lab/tree/' and 'secret"' not in text, (root + way, status)
            assert text.strip() != 'secret' and 'root:x:' not in text, root + way


def test_the_page_of_its_own_asks_for_a_token_too(tmp_path):
    "Voilà has none unless it is told to make one; and it serves no file that lies beside the notebook"
    run, port = tmp_path/'run', free_port()
    run.mkdir(); (run/'recipe.json').write_text('{}'); (run/'note.txt').write_text('mine'); (tmp_path/'secret.txt').write_text('secret')
    command = [sys.executable, '-m', 'consistency_cam', 'explore', str(run), '--no-browser', '--port', str(port)]
    with open(tmp_path/'log.txt', 'w') as log: process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    try:
        line = next((line for line in process.stdout if line.startswith('explorers: ')), '')
        assert f'http://127.0.0.1:{port}/?token=' in line, (tmp_path/'log.txt').read_text()
        if Path('/proc/net/tcp').exists(): assert listening(port) == {'0100007F'}  # 127.0.0.1
        told = dict(port=port)
        for token in (None, 'x' * 48):
            assert ask(told, '/', token)[0] in (302, 403)
        for path in ('/voila/files/note.txt', '/voila/files/../secret.txt', '/voila/files/..%2fsecret.txt', '/voila/files/explorers.ipynb', '/files/note.txt', '/api/contents'):
            status, text = ask(told, path, line.split('token=')[1].split()[0])
            assert status in (302, 403, 404) and 'mine' not in text and 'secret' not in text, (path, status)
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_a_port_that_is_taken_is_a_sentence(tmp_path):
    (tmp_path/'recipe.json').write_text('{}')
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0)); taken.listen()
        port = taken.getsockname()[1]
        said = subprocess.run([sys.executable, '-m', 'consistency_cam', 'explore', str(tmp_path), '--no-browser', '--port', str(port)], capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (1, "", f'consistency-cam: error: port {port} is taken by another program; name another one, or leave --port out\n')
