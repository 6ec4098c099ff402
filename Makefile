# make repro: set up, then run the pipeline.   make test: set up, then lint, types and tests.
# make seeds N=3: train and score under N seeds, to see how far luck alone moves the figures; each takes most of make repro's time.
# make llama-dry-run: Llama 3.2 1B with random weights through the GPU profile's code, on the CPU; what it takes: docs/gpu.md.
# TORCH_INDEX=URL: a package index with the torch build for your accelerator or a CPU-only one (default: pip's own).
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; raise SystemExit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
# Seeds of make seeds, the pipeline's own among them.
N ?= 3
VENV := .venv
# Packages and the pipeline's files; pip's own torch brings CUDA's libraries, which TORCH_INDEX can spare.
NEEDED_GB := $(if $(TORCH_INDEX),6,12)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The folder is imported as it stands; no stage may write byte code into a folder that DVC hashes.
export PYTHONDONTWRITEBYTECODE := 1
# Libraries speak up for what they want to sell or update; nothing here is sent anywhere.
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: help setup repro seeds llama-dry-run test lint results clean
help:
	@grep -E '^# make|^#  ' Makefile | sed 's/^# //'

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "bula needs Python 3.11 or 3.12, and none is on PATH; install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: apt install python3-venv)"; exit 1; }
	@command -v git >/dev/null || { echo "bula needs git, and it is not on PATH"; exit 1; }
	@test $$(df -Pk . | awk 'NR==2 {print int($$4/1000000)}') -ge $(NEEDED_GB) || { echo "bula needs $(NEEDED_GB) GB of free disk here; df says there is less"; exit 1; }
	@echo "installing the pinned packages into $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock || \
		{ echo "the packages could not be installed: is a package index reachable, and is there disk space? pip's own words are above"; exit 1; }
	@touch $@

repro: setup
	@dvc repro

# The second line brings compare up to date with the spread.
seeds: setup
	@python -m bula seeds --count $(N)
	@dvc repro

llama-dry-run: setup
	@python -m bench.llama_dry_run

lint: setup
	@ruff check . && ruff format --check . && mypy

test: lint
	@pytest

results: setup
	@python -m bula results

# .bula stays: it holds verdicts that were paid for.
clean:
	rm -rf $(VENV)
