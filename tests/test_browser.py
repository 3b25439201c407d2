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

NOTEBOOKS = sorted(path.name for path in (ROOT/'nbs').glob('9[0-6]_*.ipynb'))
QUIET = re.compile('favicon|ResizeObserver|Failed to load resource|source map', re.I)  # what JupyterLab itself complains of


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory, runs):
    "Address of a JupyterLab over a copy of the notebooks"
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    for name in NOTEBOOKS: shutil.copy(ROOT/'nbs'/name, folder)
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
    page.wait_for_function(f"() => {CODE}.at(-1).model.executionCount || {CODE}.some(w => w.model.sharedModel.outputs.some(o => o.output_type == 'error'))", timeout=300_000)
    assert page.evaluate(ERRORS) == []
    page.evaluate(f"""() => {{ const shown = {NOTEBOOK}.content;
        const explorer = w => w.model.type == 'code' && /explore_\\w+\\(/.test(w.model.sharedModel.source) && w.model.sharedModel.outputs.some(o => o.data?.['application/vnd.jupyter.widget-view+json']);
        shown.activeCellIndex = shown.widgets.findIndex(explorer);
        shown.scrollToItem(shown.activeCellIndex, 'start') }}""")


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_slider_moves_the_picture(lab, browser, name):
    page, said = browser.new_page(viewport=dict(width=1280, height=800)), []
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' and not QUIET.search(m.text) else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    run_notebook(page, lab, name)
    explorer = page.locator('.cc-explorer').first
    explorer.locator('.cc-picture img').first.wait_for(timeout=30_000)
    explorer.scroll_into_view_if_needed()
    shown = lambda: explorer.locator('.cc-panels').first.inner_html()
    slider = explorer.locator('.cc-controls .noUi-handle').first
    before = shown()
    slider.focus()
    start = time.perf_counter()
    for _ in range(5): slider.press('ArrowRight')
    page.wait_for_function('([before]) => document.querySelector(".cc-explorer .cc-panels").innerHTML != before', arg=[before], timeout=20_000)
    print(f'{name}: {1000 * (time.perf_counter() - start):.0f} ms from the first of five key presses to a new picture')
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
