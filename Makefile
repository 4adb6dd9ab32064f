# make setup | test | demo | docs | lint | lock | release-check. One virtual environment: .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup test demo docs lint lock release-check

RUN := .venv/bin/python
# Creates .venv and installs packages, if anything changed. Reads PYTHON and BUILD.
INSTALL := python=$$(sh tools/find_python.sh) && "$$python" -m tools.install
export PYTHON BUILD

# Tests spend much time waiting for processes: run two at a time, but no more, to limit memory.
JOBS ?= 2

help:
	@echo 'make setup          create .venv and install the locked packages, if anything changed'
	@echo 'make demo           run everything on a generated world; writes artifacts/demo/report.html'
	@echo 'make test           the tests, with ruff and mypy (ARGS="-k name" selects tests)'
	@echo 'make docs           build the documentation, check links; writes artifacts/site/index.html'
	@echo 'make lint           only ruff and mypy'
	@echo 'make lock           regenerate requirements/lock-*.txt from setup.cfg (ARGS=--upgrade: newest)'
	@echo 'make release-check  build sdist and wheel, install each elsewhere and test it'
	@echo 'PYTHON=...          the Python to use: 3.11, 3.12 or 3.13'
	@echo 'BUILD=...           gpu, cpu or plain (docs/install.md); detected by default'

setup:
	@$(INSTALL) run

# By file, so that fixtures of a file are set up once; in order, with the slow engines first.
test:
	@$(INSTALL) test
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

demo: setup
	@.venv/bin/d2s demo $(ARGS)

docs:
	@$(INSTALL) docs
	@$(RUN) -m sphinx -c docs -W --keep-going -q . artifacts/site $(ARGS)
	@echo '== artifacts/site/index.html'

lint:
	@$(INSTALL) test
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

lock:
	@$(INSTALL) test
	@$(RUN) -m tools.lock $(ARGS)

release-check:
	@$(INSTALL) test
	@$(RUN) -m tools.release_check $(ARGS)
