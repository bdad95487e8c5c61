# Every target sets the project up first (bootstrap.sh, a moment when it is done already); `make help` lists them.
DEMO := examples/complete_journey
DEMO_PORT ?= 8500
BIN := .venv/bin
TYPES := build/types

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

setup: ## Python packages from the lock file into .venv, and the project itself
	@./bootstrap.sh

demo: setup ## data, pipeline, server and answers for the Complete Journey (DEMO_PORT=8500)
	@DEMO_PORT=$(DEMO_PORT) $(DEMO)/demo.sh

test: setup ## all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

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

# The client is our own and only needed for what it requires itself; so is every version that the lock already has.
# `make lock UPGRADE=--upgrade` takes the newest versions that setup.py allows.
lock: setup ## resolve setup.py into requirements.lock again (UPGRADE=--upgrade for newer versions)
	echo ./serving/client | $(BIN)/uv pip compile - setup.py --all-extras --python-version 3.11 --generate-hashes \
		--no-emit-package twotower-client --custom-compile-command 'make lock' --quiet $(UPGRADE) -o requirements.lock

clean: ## remove what was built and trained, and the caches; .venv stays
	rm -rf build out $(DEMO)/data *.egg-info serving/client/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
