"""What all tests share: the order they run in, the environment of the processes they start, and the last line."""
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The tests are about this tree, whichever is installed.
sys.path.insert(0, str(ROOT))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))


def pytest_addoption(parser):
    parser.addoption('--figures', type=Path, help='JSON file for what the tests counted: kills survived, hostile files refused, ... (default: they are printed)')


def pytest_configure(config):
    if not hasattr(config, 'workerinput'): os.environ['CONSISTENCY_CAM_FIGURES'] = tempfile.mkstemp('.jsonl')[1] # the processes of xdist write to it, too
    config.addinivalue_line('markers', 'slow: takes long; `make test` leaves it out, `make test-all` runs it')
    config.addinivalue_line('markers', 'situation(kind): each such test is one situation of users, counted by kind at the end')


def pytest_collection_modifyitems(items):
    "What takes longest starts first, so that two processes end together: the demo, slow tests, then notebooks, the late ones before the early ones"
    notebooks = [item for item in items if item.fspath.basename == 'test_notebooks.py']
    rest = [item for item in items if item.fspath.basename != 'test_notebooks.py']
    items[:] = sorted(notebooks[::-1] + rest, key=lambda item: (item.get_closest_marker('slow') is None, item.fspath.basename != 'test_demo.py'))


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    "The folder for trained models: new for these tests, one for all their processes"
    base = tmp_path_factory.getbasetemp()
    return (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'runs'


@pytest.fixture
def figure():
    "`figure(name, said)` keeps what a test counted, for the end of all tests"
    def keep(name, said):
        with open(os.environ['CONSISTENCY_CAM_FIGURES'], 'a') as f: f.write(json.dumps([name, said]) + '\n')
    return keep


@pytest.fixture(autouse=True)
def situation(request, record_property):
    "Passes the kind of situation that a test tries on to the end of all tests"
    marker = request.node.get_closest_marker('situation')
    if marker: record_property('situation', marker.args[0])


def situations(reports):
    "{'situations, KIND': how many passed}"
    kinds = Counter(kind for report in reports for name, kind in report.user_properties if name == 'situation')
    return {f'situations, {kind}': n for kind, n in sorted(kinds.items())}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.exitstatus = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    "Print `N passed, M failed` after everything else; an error counts as a failure, a broken run as one too"
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or hasattr(config, 'workerinput') or config.option.collectonly: return
    passed, failed, errors, skipped = (len(reporter.stats.get(kind, [])) for kind in ('passed', 'failed', 'error', 'skipped'))
    failed = failed + errors or int(getattr(config, 'exitstatus', 0) not in (0, 5))
    reporter.ensure_newline()
    counted = Path(os.environ['CONSISTENCY_CAM_FIGURES'])
    figures = dict(sorted(json.loads(line) for line in counted.read_text().splitlines())); counted.unlink()
    figures |= situations(reporter.stats.get('passed', []))
    for name, said in figures.items(): reporter.write_line(f'{name}: {said}')
    for report in reporter.stats.get('failed', []) + reporter.stats.get('error', []):
        why = getattr(getattr(report.longrepr, 'reprcrash', None), 'message', '').splitlines()
        reporter.write_line(f'failed: {report.nodeid} ({report.when}): {" ".join(why[:3])[:300]}')
    if file := config.option.figures: file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | figures, indent=1) + '\n')
    reporter.write_line(f'{passed} passed, {failed} failed' + (f', {skipped} skipped' if skipped else ''))
