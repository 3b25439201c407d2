"""Downloads from servers that misbehave, archives that mean harm, and processes that are killed on the way."""
import gzip
import hashlib
import io
import os
import random
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistency_cam.datasets import archives, download
from consistency_cam.cli import main
from consistency_cam.datasets.download import ArchiveError, DownloadError, Limits, fetch, unpack
from consistency_cam.datasets.samples import InputError, write_mask
from consistency_cam.datasets.voc import VOC

BODY = random.Random(0).randbytes(2_000_000)
QUICK = dict(wait=0, progress=False)


# Servers

class Handler(BaseHTTPRequestHandler):
    "One answer as `server.manners` says; `server.log` has (first byte asked for, bytes sent)"
    def do_GET(self):
        manners, log = self.server.manners, self.server.log
        if manners.get('redirect') and self.path == '/old':
            self.send_response(301); self.send_header('Location', '/file'); self.end_headers(); return
        if manners.get('busy', 0) > 0:
            manners['busy'] -= 1; self.send_response(503); self.send_header('Retry-After', '0'); self.end_headers(); return
        body = manners.get('body', BODY)
        etag = manners.get('etag', '"1"')
        asked = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-')) if 'Range' in self.headers else 0
        if not manners.get('ranges', True) or self.headers.get('If-Range', etag) != etag and not manners.get('ignores_if_range'): asked = 0
        if asked >= len(body) and asked:
            log.append((asked, 0)); self.send_response(416); self.send_header('Content-Range', f'bytes */{len(body)}'); self.end_headers(); return
        start = asked + manners.get('shift', 0) if asked else 0
        self.send_response(206 if asked else 200)
        if asked: self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        if manners.get('length', True): self.send_header('Content-Length', str(len(body) - start))
        if etag: self.send_header('ETag', etag)
        self.end_headers()
        cut = manners['cuts'].pop(0) if manners.get('cuts') else None
        sent = body[start:] if cut is None else body[start:start + cut]
        log.append((asked, len(sent)))
        self.wfile.write(sent); self.wfile.flush()
        if cut is not None and manners.get('reset'):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); self.connection.close()
        if cut is not None and manners.get('stall'): time.sleep(manners['stall'])
        if cut is not None: manners.update(manners.pop('then', {}))

    def finish(self):
        try: super().finish()
        except OSError: pass

    def log_message(self, *args): pass


@contextmanager
def server(**manners):
    "A server on this machine; yields it with its address"
    s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.manners, s.log, s.handle_error, s.daemon_threads = manners, [], lambda *args: None, True
    s.url = f'http://127.0.0.1:{s.server_port}/file'
    thread = threading.Thread(target=s.serve_forever, kwargs=dict(poll_interval=.05), daemon=True)
    thread.start()
    try: yield s
    finally: s.shutdown(); s.server_close(); thread.join()


@pytest.mark.parametrize('manners', [dict(), dict(reset=True), dict(etag=None), dict(ranges=True, busy=3)], ids=['closes', 'resets', 'no ETag', 'busy at first'])
def test_download_that_is_cut_ten_times_ends_whole(tmp_path, manners):
    cuts = [random.Random(1).randrange(1, 180_000) for _ in range(10)]
    with server(cuts=list(cuts), **manners) as s:
        path = fetch(s.url, tmp_path/'file', len(BODY), hashlib.md5(BODY).hexdigest(), **QUICK)
    assert path.read_bytes() == BODY and [p.name for p in tmp_path.iterdir()] == ['file']
    assert len(s.log) == 11 and sum(sent for _, sent in s.log) <= len(BODY) + (10 << 20 if manners.get('reset') else 0)
    if not manners.get('reset'): assert sum(sent for _, sent in s.log) == len(BODY), 'a byte was sent twice'


def test_server_that_stalls_is_left(tmp_path):
    with server(cuts=[500_000, 500_000], stall=3) as s:
        start = time.time()
        assert fetch(s.url, tmp_path/'file', timeout=.2, **QUICK).read_bytes() == BODY
        assert time.time() - start < 3 and [asked for asked, _ in s.log] == [0, 500_000, 1_000_000]


NEW = BODY[::-1][:1_500_000]

