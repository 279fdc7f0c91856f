# `make` lists the targets. BUILD.md has the rest.

# The interpreter to build .venv with, if not the first suitable one found.
PYTHON ?=
# Test processes side by side; 0 runs the tests in pytest's own process.
JOBS ?= 2
# More arguments: make test ARGS="-k cells", make bench ARGS=--full
ARGS ?=
# Inputs for all readers together, and which: make fuzz INPUTS=1000000 SEED=7
INPUTS ?= 100000
SEED ?=
# How often make soak kills each run.
KILLS ?= 50
# More arguments for the resolver: make lock LOCK_ARGS=--upgrade
LOCK_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# A file at a time in each process.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
	--no-loadscope-reorder --max-worker-restart 0
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --generate-hashes

.DELETE_ON_ERROR:
.PHONY: help setup test test-long test-numerics lint format docs demo bench fuzz soak lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' \
		Makefile

setup: $(VENV)/.installed ## Build .venv from the lock files; does nothing when it is up to date.

# In two halves, each by processes of its own: what TensorFlow once had, and what the
# tests of a half import, stays in a process's memory.
HALF := $(addprefix tests/,authors export serving web)

test: setup ## Run the test suite, but for the tests that take long.
ifeq ($(strip $(ARGS)),)
	$(PYTEST) --durations=10 $(HALF)
	$(PYTEST) --durations=10 tests $(addprefix --ignore=,$(HALF))
else
	$(PYTEST) --durations=10 $(ARGS)
endif

test-long: setup ## Run the tests that take long.
	$(PYTEST) -m "long and not soak" $(ARGS)

# Without oneDNN, with one thread per operation and graphs optimised, TensorFlow rounds
# elsewhere: a tolerance that only one way to compute meets is none.
test-numerics: setup ## Run the numerical tests as another processor computes.
	TF_ENABLE_ONEDNN_OPTS=0 TF_NUM_INTRAOP_THREADS=1 NVAE_TEST_OPTIMIZED=1 \
		$(PYTEST) -m "numerics and not soak" $(ARGS)

lint: setup ## Check style, formatting and what imports what.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

format: setup ## Format the code and fix what can be fixed safely.
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

docs: setup ## Build the site of the documentation into site/; warnings are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

demo: setup ## Train, evaluate, sample and export a small model on MNIST digits.
	$(BIN)/nvae demo --workdir=runs/demo

bench: setup ## Measure speed, memory and graph sizes: minutes; ARGS=--full for hours.
	$(BIN)/python -m benchmarks.suite $(ARGS)

fuzz: setup ## Give all readers of files 100,000 damaged inputs: hours; goes on if it was ended.
	$(BIN)/python -m tests.fuzz --inputs=$(INPUTS) $(if $(SEED),--seed=$(SEED))

soak: setup ## Kill runs of one and of two processes fifty times each and compare them with ones left alone.
	NVAE_TF_SOAK_KILLS=$(KILLS) $(BIN)/python -m pytest -n 0 -m soak \
		-o faulthandler_timeout=0 $(ARGS)

lock: $(BIN)/uv ## Resolve the dependencies of pyproject.toml anew into the lock files.
	printf 'setuptools\nwheel\n' | UV_CUSTOM_COMPILE_COMMAND="make lock" \
		$(LOCK) --no-annotate $(LOCK_ARGS) -o requirements-build.lock -
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --extra all --extra dev \
		--extra docs $(LOCK_ARGS) --constraints requirements-build.lock \
		-o requirements.lock pyproject.toml

clean: ## Remove .venv, caches and build products; runs and exports stay.
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	$(MAKE) setup

$(VENV)/.created:
	@set -e; \
	candidates="$(PYTHON)"; \
	if [ -z "$$candidates" ]; then \
		candidates="python3 python3.13 python3.12 python3.11"; \
	fi; \
	for python in $$candidates; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then \
			echo "Creating $(VENV) with $$("$$python" --version) ($$python)"; \
			"$$python" -m venv $(VENV); \
			touch $@; \
			exit 0; \
		fi; \
	done; \
	echo "make setup: found no Python 3.11, 3.12 or 3.13 with the venv module (tried: $$candidates)." >&2; \
	echo "Install one (on Debian and Ubuntu also python3-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

# setuptools and wheel come first, and from hashes too: a dependency that is
# published as source only is then built with them, not with a fresh download.
$(VENV)/.locked: $(VENV)/.created requirements-build.lock requirements.lock
	@echo "Installing the locked packages: 3 GB on disk, a few minutes"
	@$(PIP) install --quiet --require-hashes -r requirements-build.lock
	@$(PIP) install --quiet --require-hashes --no-build-isolation \
		--use-pep517 -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@
