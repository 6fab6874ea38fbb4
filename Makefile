# Each target does all its own set-up: Python 3.11+, make and g++ are all a fresh machine needs. The front end is built
# with npm, from the PATH or, where there is none, from PyPI.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lab hub-demo test lint pre-commit coverage bench docs docs-links screenshots wheel-test binder-test
.PHONY: compat hub-test clean

demo: .venv/demo
	$(BIN)/jupyter gpu-reclaim demo

lab: .venv/lab
	$(BIN)/jupyter gpu-reclaim lab

# A JupyterHub with two users and an admin on one simulated GPU.
hub-demo: .venv/hub-demo
	$(BIN)/python tests/hub/hub_demo.py

# Three at a time: most tests wait for a kernel most of the time.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

bench: .venv-bench/bench
	.venv-bench/bin/jupyter gpu-reclaim bench

# The pictures of docs/users.md and docs/operators.md; needs Chromium.
screenshots: .venv/test
	mkdir -p docs/images
	$(BIN)/python tests/ui/screenshots.py docs/images
	$(BIN)/python tests/hub/pictures.py docs/images

# Strictly: a warning is an error. The pages are in docs/build/html.
docs: .venv/docs
	$(BIN)/sphinx-build -W --keep-going -n -b html docs docs/build/html

# Asks the web whether the addresses that the pages name are still there.
docs-links: .venv/docs
	$(BIN)/sphinx-build -W --keep-going -b linkcheck docs docs/build/links

# Builds binder/ in a clean venv, and runs the guided notebook through on the server that its `start` starts.
binder-test: .venv/test
	$(BIN)/python tests/binder.py

# Builds wheel and sdist, and tries them where neither node nor a compiler is in reach, up to the sidebar in a browser.
wheel-test: .venv/test
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m hatchling build --target sdist --directory dist
	PYTHON=$(PYTHON) tests/wheel.sh dist/*.whl dist/*.tar.gz $(BIN)/python

# Other projects' own tests without us and with us; the table in docs/compat.md is written anew.
compat:
	rm -rf .venv-compat
	$(PYTHON) -m venv .venv-compat
	.venv-compat/bin/pip install --quiet --upgrade pip
	.venv-compat/bin/pip install --quiet 'jupyter_server[test]' ipykernel 'nbclient[test]'
	$(PYTHON) tests/compat/compare.py .venv-compat/bin/python .venv-compat/sdists docs/compat.md

# The hub's tests with another JupyterHub than the newest.
HUB ?= jupyterhub<6
hub-test: export SKIP_JUPYTER_BUILDER := 1
hub-test: .venv-hub/bin/pip
	.venv-hub/bin/pip install --quiet --editable '.[hub-demo,test]' '$(HUB)'
	.venv-hub/bin/python -m pytest tests/hub

# `make pre-commit` has git do the same before each commit.
lint: .venv/lint node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	npm run --silent lint

pre-commit: .venv/lint node_modules/.package-lock.json
	$(BIN)/pre-commit install

node_modules/.package-lock.json: package-lock.json
	npm ci

.venv/coverage: export SKIP_JUPYTER_BUILDER := 1
# Which lines the tests reach, those in servers, kernels and agents included; the table is in htmlcov/, too.
coverage: .venv/test .venv/coverage
	rm -f .coverage*
	-$(BIN)/coverage run -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

# One environment, grown by what a target needs; `pip` because it alone finds a wheel laid on this disk. What the bench
# compares with brings a `typing` of its own that breaks other Pythons' imports: it stays apart.
.PRECIOUS: %/bin/pip
%/bin/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $*
	$*/bin/pip install --quiet --upgrade pip

# The front end is built for those who look at it; the others need no npm.
.venv/lab .venv/hub-demo .venv/test: package-lock.json hatch_build.py $(shell find labextension -path labextension/lib -prune -o -type f -print)
.venv/demo .venv/lint .venv/docs .venv-bench/bench: export SKIP_JUPYTER_BUILDER := 1

.venv/%: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

.venv-bench/bench: pyproject.toml | .venv-bench/bin/pip
	.venv-bench/bin/pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf .venv .venv-bench .venv-compat .venv-hub