@pytest.mark.parametrize('manners', [dict(then=dict(body=NEW, etag='"2"')), dict(then=dict(body=NEW, etag='"2"'), ignores_if_range=True), dict(then=dict(body=NEW), etag=None)],
                         ids=['by If-Range', 'by ETag', 'by length'])
def test_file_that_changed_starts_anew(tmp_path, manners):
    with server(cuts=[700_000], **manners) as s:
        assert fetch(s.url, tmp_path/'file', **QUICK).read_bytes() == NEW
    assert s.log[-1] == (0, len(NEW))


@pytest.mark.parametrize('manners', [dict(ranges=False), dict(shift=1000, then=dict(shift=0))], ids=['no ranges', 'another range'])
def test_server_that_does_not_go_on_starts_anew(tmp_path, manners):
    with server(cuts=[700_000, 700_000], **manners) as s: assert fetch(s.url, tmp_path/'file', **QUICK).read_bytes() == BODY


def test_server_that_never_goes_on_is_given_up(tmp_path):
    with server(ranges=False, cuts=[700_000] * 99) as s, pytest.raises(DownloadError, match='the connection broke off, 4 times in a row without a byte more than 700,000'):
        fetch(s.url, tmp_path/'file', tries=4, **QUICK)
    assert len(s.log) == 5 and not (tmp_path/'file').exists()


def test_whole_part_is_not_asked_for_again(tmp_path):
    with server() as s:
        fetch(s.url, tmp_path/'file', **QUICK)
        (tmp_path/'file').rename(tmp_path/'file.part')
        (tmp_path/'file.part.json').write_text(f'{{"total": {len(BODY)}}}')
        assert fetch(s.url, tmp_path/'file', **QUICK).read_bytes() == BODY and len(s.log) == 1
        (tmp_path/'file').rename(tmp_path/'file.part')
        (tmp_path/'file.part.json').write_text('{"total": 1}')
        assert fetch(s.url, tmp_path/'file', **QUICK).read_bytes() == BODY and s.log[1:] == [(len(BODY), 0), (0, len(BODY))]


def test_length_that_nobody_announced_must_be_the_published_one(tmp_path):
    with server(length=False, cuts=[700_000], ranges=False) as s: assert fetch(s.url, tmp_path/'file', len(BODY), **QUICK).read_bytes() == BODY
    assert len(s.log) == 2


def test_redirect_and_damaged_file(tmp_path):
    with server(redirect=True, cuts=[9]) as s: assert fetch(s.url.replace('/file', '/old'), tmp_path/'file', **QUICK).read_bytes() == BODY
    with server(body=b'x' * len(BODY)) as s, pytest.raises(DownloadError, match='wrong checksum.*it is removed; download it again from http'):
        fetch(s.url, tmp_path/'other', len(BODY), hashlib.md5(BODY).hexdigest(), **QUICK)
    assert {p.name for p in tmp_path.iterdir()} == {'file', 'file.json'}


def test_killed_download_goes_on(tmp_path):
    code = f'from consistency_cam.datasets.download import fetch; import sys; fetch(sys.argv[1], sys.argv[2], progress=False)'
    with server(cuts=[900_000], stall=60) as s:
        process = subprocess.Popen([sys.executable, '-c', code, s.url, str(tmp_path/'file')])
        part = tmp_path/'file.part'
        while process.poll() is None and not (part.exists() and part.stat().st_size == 900_000): time.sleep(.02)
        with pytest.raises(DownloadError, match='another process is downloading this'): fetch(s.url, tmp_path/'file', **QUICK)
        process.kill(); process.wait()
        s.manners.clear()
        assert fetch(s.url, tmp_path/'file', **QUICK).read_bytes() == BODY
    assert [asked for asked, _ in s.log] == [0, 900_000]


# Archives

def tar(*members, mode='w', **kwargs):
    "Members are (name, bytes) or (name, type, link name), or whole TarInfos"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **kwargs) as t:
        for name, *content in members:
            m = tarfile.TarInfo(name)
            if isinstance(content[0], int): m.size, content = content[0], [bytes(content[0])]
            elif content[0] in tarfile.SUPPORTED_TYPES: m.type, m.linkname = content; content = [b'']
            else: m.size = len(content[0])
            t.addfile(m, io.BytesIO(content[0]))
    return out.getvalue()


