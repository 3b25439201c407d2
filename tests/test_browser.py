"""The explorers in a real browser, Chromium through Playwright: one JupyterLab, one Voilà, and one small folder of runs for all of it."""
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from consistency_cam.experiments.pipeline import Run, run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.files.masks import read_mask
from test_page import NASTY, a_run, page as write_page

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed: make browser')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason='no Chromium here: make browser'), pytest.mark.xdist_group('browser')]

NOTEBOOKS = sorted(path.name for path in (ROOT/'nbs'/'explorers').glob('0*.ipynb'))
assert len(NOTEBOOKS) == 8
QUIET = re.compile('favicon|ResizeObserver|Failed to load resource|source map', re.I)  # what JupyterLab and Voilà themselves complain of
SHOTS = os.environ.get('SCREENSHOTS')  # a folder to look at, where one is given


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder of runs as `make demo` leaves them, of three methods, trained for seconds"
    folder = tmp_path_factory.mktemp('runs')
    for method in ('cam', 'puzzle-cam', 'consistency-cam'):
        tiny = recipe('quick', method=method, pictures=8, size=64, epochs=1, batch_size=4, crop=64, long_side=(64, 64), scales=(1.,), backbone='resnet10t', pretrained='random', affinity='none', segment='none', pseudo_crf=False)
        run(tiny, folder/'demo'/f'{method}-0', progress=False, until='pseudo')
    for name in NOTEBOOKS: shutil.copy(ROOT/'nbs'/'explorers'/name, folder/'demo')
    return folder


@pytest.fixture(scope='module')
def mapped(runs):
    "(id, number among all, from 1) of a held-out picture of which no run's maps are empty: networks of seconds have nothing to say of most"
    made = [Run(folder, progress=False) for folder in sorted((runs/'demo').glob('*-0'))]
    assert len(made) == 3
    has_maps = lambda run, id: any(m.max() > .5 for m in run.cams('val').get(id).values())
    ids = made[0].samples('val').ids
    return next((id, i) for i, id in enumerate(ids, 1) if all(has_maps(run, id) for run in made))


@contextmanager
def explore(runs, *options):
    "(address, process) of `consistency-cam explore`; it is ended by SIGTERM, and leaves nothing behind"
    settings = runs/'settings'; settings.mkdir(exist_ok=True)
    (settings/'jupyter_server_config.json').write_text('{"LabApp": {"expose_app_in_browser": true}}')
    environment = os.environ | dict(CONSISTENCY_CAM_RUNS=str(runs), OMP_NUM_THREADS='1', JUPYTER_CONFIG_DIR=str(settings))
    command = [sys.executable, '-m', 'consistency_cam', 'explore', str(runs/'demo'), '--no-browser', *options]
    with open(runs/'server.log', 'w') as log: process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        for line in process.stdout:
            if line.startswith('explorers: '): break
        else: pytest.fail((runs/'server.log').read_text())
        yield line.split()[1], process
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
        _, left = psutil.wait_procs(family, 10)
        assert status == 0 and not left, (status, left)


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, address, width=1280, height=800):
    "A page, on which nothing is complained of"
    page, said = browser.new_page(viewport=dict(width=width, height=height)), []
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' and not QUIET.search(m.text) else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    page.goto(address, wait_until='commit', timeout=120_000)
    yield page
    page.close()
    assert not said, said


@pytest.fixture(scope='module')
def lab(runs, browser):
    "JupyterLab over the runs and the notebooks, its explorers there without a key pressed"
    with explore(runs, '--lab') as (address, _), opened(browser, address) as page:
        shown(page, 'explorers')
        yield page


NOTEBOOK = 'window.jupyterapp.shell.currentWidget'
CODE = f"{NOTEBOOK}.content.widgets.filter(w => w.model.type == 'code')"


