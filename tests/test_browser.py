"""The explorers in a real browser: JupyterLab on this machine, Chromium through Playwright, a slider moved with the keyboard."""
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_page import NASTY, a_run, page as write_page

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed: make browser')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason='no Chromium here: make browser'), pytest.mark.xdist_group('browser')]

EXPLORERS = ROOT/'nbs'/'explore'
NOTEBOOKS = sorted(path.name for path in EXPLORERS.glob('0[2-8]_*.ipynb'))
assert len(NOTEBOOKS) == 7
QUIET = re.compile('favicon|ResizeObserver|Failed to load resource|source map', re.I)  # what JupyterLab itself complains of


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory, runs):
    "Address of a JupyterLab over a copy of the notebooks"
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    for name in NOTEBOOKS: shutil.copy(EXPLORERS/name, folder)
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}', '--LabApp.expose_app_in_browser=True']
    environment = os.environ | dict(CONSISTENCY_CAM_RUNS=str(runs), OMP_NUM_THREADS='1')
    with open(folder/'server.log', 'w') as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(240):
                if server.poll() is not None: pytest.fail((folder/'server.log').read_text())
                with socket.socket() as s:
                    if s.connect_ex(('127.0.0.1', port)) == 0: break
                time.sleep(.5)
            yield f'http://127.0.0.1:{port}'
        finally:
            server.terminate(); server.wait(30)


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        yield chromium
        chromium.close()


NOTEBOOK = 'window.jupyterapp.shell.currentWidget'
CODE = f"{NOTEBOOK}.content.widgets.filter(w => w.model.type == 'code')"
ERRORS = f"() => {CODE}.flatMap(w => w.model.sharedModel.outputs).filter(o => o.output_type == 'error').map(o => o.ename + ': ' + o.evalue)"


def run_notebook(page, address, name):
    "All its cells run; the explorer is scrolled to, for cells out of sight are not in the page"
    page.goto(f'{address}/lab/tree/{name}?reset', wait_until='domcontentloaded')
    page.wait_for_function("() => window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')", timeout=120_000)
    page.evaluate(f'async () => {{ await {NOTEBOOK}.context.ready; await {NOTEBOOK}.sessionContext.ready }}')
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(f"() => {CODE}.at(-1).model.executionCount || {CODE}.some(w => w.model.sharedModel.outputs.some(o => o.output_type == 'error'))", timeout=600_000)
    assert page.evaluate(ERRORS) == []
    page.evaluate(f"""() => {{ const shown = {NOTEBOOK}.content;
        const explorer = w => w.model.type == 'code' && /explore_\\w+\\(/.test(w.model.sharedModel.source) && w.model.sharedModel.outputs.some(o => o.data?.['application/vnd.jupyter.widget-view+json']);
        shown.activeCellIndex = shown.widgets.findIndex(explorer);
        shown.scrollToItem(shown.activeCellIndex, 'start') }}""")


MOVES = {'02_cams': 'threshold', '06_walk': 'score of the background', '07_results': 'threshold', '08_own_picture': 'threshold'}  # what changes the IoU; elsewhere the first slider
PRESSED = """element => new Promise(done => { const panels = () => document.querySelector('.cc-explorer .cc-picture').innerHTML, before = panels(), start = performance.now();
    const look = () => panels() != before ? done(performance.now() - start) : setTimeout(look, 2); look() })"""


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_slider_moves_the_picture(lab, browser, figure, name):
    "A slider moved with the keyboard: another picture, another IoU where one is shown, nothing wrong said anywhere"
    page, said = browser.new_page(viewport=dict(width=1280, height=800)), []
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' and not QUIET.search(m.text) else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    run_notebook(page, lab, name)
    explorer = page.locator('.cc-explorer').first
    explorer.locator('.cc-picture img').first.wait_for(timeout=30_000)
    explorer.scroll_into_view_if_needed()
    pictures = lambda: explorer.locator('.cc-panels img').evaluate_all('images => images.map(i => i.src)')
    ious = lambda: [text for text in explorer.locator('figcaption').all_inner_texts() if 'IoU' in text]
    label = MOVES.get(name.removesuffix('.ipynb'))
    slider = (explorer.locator('.widget-slider', has_text=label) if label else explorer.locator('.widget-slider')).locator('.noUi-handle').first
    before, figures, times = pictures(), ious(), []
    for _ in range(5):
        slider.focus()
        with page.expect_event('console', lambda m: m.text.startswith('redrawn'), timeout=30_000) as redrawn:
            page.evaluate(f"() => {{ ({PRESSED})().then(t => console.log('redrawn ' + t)) }}")
            slider.press('ArrowRight')
        times.append(float(redrawn.value.text.split()[1]))
    figure(f'redraw in the browser, {name}', f'{sorted(times)[2]:.0f} ms from a key press to the new picture, median of 5')
    assert pictures() != before
    assert bool(figures) == (name[:2] in ('02', '06', '07')) and (not figures or ious() != figures), ious()
    assert not explorer.locator('.cc-message').count()
    assert not said, said
    page.close()


def test_a_report_of_hostile_names_runs_nothing(browser, tmp_path):
    "Names that are HTML, in a page that forbids scripts: the title stays, nothing is complained of, every picture is there"
    classes = [f'{i} {n}' for i, n in enumerate(c.replace(';', ':') for c in NASTY[:4])]
    made = a_run(tmp_path, classes, [f'{i}{n}'.replace('/', '\u2215') for i, n in enumerate(NASTY + NASTY[:2])], 'hostile')
    write_page(made, tmp_path, NASTY[0], NASTY[1])
    page, said = browser.new_page(), []
    page.on('console', lambda m: said.append(m.text)); page.on('pageerror', lambda e: said.append(str(e))); page.on('dialog', lambda d: said.append(d.message))
    page.goto((tmp_path/'report.html').as_uri())
    title = page.title()
    for picture in page.locator('img').all(): picture.hover(force=True)
    assert said == [] and page.title() == title and 'it ran' not in title
    assert page.evaluate('[...document.images].filter(i => !i.naturalWidth).length') == 0 and page.locator('img').count() > 10
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i) }")
    page.wait_for_timeout(300)
    assert page.title() == title and len(said) == 2 and all('Content Security Policy' in text for text in said), said
    page.close()