def tgz(*members): return tar(*members, mode='w:gz')


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    "Members are (name, bytes) or (name, bytes, file mode)"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as z, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name, content, *mode in members:
            m = zipfile.ZipInfo('x'); m.filename = name; m.compress_type = method
            if mode: m.external_attr = mode[0] << 16
            z.writestr(m, content)
    return out.getvalue()


def flagged(archive, position, flag):
    "A zip with a bit set in the flags of its first member, there and in the directory"
    data = bytearray(archive)
    for at in (6, data.index(b'PK\1\2') + 8): data[at] |= flag
    return bytes(data)


def overlapping(archive):
    "A zip whose second entry points at the first one's data"
    data = bytearray(archive)
    second = data.index(b'PK\1\2', data.index(b'PK\1\2') + 4)
    data[second + 42:second + 46] = bytes(4)
    return bytes(data)


GOOD = [('VOC/readme.txt', b'hello'), ('VOC/list/train.txt', b'a\nb\n')]
EVIL = 'VOC/evil'

def sparse():
    data = bytearray(tar(*GOOD, (EVIL, b'x' * 512)))
    header = data[2048:2560]; header[156:157] = b'S'; header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    data[2048:2560] = header
    return bytes(data)


def huge_header():
    "A long name of 40 MB, which would be read into memory"
    m = tarfile.TarInfo('././@LongLink'); m.type, m.size = tarfile.GNUTYPE_LONGNAME, 40_000_000
    return gzip.compress(m.tobuf(tarfile.GNU_FORMAT) + bytes(40_000_448) + tar(*GOOD), 1)