def shown(page, name):
    "The explorer that is in sight, drawn, without a message; a picture of it where SCREENSHOTS is a folder"
    explorer = page.locator('.cc-explorer:visible').first
    explorer.locator('.cc-panels img, button').first.wait_for(timeout=120_000)
    assert explorer.locator('.cc-message').all_inner_texts() == []
    if SHOTS: page.wait_for_timeout(500); page.screenshot(path=f'{SHOTS}/{name}.png')
    return explorer


def idle(page):
    "Wait until the kernel has nothing to do: of keys pressed while it draws, the sliders send only the last"
    page.wait_for_function(f"() => {NOTEBOOK}.sessionContext.session.kernel.status == 'idle'", timeout=120_000)


def run_notebook(page, name):
    "The notebook, opened beside the others and on their kernel, all its cells run; its explorer"
    page.wait_for_function('() => window.jupyterapp')
    page.evaluate(f"""async () => {{ const kernel = {{id: {NOTEBOOK}.sessionContext.session.kernel.id}};
        const opened = await window.jupyterapp.commands.execute('docmanager:open', {{path: '{name}', kernel}});
        await opened.context.ready; await opened.sessionContext.ready }}""")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(f"() => {CODE}.at(-1).model.executionCount", timeout=120_000)
    idle(page)
    page.evaluate(f"() => {{ {NOTEBOOK}.content.node.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }}")
    assert page.evaluate(f"() => {CODE}.flatMap(w => w.model.sharedModel.outputs).filter(o => o.output_type == 'error')") == []
    return shown(page, name.removesuffix('.ipynb'))


PRESSED = """explorer => new Promise(done => { const panels = () => explorer.querySelector('.cc-picture').innerHTML, before = panels(), start = performance.now();
    const look = () => panels() != before ? done(performance.now() - start) : setTimeout(look, 2); look() })"""


def moved(page, explorer, slider, key):
    "Milliseconds from a key pressed on a slider, to its end or its beginning, to another picture"
    slider.focus()
    with page.expect_event('console', lambda m: m.text.startswith('redrawn'), timeout=60_000) as redrawn:
        explorer.evaluate(f"explorer => {{ ({PRESSED})(explorer).then(t => console.log('redrawn ' + t)) }}")
        slider.press(key)
    return float(redrawn.value.text.split()[1])


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_notebook_opens_with_its_explorer(lab, mapped, figure, name):
    "On one screen: controls, slider and panels without scrolling; the slider moves the panels"
    explorer = run_notebook(lab, name)
    if '04_iterated' in name:
        assert explorer.locator('button').inner_text() == 'make the pictures'
        return
    visible = lab.locator('.jp-NotebookPanel:visible .jp-WindowedPanel-outer').bounding_box()
    first, last = explorer.locator('.cc-front').bounding_box(), explorer.locator('.cc-picture').bounding_box()
    assert visible['y'] <= first['y'] and last['y'] + last['height'] <= visible['y'] + visible['height'], (visible, first, last)
    assert all(box['x'] + box['width'] <= visible['x'] + visible['width'] for box in (first, last))
    tops = {round(image.bounding_box()['y'] + image.bounding_box()['height']) for image in explorer.locator('.cc-panels img').all()}
    assert len(tops) == 1, f'{len(tops)} rows of panels'
    if '08_corrections' in name: return  # the test below paints
    main = explorer.locator('.cc-explorer > .widget-slider, :scope > .widget-slider').first
    if (field := explorer.locator('.cc-stepper input')).count() and field.first.input_value().startswith('val-'):
        id, number = mapped
        field.first.fill(id); field.first.press('Enter')
        explorer.locator('.cc-stepper', has_text=f'picture {number} of').wait_for()
        idle(lab)
    assert main.bounding_box()['width'] > .9 * first['width']
    times = []
    for key in ('End', 'Home', 'End'):
        times.append(moved(lab, explorer, main.locator('.noUi-handle'), key))
        idle(lab)
    times.sort()
    figure(f'redraw in the browser, {name}', f'{times[1]:.0f} ms from a key press to the new picture, median of 3')
    assert not explorer.locator('.cc-message').count() and 'drawn in' in explorer.locator('.cc-note').inner_text()


