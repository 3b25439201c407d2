"""The command line in the process of a test."""
import contextlib
import io
from types import SimpleNamespace

from consistency_cam.cli import main


def command(*arguments):
    "The command in this process: status, and what it wrote"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): status = main([*map(str, arguments)])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())