HOSTILE = {  # what it is: (archive, a member that must be named in the error)
    'parent': (tar(*GOOD, ('../evil', b'x')), '../evil'),
    'parent below': (tar(*GOOD, ('VOC/a/../../../evil', b'x')), 'VOC/a/../../../evil'),
    'parent at the end': (tar(*GOOD, ('VOC/..', tarfile.DIRTYPE, '')), 'VOC/..'),
    'parent, tgz': (tgz(*GOOD, ('../evil', b'x')), '../evil'),
    'parent, zip': (zipped(*GOOD, ('../evil', b'x')), '../evil'),
    'parent by backslash, zip': (zipped(*GOOD, ('..\\evil', b'x')), '..\\\\evil'),
    'parent by backslash, tar': (tar(*GOOD, ('VOC\\..\\..\\evil', b'x')), 'evil'),
    'absolute': (tar(*GOOD, ('/evil', b'x')), '/evil'),
    'absolute, tgz': (tgz(*GOOD, ('/evil', b'x')), '/evil'),
    'absolute, zip': (zipped(*GOOD, ('/evil', b'x')), '/evil'),
    'two slashes': (tar(*GOOD, ('//evil', b'x')), '//evil'),
    'drive': (zipped(*GOOD, ('C:/evil', b'x')), 'C:/evil'),
    'drive, relative': (zipped(*GOOD, ('c:evil', b'x')), 'c:evil'),
    'share': (zipped(*GOOD, ('\\\\host\\evil', b'x')), 'evil'),
    'symbolic link to /': (tar(*GOOD, (EVIL, tarfile.SYMTYPE, '/'), ('VOC/evil/x', b'x')), EVIL),
    'symbolic link upward': (tgz(*GOOD, (EVIL, tarfile.SYMTYPE, '../..')), EVIL),
    'symbolic link inside': (tar(*GOOD, (EVIL, tarfile.SYMTYPE, 'readme.txt')), EVIL),
    'symbolic link to itself': (tar(*GOOD, (EVIL, tarfile.SYMTYPE, 'evil')), EVIL),
    'symbolic link, zip': (zipped(*GOOD, (EVIL, '/etc/passwd', stat.S_IFLNK | 0o777)), EVIL),
    'symbolic link as folder, zip': (zipped(*GOOD, (EVIL + '/', '/etc', stat.S_IFLNK | 0o777)), EVIL),
    'hard link': (tar(*GOOD, (EVIL, tarfile.LNKTYPE, '/etc/passwd')), EVIL),
    'hard link inside': (tgz(*GOOD, (EVIL, tarfile.LNKTYPE, 'VOC/readme.txt')), EVIL),
    'character device': (tar(*GOOD, (EVIL, tarfile.CHRTYPE, '')), EVIL),
    'block device': (tar(*GOOD, (EVIL, tarfile.BLKTYPE, '')), EVIL),
    'device, zip': (zipped(*GOOD, (EVIL, b'', stat.S_IFCHR | 0o666)), EVIL),
    'fifo': (tgz(*GOOD, (EVIL, tarfile.FIFOTYPE, '')), EVIL),
    'fifo, zip': (zipped(*GOOD, (EVIL, b'', stat.S_IFIFO | 0o666)), EVIL),
    'socket, zip': (zipped(*GOOD, (EVIL, b'', stat.S_IFSOCK | 0o666)), EVIL),
    'sparse file': (sparse(), EVIL),
    'twice': (tar(*GOOD, GOOD[0]), 'VOC/readme.txt'),
    'twice, zip': (zipped(*GOOD, GOOD[0]), 'VOC/readme.txt'),
    'twice by another spelling': (tar(*GOOD, ('./VOC//readme.txt', b'x')), './VOC//readme.txt'),
    'file and folder': (tar(*GOOD, ('VOC/list', b'x')), None),
    'folder and file': (tar(*GOOD, ('VOC/readme.txt', tarfile.DIRTYPE, '')), 'VOC/readme.txt'),
    'below a file': (zipped(*GOOD, ('VOC/readme.txt/evil', b'x')), 'VOC/readme.txt/evil'),
    'no name': (zipped(*GOOD, ('', b'x')), "''"),
    'zero byte': (zipped(*GOOD, ('VOC/evil\0.jpg', b'x')), 'VOC/evil'),
    'name too long': (tar(*GOOD, ('VOC/' + 'e' * 300, b'x')), None),
    'path too deep': (tar(*GOOD, ('VOC/' + 'e/' * 3000, b'x')), None),
    'bomb, tgz': (tgz(*GOOD, (EVIL, 70_000_000)), EVIL),
    'bomb, zip': (zipped(*GOOD, (EVIL, bytes(70_000_000))), EVIL),
    'bomb of many files': (tgz(*GOOD, *((f'{EVIL}{i}', 7_000_000) for i in range(10))), EVIL + '9'),
    'bomb behind the end': (gzip.compress(tar(*GOOD) + b'x' * 4_000_000), None),
    'huge header': (huge_header(), None),
    'overlapping members, zip': (overlapping(zipped(*GOOD, (EVIL, b'x'))), None),
    'encrypted, zip': (flagged(zipped(*GOOD), 0, 1), 'VOC/readme.txt'),
    'cut in a member': (tar(*GOOD)[:1024 + 513], None),
    'cut in a header': (tar(*GOOD)[:1024 + 100], None),
    'cut between members': (tar(*GOOD)[:1024], None),
    'cut before the end': (tar(*GOOD)[:2048], None),
    'cut, tgz': (tgz(*GOOD)[:-9], None),
    'changed, tgz': (tgz(*GOOD)[:-8] + bytes(8), None),
    'cut, zip': (zipped(*GOOD)[:-10], None),
    'changed, zip': (zipped(('VOC/readme.txt', b'hello'), method=zipfile.ZIP_STORED).replace(b'hello', b'hallo'), None),
    'rubbish in the middle': (tar(GOOD[0]) [:1024] + b'\1' * 512 + tar(GOOD[1]), None),
    'empty file': (b'', None),
    'empty tar': (tar(), None),
    'empty zip': (zipped(), None),
    'web page': (b'<!DOCTYPE html>\n<html><body>Please sign in</body></html>', None),
    'text': (b'404 not found\n' * 1000, None),
    'other data': (tar(('holiday/beach.jpg', b'x')), None),
    'other data, zip': (zipped(('holiday/beach.jpg', b'x')), None),
}


def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob('*'))}


