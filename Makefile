# make setup | test | demo | docs | lint | lock | release-check. One virtual environment: .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup test demo docs lint lock release-check

RUN := .venv/bin/python
# Makes .venv and installs into it; nothing if nothing changed. It reads PYTHON and BUILD.
INSTALL := python=$$(sh tools/find_python.sh) && "$$python" -m tools.install
export PYTHON BUILD

# Much of a test is waiting for a process to start: two at a time, and not more, for memory's sake.
JOBS ?= 2

help:
	@echo 'make setup          create .venv and install what the lock files pin; nothing if nothing changed'
	@echo 'make demo           the whole way on a generated world; leaves artifacts/demo/report.html'
	@echo 'make test           the tests, with ruff and mypy (ARGS="-k name" narrows them)'
	@echo 'make docs           the documents as a site, links checked; leaves artifacts/site/index.html'
	@echo 'make lint           ruff and mypy alone'
	@echo 'make lock           write requirements/lock-*.txt anew from setup.cfg (ARGS=--upgrade: newest)'
	@echo 'make release-check  build sdist and wheel, install each elsewhere and try it'
	@echo 'PYTHON=...          the Python to use: 3.11, 3.12 or 3.13'
	@echo 'BUILD=...           gpu, cpu or plain: see docs/install.md; found by looking if not given'

setup:
	@$(INSTALL) run

# By files, so that what a file sets up is set up once; in their order, which puts the slow engines first.
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
