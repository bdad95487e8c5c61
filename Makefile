# Every target sets the project up first (bootstrap.sh, a moment when it is done already); `make help` lists them.
# PY=3.12 with any of them takes the current version set, in an environment of its own (glibc 2.39 and later).
DEMO := examples/complete_journey
DEMO_PORT ?= 8500
PY ?= 3.11
export PY
BIN := $(if $(filter 3.12,$(PY)),.venv-3.12,.venv)/bin
TYPES := build/types

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types lock clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## Python packages from the lock file into .venv (PY=3.12: .venv-3.12), and the project itself
	@./bootstrap.sh

demo: setup ## data, pipeline, server and answers for the Complete Journey (DEMO_PORT=8500)
	@BIN=$(BIN) DEMO_PORT=$(DEMO_PORT) $(DEMO)/demo.sh

test: setup ## all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup ## ruff's checks and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see through setuptools' editable installs: the same packages as links, laid out as they are imported.
types: setup ## mypy, strict, over the packages, the tests and the scripts
	rm -rf $(TYPES)
	mkdir -p $(TYPES)/twotower/serving
	ln -s $(addprefix $(CURDIR)/,features models pipeline) $(TYPES)/twotower
	ln -s $(addprefix $(CURDIR)/,$(filter-out serving/client,$(wildcard serving/*))) $(TYPES)/twotower/serving
	ln -s $(CURDIR)/serving/client/twotower_client $(TYPES)
	MYPYPATH=$(TYPES):benchmarks:$$(find tests -type d -not -name __pycache__ | paste -sd:) $(BIN)/mypy \
		$(TYPES) tests benchmarks examples

# The client is our own and only needed for what it requires itself; so is every version that the locks already have.
# `make lock UPGRADE=--upgrade` takes the newest versions that setup.py allows. Both at once: setup.py is one for both.
RESOLVE = echo ./serving/client | $(BIN)/uv pip compile - setup.py --all-extras --generate-hashes \
	--no-emit-package twotower-client --custom-compile-command 'make lock' --quiet $(UPGRADE)

lock: setup ## resolve setup.py into both lock files again (UPGRADE=--upgrade for newer versions)
	$(RESOLVE) --python-version 3.11 -o requirements.lock
	$(RESOLVE) --python-version 3.12 --python-platform x86_64-manylinux_2_39 --overrides overrides-py312.txt \
		-o requirements-py312.lock

clean: ## remove what was built and trained, and the caches; the environments stay
	rm -rf build out $(DEMO)/data *.egg-info serving/client/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