def test_hostile_archives_are_refused(tmp_path, figure):
    home = tmp_path/'outer'/'data'
    home.mkdir(parents=True)
    (home/'kept.txt').write_text('kept'); (tmp_path/'outer'/'kept.txt').write_text('kept')
    archive = tmp_path/'archive'
    for what, (content, member) in HOSTILE.items():
        archive.write_bytes(content)
        before = tree(tmp_path)
        with pytest.raises(InputError) as e: unpack(archive, home/'VOC', 'VOC', ['readme.txt'])
        text = str(e.value)
        assert str(archive) in text or str(home) in text, (what, text)
        assert '\n' not in text and len(text) < 500 + len(str(tmp_path)) * 3, (what, text)
        assert member is None or member in text, (what, text)
        assert tree(tmp_path) == before, (what, 'something was written')
    assert not Path('/evil').exists()
    figure('hostile archives', f'{len(HOSTILE)} of {len(HOSTILE)} refused')


@pytest.mark.parametrize('make', [tar, tgz, zipped])
def test_good_archives_are_unpacked(tmp_path, make):
    members = [*GOOD, ('./VOC/./Readme.txt', b'another name, where case counts'), ('VOC/ümläut.txt', b'x'), ('VOC/empty', b''), ('__MACOSX/._VOC', b'not wanted')]
    (tmp_path/'archive').write_bytes(make(*members))
    old = os.umask(0o022)
    try: unpack(tmp_path/'archive', tmp_path/'to', 'VOC', ['list/train.txt'])
    finally: os.umask(old)
    assert tree(tmp_path/'to') == {'list': None, 'list/train.txt': b'a\nb\n', 'readme.txt': b'hello', 'Readme.txt': members[2][1], 'ümläut.txt': b'x', 'empty': b''}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path/'to').rglob('*') if p.is_file()} == {0o644}
    with pytest.raises(ArchiveError, match='exists already'): unpack(tmp_path/'archive', tmp_path/'to', 'VOC')


def test_limits(tmp_path):
    (tmp_path/'archive').write_bytes(tar(*GOOD))
    for limits, what in [(Limits(members=1), 'is one more than 1'), (Limits(size=8), 'makes it larger than 0 GB')]:
        with pytest.raises(ArchiveError, match=f"its member 'VOC/list/train.txt' {what}"): unpack(tmp_path/'archive', tmp_path/'to', limits=limits)


@pytest.mark.parametrize('make', [tar, tgz, zipped])
def test_damaged_bytes_end_in_one_line_or_a_whole_folder(tmp_path, make):
    "Bytes changed at random: whatever a library makes of them, the folder is whole or absent, and nothing else is written"
    whole, rng, refused = make(*GOOD, ('VOC/random', random.Random(3).randbytes(3000))), random.Random(4), 0
    for i in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)): data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path/'archive').write_bytes(data[:rng.randrange(len(data))] if i % 3 == 0 else data)
        try: unpack(tmp_path/'archive', tmp_path/'to')
        except InputError as e: refused += 1; assert '\n' not in str(e)
        names = {p.name for p in tmp_path.iterdir()}
        assert names <= {'archive', 'to'}
        if 'to' in names: os.rename(tmp_path/'to', Path(tempfile.mkdtemp(dir=tmp_path.parent))/'to')
    assert refused > 50


# Disks and processes

@contextmanager
def nobody():
    "Without the rights of root, which no folder is closed to"
    if os.geteuid(): yield; return
    os.seteuid(65534)
    try: yield
    finally: os.seteuid(0)


def test_read_only_folder_is_one_line():
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        closed = Path(d)/'closed'; closed.mkdir(); (Path(d)/'archive').write_bytes(tar(*GOOD)); os.chmod(Path(d)/'archive', 0o644)
        os.chmod(closed, 0o555)
        with nobody(), server() as s:
            with pytest.raises(ArchiveError, match='closed/VOC: Permission denied; nothing is unpacked'): unpack(Path(d)/'archive', closed/'VOC')
            with pytest.raises(DownloadError, match='file.part: cannot be written .Permission denied.; make room or choose another folder'): fetch(s.url, closed/'file', **QUICK)
        assert not list(closed.iterdir())
        os.chmod(closed, 0o755)


