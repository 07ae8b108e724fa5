# Two commands do everything, set-up included:  make repro   and   make test
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help env announce repro test test-slow test-all check

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
STAMP := $(VENV)/.stamp
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export PYTHONUNBUFFERED := 1

help:  ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [PIP_ARGS='--extra-index-url URL']"
	sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile

env: $(STAMP)  ## make .venv from constraints.txt (minutes the first time, then nothing)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		echo "make env: Python 3.11 or newer is needed; name one, e.g. make env PYTHON=python3.12" >&2
		exit 1
	fi
	echo "make env: 1/2 creating $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	echo "make env: 2/2 installing about 190 packages (2 GB, with CUDA's libraries 4 GB more)"
	if ! [ -e /dev/nvidiactl ] && ! [ -e /dev/dxg ] && [ -z "$(PIP_ARGS)" ]; then
		echo "make env: no NVIDIA GPU is seen. A CPU build of torch spares CUDA's libraries: stop and run"
		echo "  make $(or $(firstword $(MAKECMDGOALS)),env) PIP_ARGS='--extra-index-url URL'   (PyTorch's index of CPU builds)"
		echo "  make $(or $(firstword $(MAKECMDGOALS)),env) PIP_ARGS='--find-links FOLDER'     (a folder with such a wheel)"
	fi
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $(STAMP)

announce:
	@if [ -e $(STAMP) ]; then
		echo "make repro: 1/3 packages are in $(VENV)"
	else
		echo "make repro: 1/3 packages go to $(VENV): 2 to 10 minutes, once"
	fi
	echo "make repro: 2/3 ten stages on 10,000 images: 6 to 20 minutes on 2 cores, by the processor; stages that are done are skipped"
	echo "make repro: 3/3 figures, and what to open. Ctrl-C stops; the same command resumes."

repro: announce env  ## run the whole pipeline, then say what to open
	@# DVC wants to be told when the project is no git clone
	if git rev-parse --git-dir >/dev/null 2>&1; then
		if grep -qs no_scm .dvc/config.local; then $(PY) -m dvc config --local --unset core.no_scm; fi
	elif ! grep -qs no_scm .dvc/config.local; then
		$(PY) -m dvc config --local core.no_scm true
	fi
	$(PY) -m dvc repro
	echo
	$(PY) -m webdistill.tracking.flush --wait 60 || true
	$(PY) -m webdistill results
	echo "(first: source $(VENV)/bin/activate)"

# two processes, a file's tests in one of them, so that what they share is made once; files in their order, since
# those with few tests, which would come last, are the longest
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: env  ## run the tests but for the slow ones
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: env  ## run the slow ones: kills, second runs from scratch, browsers, clusters
	@$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: test test-slow  ## run all tests

check: env  ## lint, format and types
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
