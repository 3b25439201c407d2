"""Every notebook runs from top to bottom, in a process of its own; nothing is written back."""
import pytest
from nbclient.exceptions import CellExecutionError

from notebooks import NBS, execute, message, notebooks


@pytest.mark.parametrize('path', notebooks(), ids=lambda path: path.relative_to(NBS).as_posix())
def test_notebook(path, runs, tmp_path, monkeypatch):
    monkeypatch.setenv('CONSISTENCY_CAM_RUNS', str(runs))
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
    failure = None
    try: execute(path)
    except CellExecutionError as error: failure = message(error)
    if failure: pytest.fail(failure, pytrace=False)
