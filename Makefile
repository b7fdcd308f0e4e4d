# Everything starts from Python and git alone; the environment is made on first use.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
CODE   := $(wildcard src tests tools benchmarks examples)

.DEFAULT_GOAL := help
LEADERBOARD := out/leaderboard
LOWEST := .venv-lowest
LOWEST_TESTS := tests/core tests/models tests/methods/test_conformance.py tests/test_pipeline.py \
  tests/api/test_edit_generated.py tests/api/test_controlled.py tests/api/test_load.py \
  tests/cli/test_commands.py tests/train/test_shipped.py
.PHONY: help venv demo browser test slow check lint format types paths bench realsizes leaderboard pictures clean

help: ## List the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 16
	@echo "Extra arguments: make test ARGS='-k images'   Another Python: make venv PYTHON=python3.12"

venv: $(VENV)/.dev ## Make .venv with the package, its extras and the developers' tools

demo: $(VENV)/.core ## Edit pictures with the bundled model into out/demo
	$(BIN)/freeprompt demo -o out/demo $(ARGS)

browser: ## Install Chromium for the studio's tests, on Debian as root; elsewhere say how
	@for name in chromium chromium-browser chrome; do command -v $$name >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
	echo "No Chromium: the studio's page is not tested. Install it and put it on the PATH."

test: browser $(VENV)/.dev ## Run the tests that take seconds, on the CPU, without the network
	$(PYTEST) $(ARGS)

lowest: $(LOWEST)/.done ## Test models, methods and edits with constraints-lowest.txt
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 $(LOWEST_TESTS) \
	  -k 'not (test_the_same_edit_and_everything_back and sdxl)' $(ARGS)

slow: $(VENV)/.dev ## Run the tests with trained weights
	$(PYTEST) -m slow $(ARGS)

check: lint types paths ## Check style, types and that no path of one machine is in the tree

lint: $(VENV)/.dev ## Check style
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

# The brackets keep the pattern from finding itself; git grep exits with 1 when it finds nothing.
paths: ## Check that no path of one machine is in the tree
	@git grep -nIE --untracked '(^|[^.a-zA-Z0-9_-])/(work|root|home|opt|Users)[/]|file:/[/]/' -- . ; \
	case $$? in 1) ;; 0) echo "The lines above hold a path of one machine." >&2; exit 1 ;; \
	*) exit 2 ;; esac

format: $(VENV)/.dev ## Put the code into shape
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.dev ## Measure speed, work and memory as ratios; docs/performance.md shows them
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/edit_cost.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/attention_maps.py
	$(BIN)/python benchmarks/chunks.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/materialised.py

realsizes: $(VENV)/.dev ## Measure whole edits at SD 1.5's and SDXL's size: 10 GB and many minutes
	$(BIN)/python benchmarks/real_sizes.py --size sd15 --steps 2
	$(BIN)/python benchmarks/real_sizes.py --size sdxl --steps 1 --vae-tiling --ways edit stock

pictures: $(VENV)/.dev ## Draw the pictures of docs/methods again
	$(BIN)/python tools/draw_methods.py $(ARGS)

support: $(VENV)/.dev ## Try every method on every family and write docs/support.md
	FREEPROMPT_WRITE_SUPPORT=1 $(PYTEST) -n 0 -m slow tests/models/test_support.py $(ARGS)

# One thread: emoji-sd's operations are too small for two, which beside a busy neighbour wait for each other.
claims: $(VENV)/.dev ## Measure the paper's claims again and write docs/claims.md; QUICK=1 is small
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/freeprompt claims $(if $(QUICK),--quick) $(ARGS)

# TUNE and RUN take options of the commands, such as RUN="--limit 20 --processes 16 --device cuda".
leaderboard: $(VENV)/.core ## Tune and score every method, and write docs/leaderboard.md (hours)
	$(BIN)/freeprompt bench tune emojiedit -o $(LEADERBOARD)/tune $(TUNE)
	$(BIN)/freeprompt bench run emojiedit -o $(LEADERBOARD)/run \
	  --include $(LEADERBOARD)/tune/tuned.toml $(RUN)
	$(BIN)/freeprompt bench report $(LEADERBOARD)/run --markdown docs/leaderboard.md

clean: ## Remove the environment, caches and output
	rm -rf $(VENV) $(LOWEST) out build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "freeprompt needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first, so that what follows finds it and cannot bring another build of it.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --editable '.[all]' --group dev
	@touch $@

$(LOWEST)/.done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt \
	  --editable '.[lora,viz,sprites,studio]' --group test
	@touch $@