def test_keys_are_the_explorers_own(lab):
    "Names are written, and pictures stepped through, without JupyterLab taking the keys: no cell is deleted, and none chosen"
    explorer = run_notebook(lab, '01_methods.ipynb')
    cells = lambda: lab.evaluate(f'() => [{NOTEBOOK}.content.widgets.length, {NOTEBOOK}.content.activeCellIndex]')
    title = lambda: explorer.locator('figcaption b').first
    field, forth = explorer.locator('.cc-stepper input'), explorer.locator('.cc-stepper button').last
    assert not explorer.locator('select').count()
    field.click()
    before = cells()
    field.fill('val-0-00002'); field.press('Enter')
    playwright.expect(title()).to_have_text('val-0-00002:')
    for key, id in (('Space', 'val-0-00003'), ('Enter', 'val-0-00004')):
        forth.focus(); forth.press(key)
        playwright.expect(title()).to_have_text(f'{id}:')
    field.focus(); field.fill(''); field.type('dd'); field.press('Enter')
    playwright.expect(explorer.locator('.cc-message')).to_contain_text("'dd' is not among the 64 ids")
    forth.click()
    playwright.expect(explorer.locator('.cc-message')).to_have_count(0)
    assert cells() == before


def test_a_stroke_is_painted_and_kept(lab, runs):
    "The canvas is in sight as a whole; a line drawn on it is in the correction, where the pointer was"
    explorer = run_notebook(lab, '08_corrections.ipynb')
    visible = lab.locator('.jp-NotebookPanel:visible .jp-WindowedPanel-outer').bounding_box()
    box, foot = explorer.locator('canvas').bounding_box(), explorer.locator('.cc-foot').bounding_box()
    assert box['width'] > 200 and max(b['y'] + b['height'] for b in (box, foot)) <= visible['y'] + visible['height'], (box, foot, visible)
    explorer.get_by_role('button', name='leave out').click()
    lab.mouse.move(box['x'] + .25 * box['width'], box['y'] + .5 * box['height']); lab.mouse.down()
    lab.mouse.move(box['x'] + .75 * box['width'], box['y'] + .5 * box['height'], steps=4); lab.mouse.up()
    playwright.expect(explorer.locator('.cc-note')).to_contain_text('not kept yet')
    if SHOTS: lab.wait_for_timeout(500); lab.screenshot(path=f'{SHOTS}/painted.png')
    explorer.get_by_role('button', name='keep').click()
    playwright.expect(explorer.locator('.cc-note')).to_contain_text('kept as')
    kept, = (runs/'demo').glob('*/corrections/*.png')
    mask = read_mask(kept)
    assert (mask[32, 18:46] == 255).all() and not (mask[:20] == 255).any() and not (mask[:, :8] == 255).any()


def test_a_page_of_its_own_on_a_phone(runs, browser):
    "Every tab at 400 pixels: nothing wider than the page, sliders that work; and a sentence when the kernel has ended"
    with explore(runs) as (address, process), opened(browser, address, 400) as page:
        explorer = shown(page, 'voila-CAMs')
        for tab in page.locator('.lm-TabBar-tabLabel').all():
            tab.click()
            page.wait_for_function("() => !document.body.innerText.includes('opening…')", timeout=120_000)
            explorer = shown(page, f'voila-{tab.inner_text()}')
            assert page.evaluate('() => document.documentElement.scrollWidth') <= 400
            if tab.inner_text() == 'results': moved(page, explorer, explorer.locator('.noUi-handle').last, 'End')
        kernel, = (p for p in psutil.Process(process.pid).children(recursive=True) if 'ipykernel_launcher' in ' '.join(p.cmdline()))
        kernel.kill()
        page.wait_for_function("() => [...document.querySelectorAll('.cc-explorer')].some(e => getComputedStyle(e, '::before').content.includes('has ended'))", timeout=60_000)


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
