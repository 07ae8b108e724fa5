# Two commands do everything, set-up included:  make repro   and   make test
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help env repro test check

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
	sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile

env: $(STAMP)  ## make .venv from constraints.txt (minutes the first time, then nothing)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		echo "make env: Python 3.11 or newer is needed; name one, e.g. make env PYTHON=python3.12" >&2
		exit 1
	fi
	echo "make env: 1/2 creating $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	echo "make env: 2/2 installing about 190 packages (2 GB, with CUDA's libraries more)"
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $(STAMP)

repro: env  ## run the whole pipeline, then say what to open
	@# DVC wants to be told when the project is no git clone
	if git rev-parse --git-dir >/dev/null 2>&1; then
		if grep -qs no_scm .dvc/config.local; then $(PY) -m dvc config --local --unset core.no_scm; fi
	elif ! grep -qs no_scm .dvc/config.local; then
		$(PY) -m dvc config --local core.no_scm true
	fi
	$(PY) -m dvc repro
	echo
	$(PY) -m webdistill.lineage.flush --wait 60 || true
	$(PY) -m webdistill results
	echo "(first: source $(VENV)/bin/activate)"

# two processes, a file's tests in one of them, so that what they share is made once
test: env  ## run the tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: env  ## lint, format and types
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
