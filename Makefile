# Each target does all its own set-up: Python 3.11+, make and g++ are all a fresh machine needs. The front end is built
# with npm, from the PATH or, where there is none, from PyPI.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lab hub-demo test lint bench screenshots wheel-test clean

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

# The pictures of docs/users.md; needs Chromium.
screenshots: .venv/test
	mkdir -p docs/images
	$(BIN)/python tests/ui/screenshots.py docs/images

# Builds the wheel, and installs it where neither node nor a compiler is in reach.
wheel-test: .venv/bin/pip
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	PYTHON=$(PYTHON) tests/wheel.sh dist/*.whl

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One environment, grown by what a target needs; `pip` because it alone finds a wheel laid on this disk. What the bench
# compares with brings a `typing` of its own that breaks other Pythons' imports: it stays apart.
.PRECIOUS: %/bin/pip
%/bin/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $*
	$*/bin/pip install --quiet --upgrade pip

# The front end is built for those who look at it; the others need no npm.
.venv/lab .venv/hub-demo .venv/test: package-lock.json hatch_build.py $(shell find labextension -path labextension/lib -prune -o -type f -print)
.venv/demo .venv/lint .venv-bench/bench: export SKIP_JUPYTER_BUILDER := 1

.venv/%: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

.venv-bench/%: pyproject.toml | .venv-bench/bin/pip
	.venv-bench/bin/pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv .venv-bench
