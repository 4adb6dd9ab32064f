# make setup | test | demo | docs | lint. One virtual environment, .venv, from one lock file.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test demo docs lint

VENV := .venv
RUN := $(VENV)/bin/python
LOCK := requirements/lock-cpu.txt
SHIM := shims/torchvision-cpu-ops
STAMP := $(VENV)/.d2s-setup

# The lock was tried with Python 3.11, so that is looked for; PYTHON=... takes another, 3.11 or newer.
IS_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c '$(IS_311)' 2>/dev/null && { echo $$p; break; }; done)

# What the environment is made of. The folder counts too: scripts in .venv hold its full path.
SOURCES := $(LOCK) setup.cfg pyproject.toml $(wildcard $(SHIM)/*.*)
FINGERPRINT = { pwd; cat $(filter-out %.egg-info,$(SOURCES)); } | sha256sum
# On a terminal pip shows its progress; in a log its hundreds of lines would bury ours.
PIP := $(RUN) -m pip install --disable-pip-version-check --no-deps $(if $(MAKE_TERMOUT),,--quiet)

# Much of a test is waiting for a process to start: two at a time, and not more, for memory's sake.
JOBS ?= 2

help:
	@echo 'make setup   create $(VENV) and install what the lock file pins; nothing if nothing changed'
	@echo 'make test    the tests, with ruff and mypy (ARGS="-k name" narrows them)'
	@echo 'make demo    the whole way on a generated world; leaves artifacts/demo/report.html'
	@echo 'make docs    the documents as a site, links checked; leaves artifacts/site/index.html'
	@echo 'make lint    ruff and mypy alone'
	@echo 'PYTHON=...   the Python to use (now: $(or $(PYTHON),none found));' \
		'PIP_EXTRA_INDEX_URL=... one more package index'

setup:
	@wanted=$$($(FINGERPRINT)); \
	if [ "$$wanted" = "$$(cat $(STAMP) 2>/dev/null)" ]; then exit 0; fi; \
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
		'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			echo 'make: Python 3.11 was not found; install it, or name it: make $@ PYTHON=/path/to/python3.11' >&2; \
			exit 1; }; \
		echo '== creating $(VENV) with $(PYTHON)'; \
		'$(PYTHON)' -m venv $(VENV); \
	fi; \
	echo "== installing $$(grep -c == $(LOCK)) pinned packages (about 3 GB and a few minutes the first time)"; \
	$(PIP) -r $(LOCK); \
	echo '== installing d2s itself'; \
	$(PIP) --no-build-isolation ./$(SHIM); \
	$(PIP) --no-build-isolation --editable .; \
	$(RUN) -c 'import torch, torchvision' || { \
		echo 'make: torch was installed but cannot be imported here. Without a GPU it must be the CPU build:' \
			'see "CPU torch" in docs/install.md' >&2; \
		exit 1; }; \
	echo "$$wanted" > $(STAMP); \
	echo '== ready: $(VENV)/bin/d2s'

# By files, so that what a file sets up is set up once; in their order, which puts the slow engines first.
test: setup
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

demo: setup
	@$(VENV)/bin/d2s demo $(ARGS)

# The variable silences an advertisement for another tool.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet $(ARGS)
	@echo '== artifacts/site/index.html'

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