def test_disk_that_fills_up_is_one_line(tmp_path):
    "A limit on the size of files stands for a full disk: writing fails half-way"
    (tmp_path/'archive').write_bytes(tar(*GOOD, ('VOC/large', random.Random(5).randbytes(3_000_000))))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with server() as s:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
        try:
            with pytest.raises(ArchiveError, match='data/VOC: File too large; nothing is unpacked'): unpack(tmp_path/'archive', tmp_path/'data'/'VOC')
            with pytest.raises(DownloadError, match='file.part: cannot be written .File too large.'): fetch(s.url, tmp_path/'get'/'file', **QUICK)
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert not list((tmp_path/'data').iterdir())
        assert fetch(s.url, tmp_path/'get'/'file', **QUICK).read_bytes() == BODY
    assert s.log[-1] == (1 << 20, len(BODY) - (1 << 20)), 'what had come was kept'


def test_disk_that_is_too_small_is_noticed_first(tmp_path, monkeypatch):
    (tmp_path/'archive').write_bytes(tar(*GOOD))
    monkeypatch.setattr(archives.shutil, 'disk_usage', lambda folder: type('Usage', (), dict(free=5)))
    with pytest.raises(DownloadError, match='0.00 GB needed, 0.00 GB free; make room'): unpack(tmp_path/'archive', tmp_path/'VOC')
    with server() as s, pytest.raises(DownloadError, match='make room'): fetch(s.url, tmp_path/'file', **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ['archive']


def test_killed_unpacking_leaves_nothing_that_looks_whole(tmp_path):
    (tmp_path/'archive').write_bytes(tar(*((f'VOC/{i}', b'x') for i in range(3000))))
    code = f'''
import time, consistency_cam.datasets.archives as d
write = d._write
def slow(*args): write(*args); time.sleep(.01)
d._write = slow
d.unpack({str(tmp_path/"archive")!r}, {str(tmp_path/"data"/"VOC")!r}, 'VOC')
'''
    process = subprocess.Popen([sys.executable, '-c', code])
    while process.poll() is None and len(list(tmp_path.glob('data/.VOC.*.part/all/VOC/*'))) < 20: time.sleep(.02)
    process.send_signal(signal.SIGKILL); process.wait()
    left = list((tmp_path/'data').iterdir())
    assert len(left) == 1 and left[0].name.startswith('.VOC.') and left[0].suffix == '.part'
    unpack(tmp_path/'archive', tmp_path/'data'/'VOC', 'VOC')
    assert [p.name for p in (tmp_path/'data').iterdir()] == ['VOC'] and len(list((tmp_path/'data'/'VOC').iterdir())) == 3000


# From the command to the data set

def png(mask, path): write_mask(mask, path); return path.read_bytes()


def small_archives(folder):
    "VOC 2012 and SBD in their official formats: 6 pictures, 2 of them VOC's train, 2 its val"
    from scipy.io import savemat
    folder.mkdir()
    ids, jpeg, xml = [f'2008_00000{i}' for i in range(6)], io.BytesIO(), '<annotation><object><name>cat</name><difficult>1</difficult></object></annotation>'
    Image.fromarray(np.zeros((18, 24, 3), np.uint8)).save(jpeg, 'JPEG')
    mats = {}
    for i, id in enumerate(ids): mats[id] = out = io.BytesIO(); savemat(out, {'GTcls': {'Segmentation': np.full((18, 24), i + 1, np.uint8), 'Boundaries': np.zeros((20, 1), object)}})
    voc = {f'JPEGImages/{id}.jpg': jpeg.getvalue() for id in ids} | {f'Annotations/{id}.xml': xml.encode() for id in ids}
    voc |= {f'SegmentationClass/{id}.png': png(np.full((18, 24), 20, np.uint8), folder/'mask.png') for id in ids[:4]}
    lists = {name: ''.join(f'{id}\n' for id in some).encode() for name, some in dict(train=ids[:2], val=ids[2:4]).items()}
    voc |= {f'ImageSets/Segmentation/{name}.txt': content for name, content in lists.items()}
    sbd = {f'dataset/cls/{id}.mat': out.getvalue() for id, out in mats.items()} | {f'dataset/img/{id}.jpg': jpeg.getvalue() for id in ids}
    sbd |= {'dataset/train.txt': f'{ids[1]}\n{ids[2]}\n{ids[4]}\n'.encode(), 'dataset/val.txt': f'{ids[3]}\n{ids[5]}\n'.encode()}
    test = {'JPEGImages/2008_000009.jpg': jpeg.getvalue(), 'ImageSets/Segmentation/test.txt': b'2008_000009\n'}
    for name, content in {'VOCtrainval_11-May-2012.tar': tar(*((f'VOCdevkit/VOC2012/{n}', c) for n, c in voc.items())),
                          'benchmark.tgz': tgz(*((f'benchmark_RELEASE/{n}', c) for n, c in sbd.items())),
                          'VOC2012test.tar': tar(*((f'VOCdevkit/VOC2012/{n}', c) for n, c in test.items()))}.items(): (folder/name).write_bytes(content)
    (folder/'mask.png').unlink()
    return ids


def test_command_makes_voc_with_the_augmented_list(tmp_path, monkeypatch, capsys):
    ids, root = small_archives(tmp_path/'have'), tmp_path/'data'
    def command(*args): return main(['download', *map(str, args), '--root', str(root), '--quiet'])
    assert command('voc', '--from', tmp_path/'have') == 1 and 'but 1,999,639,040 were published' in capsys.readouterr().err
    for name, archives in download.DATASETS.items(): monkeypatch.setitem(download.DATASETS, name, tuple(replace(a, size=None, md5=None) for a in archives))
    assert command('sbd', '--from', tmp_path/'have') == 1 and 'download voc --root' in capsys.readouterr().err
    assert command('voc', '--from', tmp_path/'have'/'benchmark.tgz') == 1 and 'it looks like benchmark.tgz (sbd)' in capsys.readouterr().err
    with server(body=(tmp_path/'have'/'VOCtrainval_11-May-2012.tar').read_bytes(), cuts=[10_000]) as s: assert command('voc', '--from', s.url) == 0
    assert command('sbd', '--from', tmp_path/'have') == 0 and command('voc-test', '--from', tmp_path/'have'/'VOC2012test.tar') == 0
    assert 'train_aug, 4 pictures with masks' in capsys.readouterr().out
    aug = VOC(root/'VOC2012', 'train_aug')
    aug.check()
    assert aug.ids == sorted((set(ids[:2]) | {ids[1], ids[2], ids[3], ids[4], ids[5]}) - set(ids[2:4])) and len(aug) == 2 + 5 - 1 - 2
    assert [int(aug.mask(i).max()) for i in range(4)] == [20, 20, 5, 6], "VOC's own masks for its train, SBD's for the rest"
    assert aug.label_ids(0) == [8], 'difficult objects count'
    assert (len(VOC(root/'VOC2012', 'val')), VOC(root/'VOC2012', 'test')[0].mask) == (2, None)
    assert command('sbd') == 0, 'done is done'


@pytest.mark.parametrize('dataset', download.DATASETS)
def test_an_archive_of_another_data_set_is_refused(tmp_path, monkeypatch, capsys, dataset):
    "under whatever name, and nothing is left of it"
    for name, archives in download.DATASETS.items(): monkeypatch.setitem(download.DATASETS, name, tuple(replace(a, size=None, md5=None) for a in archives))
    others = [(name, a) for name, archives in download.DATASETS.items() for a in archives if name != dataset]
    (tmp_path/'data'/'VOC2012').mkdir(parents=True) if dataset == 'sbd' else (tmp_path/'data').mkdir()
    wanted, before = download.DATASETS[dataset][0], tree(tmp_path/'data')
    for name, a in others:
        content = [(f'{a.inner}/{m}', b'x') if '.' in m else (f'{a.inner}/{m}/x', b'x') for m in a.members]
        (tmp_path/wanted.name).write_bytes((zipped if a.name.endswith('.zip') else tgz if a.name.endswith('.tgz') else tar)(*content))
        assert main(['download', dataset, '--from', str(tmp_path/wanted.name), '--root', str(tmp_path/'data'), '--quiet']) == 1
        said = capsys.readouterr().err
        assert said.count('\n') == 1 and f'{wanted.name}: another archive, it has no ' in said and f'it looks like {a.name} ({name})' in said, said
        assert tree(tmp_path/'data') == before
