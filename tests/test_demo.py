"""`make demo`, once for all tests, as it is: what it leaves, and the three commands that it ends in."""
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from consistency_cam.datasets.samples import read_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.tools.show import rgb
from notebooks import ROOT
from shell import children_seconds, fresh_shell, run_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]  # nine minutes on one thread that has a core to itself

METHODS = 'cam', 'puzzle-cam', 'consistency-cam'


def test_make_demo(tmp_path, figure):
    for name in ('Makefile', 'constraints.txt'): shutil.copy(ROOT/name, tmp_path)
    (tmp_path/'PICTURES').mkdir()
    others = Scenes(2, split='other', seed=1, size=128)
    for i, id in enumerate(others.ids): Image.fromarray(rgb(others.image(i))).save(tmp_path/'PICTURES'/f'{id}.jpg')
    shell, before = fresh_shell(tmp_path), children_seconds()
    said = run_line(shell, f'make -o install BIN={Path(sys.executable).parent} demo')
    figure('make demo', f'{children_seconds() - before:.0f} s of CPU on one thread')

    demo = tmp_path/'runs'/'demo'
    found = {row['method']: row for row in json.loads((demo/'comparison.json').read_text())['rows']}
    assert [*found] == [*METHODS]
    page = (demo/'report.html').read_text()
    for m in METHODS:
        assert found[m]['title'] in page and found[m]['title'] in said
        assert (demo/f'{m}-0'/'classify'/'weights.safetensors').exists()
    assert found['consistency-cam']['val']['miou'] > found['cam']['val']['miou'] > 20, 'what the demo is there to show'
    masks = sorted((demo/'consistency-cam-0'/'pseudo'/'train').glob('*.png'))
    assert len(masks) == 256 and f'masks: {masks[0].parent.relative_to(tmp_path)}' in said

    steps = re.findall(r'^next: (.*)$', said, re.M)
    explore, export, predict = steps
    assert 'browser http://127.0.0.1:' in run_line(shell, explore) and (demo/'explorers.ipynb').exists()
    run_line(shell, export)
    out, = demo.rglob('annotations.json')
    assert len(json.loads(out.read_text())['images']) == 256
    run_line(shell, predict)
    for id in others.ids: assert read_mask(demo/'consistency-cam-0'/'predictions'/f'{id}.png').shape == (128, 128)
