"""What all tests share: the order they run in, the environment of the processes they start, and the last line."""
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The tests are about this tree, whichever is installed.
sys.path.insert(0, str(ROOT))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes long; `make test` leaves it out, `make test-all` runs it')


def pytest_collection_modifyitems(items):
    "What takes longest starts first, so that two processes end together: slow tests, then notebooks, the late ones before the early ones"
    notebooks = [item for item in items if item.fspath.basename == 'test_notebooks.py']
    rest = [item for item in items if item.fspath.basename != 'test_notebooks.py']
    items[:] = sorted(notebooks[::-1] + rest, key=lambda item: item.get_closest_marker('slow') is None)


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    "The folder for trained models: new for these tests, one for all their processes"
    base = tmp_path_factory.getbasetemp()
    return (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'runs'


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
    reporter.write_line(f'{passed} passed, {failed} failed' + (f', {skipped} skipped' if skipped else ''))
