# make repro: set up, then run the pipeline.   make test: set up, then lint, types and tests.
# make seeds N=3: train and score under N seeds, to measure the variance of the figures across training seeds; each takes most of make repro's time.
# make llama-dry-run: Llama 3.2 1B with random weights through the GPU profile's code, on the CPU; what it takes: docs/gpu.md.
# TORCH_INDEX=URL: a package index with the torch build for your accelerator or a CPU-only one (default: pip's own index).
# Only torch and the accelerator libraries that it requires come from there.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; raise SystemExit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
# torch is not in the lock, because each of its builds has its own hash. A test compares this line with pyproject.toml.
TORCH := torch==2.13.0
# Seeds of make seeds, the pipeline's own among them.
N ?= 3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
# Packages and the pipeline's files. The default torch build also brings CUDA's libraries.
NEEDED_GB := $(if $(TORCH_INDEX),6,12)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The folder is imported as it stands; no stage may write byte code into a folder that DVC hashes.
export PYTHONDONTWRITEBYTECODE := 1
# Libraries speak up for what they want to sell or update; nothing here is sent anywhere.
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

# Every file that the lock names is checked against its SHA-256, and nothing else is installed in the first two steps. Packages that
# ship source only are built by the setuptools of the first step, so that pip fetches no build tool without a hash. The third step runs
# when all locked packages are there at their versions, so TORCH_INDEX can replace none of them.
define INSTALL
awk '/^[a-z0-9]/ {keep = /^setuptools==/} keep' requirements.lock > $(VENV)/setuptools.lock && \
awk '/^[a-z0-9]/ {print $$1}' requirements.lock > $(VENV)/constraints.txt && \
$(PIP) install --require-hashes --no-deps -r $(VENV)/setuptools.lock && \
$(PIP) install --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements.lock && \
$(PIP) install -c $(VENV)/constraints.txt $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") $(TORCH)
endef

.PHONY: help setup repro seeds llama-dry-run test lint results clean
help:
	@grep -E '^# make|^#  ' Makefile | sed 's/^# //'

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "bula needs Python 3.11 or 3.12, and none is on PATH; install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: apt install python3-venv)"; exit 1; }
	@command -v git >/dev/null || { echo "bula needs git, and it is not on PATH"; exit 1; }
	@test $$(df -Pk . | awk 'NR==2 {print int($$4/1000000)}') -ge $(NEEDED_GB) || { echo "bula needs $(NEEDED_GB) GB of free disk here; df says there is less"; exit 1; }
	@echo "installing the pinned packages into $(VENV) (once, a few minutes)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) || \
		{ echo "the packages could not be installed: is a package index reachable, and is there disk space? pip's own words are above"; exit 1; }
	@touch $@

# The parameters are checked before DVC reads them.
repro: setup
	@python -m bula.params
	@dvc repro

# The second line brings compare up to date with the spread.
seeds: setup
	@python -m bula seeds --count $(N)
	@dvc repro

llama-dry-run: setup
	@python -m bench.llama_dry_run

lint: setup
	@ruff check . && ruff format --check . && codespell && mypy

test: lint
	@pytest

results: setup
	@python -m bula results

# .bula stays: it holds verdicts that were paid for.
clean:
	rm -rf $(VENV)
