PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
LABFLAGS ?=
EXPLOREFLAGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check -qq
PHOTOS := photos
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest tests -n $(JOBS) --dist load --maxschedchunk 1 --timeout 900 --durations 20 --durations-min 1

.PHONY: help install demo explore photos test test-all reliability bench browser lab notebooks export readme docs clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## make .venv and install the package with its tools, at the tested versions

$(STAMP): settings.ini constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	@echo "1/3 virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "2/3 $(TORCH), the largest download"
	@$(PIP) install -c constraints.txt "$(TORCH)"
	@echo "3/3 consistency_cam and everything it is developed with"
	@$(PIP) install -c constraints.txt -e ".[dev,notebooks,app,methods,weights,crf,coco,sbd,onnx,tensorboard]"
	@$(PY) -c 'from consistency_cam._torchvision import repair_environment; repair_environment()'
	@touch $@

demo: install ## train, compare and report the three methods on generated pictures
	@$(BIN)/consistency-cam demo

explore: install ## open the explorers on the runs of the demo, in the browser
	@$(BIN)/consistency-cam explore $(EXPLOREFLAGS)

photos: install ## unpack photographs of two Debian packages (GPL-2+) to photos/, without root, for `demo --data cutouts`
	@rm -rf $(PHOTOS)/.debian && mkdir -p $(PHOTOS)/.debian
	@cd $(PHOTOS)/.debian && apt-get -qq -o APT::Sandbox::User=root download tuxpaint-stamps-default mate-backgrounds \
		|| { echo "the packages tuxpaint-stamps-default and mate-backgrounds (208 MB) cannot be downloaded: run apt-get update first; elsewhere than on Debian, unpack them by hand" >&2; exit 1; }
	@for package in $(PHOTOS)/.debian/*.deb; do dpkg-deb -x $$package $(PHOTOS)/.debian; done
	@$(PY) -c "from consistency_cam.datasets.cutouts import arrange_photos; print(arrange_photos('$(PHOTOS)/.debian/usr/share', '$(PHOTOS)'))"
	@rm -rf $(PHOTOS)/.debian

test: install ## run every notebook and the quick tests
	@$(PYTEST) -m "not slow"

test-all: install ## the same, and the slow tests
	@$(PYTEST)

reliability: install ## run all tests and measure the coverage; what they counted goes to results/reliability.json
	@$(PYTEST) --figures results/reliability.json
	@$(PY) tests/cover.py --figures results/reliability.json

bench: install ## time each stage beside the literal way of doing it; the figures go to results/bench.json
	@OMP_NUM_THREADS=$(JOBS) $(PY) -m benchmarks --result results/bench.json --force

browser: install ## install what the browser tests need: Chromium (by Debian's apt-get) and Playwright
	@command -v chromium >/dev/null || { $(ROOT) apt-get -qq update && $(ROOT) apt-get -qq install -y chromium; }
	@$(PIP) install -c constraints.txt -e ".[browser]"

lab: install ## open the notebooks in JupyterLab, on this machine only
	@$(BIN)/jupyter lab --ip=127.0.0.1 $(AS_ROOT) $(LABFLAGS) nbs/index.ipynb

notebooks: export ## run all notebooks in order, store their outputs, remake the README
	@$(PY) tests/notebooks.py run
	@$(PY) tests/notebooks.py readme

export: install ## write the package from the notebooks
	@$(BIN)/nbdev_export

readme: install ## write README.md from nbs/index.ipynb
	@$(PY) tests/notebooks.py readme

docs: install ## build the site of the documentation in _docs/
	@$(PY) docs/pages.py

clean: ## remove .venv, builds and caches; runs stay
	@rm -rf $(VENV) build dist _docs _proc .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
