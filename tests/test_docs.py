"""The site of the documentation: every link leads somewhere, nothing is loaded or run, formulas are readable without a network; and no cell mixes imports with other code."""
import ast
import re
import sys
from html.parser import HTMLParser
from posixpath import join, normpath

import pytest

from notebooks import NBS, ROOT, directives, notebooks

sys.path.append(str(ROOT/'docs'))
docs = pytest.importorskip('pages')


class Page(HTMLParser):
    "Addresses, anchors, elements, and the text outside of code"
    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids, self.tags, self.text, self.inside = [], [], set(), [], '', []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.tags.append(tag)
        if 'id' in a: self.ids.add(a['id'])
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        self.loads += [v for k, v in a.items() if k in ('src', 'srcset', 'data') or tag == 'link' and k == 'href']
        if tag in ('code', 'pre', 'annotation', 'style', 'title'): self.inside.append(tag)
        assert not any(k.startswith('on') for k in a), a

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]: self.inside.pop()

    def handle_data(self, data):
        if not self.inside: self.text += data


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "{path of a page: what is in it}, and the folder"
    folder = tmp_path_factory.mktemp('site')
    return folder, {page: Page((folder/page).read_text(encoding='utf-8')) for page in docs.build(folder)}


def test_every_notebook_and_module_has_a_page(site):
    folder, pages = site
    assert {docs.page_of(path) for path in notebooks()} | {f'api/{m}.html' for m in docs.modules()} | {'api/index.html'} == {*pages}
    assert len(docs.modules()) > 60


def test_links_lead_somewhere(site):
    folder, pages = site
    lost = []
    for page, found in pages.items():
        for link in found.links:
            address, _, anchor = link.partition('#')
            if re.match('[a-z]+:', address): continue
            target = normpath(join(page, '..', address)) if address else page
            if not (folder/target).is_file(): lost.append(f'{page}: {link}')
            elif anchor and target in pages and anchor not in pages[target].ids: lost.append(f'{page}: {link} (no such anchor)')
    assert not lost, '\n'.join(lost)


def test_nothing_is_loaded_or_run(site):
    folder, pages = site
    for page, found in pages.items():
        assert not {'script', 'iframe', 'object', 'embed'} & {*found.tags}, page
        outside = [a for a in found.loads if not a.startswith('data:image/') and not (folder/normpath(join(page, '..', a))).is_file()]
        assert not outside, f'{page} loads {outside[0][:80]}'
    assert 'url(' not in (folder/'site.css').read_text() and '@import' not in (folder/'site.css').read_text()


def test_formulas_are_mathml(site):
    folder, pages = site
    assert sum(found.tags.count('math') for found in pages.values()) > 100
    raw = [f'{page}: {found.text[max(0, m.start() - 30):m.end() + 30]!r}' for page, found in pages.items() for m in [re.search(r'\$[^$\n]*\\[a-z]+|\\(?:frac|sum|mathrm|left)\b', found.text)] if m]
    assert not raw, '\n'.join(raw)


def test_previous_and_next_go_through_all_pages_by_house(site):
    folder, pages = site
    order = [docs.page_of(path) for path in docs.reading_order()]
    assert order[0] == 'index.html' and order[1] == '01_pooling.html' and len(order) == len(notebooks())
    for page, after in zip(order, order[1:]):
        steps = {rel: href for href, rel in re.findall(r'<a href="([^"]+)" rel="(\w+)"', (folder/page).read_text(encoding='utf-8'))}
        assert normpath(join(page, '..', steps['next'])) == after
    text = (folder/'tools'/'07_training.html').read_text(encoding='utf-8')
    assert [house for house in re.findall(r'<details open><summary>([^<]+)</summary>', text)] == ['Tools']


def test_explorers_have_their_pictures(site):
    folder, pages = site
    views = [(path, o['data']) for path in notebooks() for cell in docs.sources(path).cells for o in cell.get('outputs', []) if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})]
    assert not [path.name for path, data in views if 'image/png' not in data]
    made = [path for path in notebooks() if path.parent.name == 'explorers' and path.stem != 'index']
    assert made and not [path.name for path in made if 'img' not in pages[docs.page_of(path)].tags or 'the sliders move in make explore' not in re.sub('<[^>]+>', '', (folder/docs.page_of(path)).read_text())]
    start = (folder/'index.html').read_text()
    assert 'CAMNet' in start and '<summary>imports' not in start, 'lines to copy are folded'


def test_modules_say_what_parameters_are(site):
    folder, pages = site
    text = pages['api/pooling.html']
    assert {'noisy_or', 'gap', 'POOLINGS'} <= text.ids and '(B,C,h,w) logits of the cells' in text.text
    assert {'BackboneNet.freeze', 'CAMNet.from_classifier', 'CAMNet.cams'} <= pages['api/camnet.html'].ids, 'methods that are patched in'
    assert 'pictures per step, over all processes' in pages['api/tools.stage.html'].text, 'fields of a dataclass'


def test_no_cell_mixes_imports_with_other_code():
    "nbdev runs every cell that imports to make its documentation, and what else is in it would be run, too"
    mixed = []
    for path in notebooks():
        for cell in docs.sources(path).cells:
            if cell.cell_type != 'code': continue
            try: body = ast.parse(cell.source).body
            except SyntaxError: continue  # a magic of IPython
            imports = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
            if any(imports) and not docs.only_imports(cell.source): mixed.append(f'{path.relative_to(NBS)}: {cell.id}')
    assert not mixed, f'{len(mixed)}: ' + '\n'.join(mixed)
