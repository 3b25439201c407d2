"""Names of classes, pictures, runs and files that are HTML: the report and the explorers show them letter for letter."""
import csv
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from consistency_cam.experiments.compare import collect
from consistency_cam.explore.cams import explore_cams
from consistency_cam.explore.explorer import Explorer, panels_html, slider
from consistency_cam.explore.results import explore_results
from consistency_cam.experiments.pipeline import Run, run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.report.page import write_report
from consistency_cam.datasets.samples import InputError, write_mask

# Each of them does something in a page that does not escape it; the last three are for attributes.
NASTY = ['<script>document.title="it ran"</script>', '<img src=x onerror=document.title="it_ran">', '</td></table></style></title><svg onload=document.title="it_ran">', '" onmouseover="document.title=1" x="', "' autofocus onfocus='document.title=1' x='", '&lt;script&gt;&quot; &amp;amp; &#39;']


class Elements(HTMLParser):
    "How often each element occurs with each set of attributes, the addresses in it, and its text"
    def __init__(self, text):
        super().__init__()
        self.count, self.addresses, self.text, self.values = Counter(), [], '', []
        self.feed(text); self.close()
    def handle_starttag(self, tag, attributes):
        self.count[tag, tuple(sorted(k for k, _ in attributes))] += 1
        self.addresses += [v for k, v in attributes if k in ('src', 'href', 'srcset', 'action', 'data', 'poster', 'formaction', 'xlink:href')]
        self.values += [v for _, v in attributes if v]
    def handle_data(self, text): self.text += text
    def handle_comment(self, text): raise AssertionError(f'a comment: {text}')


def a_run(folder, classes, ids, name):
    "A run up to its CAMs on eight pictures with these names"
    place, r = folder/f'data {name}'.replace('/', '-'), np.random.default_rng(0)
    for i, id in enumerate(ids):
        for kind in ('pictures', 'masks'): (place/kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(r.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place/'pictures'/f'{id}.png')
        write_mask(np.repeat(np.arange(len(classes) + 1, dtype=np.uint8), 64)[:64 * (len(classes) + 1)].reshape(-1, 64).repeat(64 // (len(classes) + 1) + 1, 0)[:64], place/'masks'/f'{id}.png')
    with open(place/'labels.csv', 'w', newline='', encoding='utf-8') as f:
        rows = csv.writer(f); rows.writerow(['id', 'labels', 'split']); rows.writerows([id, ';'.join(classes), name] for id in ids)
    tiny = recipe('quick', data='folder', root=str(place/'pictures'), labels=str(place/'labels.csv'), masks=str(place/'masks'), train=name, val='', method='cam', backbone='resnet10t', pretrained='random',
        epochs=1, batch_size=4, crop=64, long_side=(64, 64), scales=(1.,), affinity='none', segment='none', pseudo_crf=False)
    return run(tiny, folder/f'run {name}', progress=False, until='pseudo')


def page(made, folder, command, title):
    found = collect([made], command=command)
    found['versions'], found['device'], found['date'] = {title: title}, title, title
    return write_report([made], folder/'report.html', found, pictures=4).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A run whose names are HTML, and one whose names are not"
    folder = tmp_path_factory.mktemp('names')
    bare = [n.replace('/', '\u2215').replace(';', ':') for n in NASTY]  # an id has no slash but between folders, and a class no semicolon here
    classes = [f'{i} ' + n for i, n in enumerate(c.replace(';', ':') for c in NASTY[:4])]
    hostile = a_run(folder, classes, [f'{i}{n}' for i, n in enumerate(bare + bare[:2])], bare[1])
    plain = a_run(folder, [f'{i} class' for i in range(4)], [f'{i}picture' for i in range(8)], 'plain')
    return hostile, plain, classes, folder


def test_the_report_has_no_element_but_its_own(runs, figure):
    hostile, plain, classes, folder = runs
    texts = page(hostile, folder/'a', NASTY[0], NASTY[1]), page(plain, folder/'b', 'command', 'title')
    found, own = map(Elements, texts)
    assert found.count == own.count, (found.count - own.count, own.count - found.count)
    assert all(a.startswith(('data:image/', '#')) for a in found.addresses)
    assert not any(tag == 'script' or any(name.startswith('on') for name in names) for tag, names in found.count)
    shown = ' '.join(found.text.split())
    for name in [*classes, *NASTY[:2]]: assert ' '.join(name.split()) in shown, f'{name} is not shown letter for letter'
    assert '''http-equiv="Content-Security-Policy" content="default-src 'none';''' in texts[0]
    figure('report of hostile names', f'{sum(found.count.values())} elements, as many as with plain names; {sum(shown.count(n) for n in classes)} names of classes shown as they are')


def values(explorer): return [explorer.picture.value, explorer.message.value, explorer.note.value, explorer.code.value]


@pytest.mark.parametrize('make', [explore_cams, explore_results])
def test_explorers_have_no_element_but_their_own(runs, make):
    hostile, plain, *_ = runs
    for theirs, own in zip(values(make(hostile.folder)), values(make(plain.folder))): assert Elements(theirs).count == Elements(own).count


@pytest.mark.parametrize('nasty', NASTY)
def test_captions_and_messages_are_shown_as_they_are(nasty):
    found, own = Elements(panels_html({nasty: np.zeros((4, 4, 3), np.uint8)})), Elements(panels_html({'title': np.zeros((4, 4, 3), np.uint8)}))
    assert found.count == own.count and nasty in found.text and nasty in found.values
    explorer = Explorer(lambda n: {nasty: np.zeros((4, 4, 3), np.uint8)}, dict(n=slider('n', 1, 0, 2, 1)), lambda n: f'panels = {nasty!r}')
    assert set(Elements(explorer.code.value).count) == {('pre', ('class',))} and repr(nasty) in Elements(explorer.code.value).text
    explorer.say(InputError(nasty))
    assert set(Elements(explorer.message.value).count) == {('div', ('class', 'role'))} and nasty in Elements(explorer.message.value).text
