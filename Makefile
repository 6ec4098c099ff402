# make repro: set up, then run the pipeline.
# make repro PROFILE=NAME: run profiles/NAME.yaml beside it, as a DVC experiment.
# make test: set up, then run make lint and the tests.
# make lint: set up, then check style, spelling and types.
# make setup: create .venv and install the pinned packages.
# make gpu: set up, then install what the GPU profile needs: the extra gpu, llama.cpp for CUDA, and
#   vLLM in .venv-vllm. docs/gpu.md describes it.
# make seeds N=3: train and score under N training seeds, to measure the variance of each figure.
#   Each further seed takes most of the time of make repro.
# make sweep RATES="1e-4 3e-4 1e-3": train under each learning rate, and print the dev losses.
# make gpu-check: run the computations of the GPU profile for some minutes, with random weights and
#   the packages as they are found, without a network. DEVICE=cpu runs them on the CPU.
# make verify: prove in a fresh clone that the remotes have this commit's run. REMOTE=NAME fetches
#   from that remote instead of the default one.
# make evaluate MODEL=PATH: score a received adapter, model folder or .gguf file beside the base, in
#   all tables, without training. NAME=name is its name there.
# make plots: write DVC's curves and pictures as dvc_plots/index.html, which opens without a network.
# make screenshots: write docs/screenshots/ from the pages of the last run (needs chromium).
# make results: write the results into README.md and docs/results.md.
# make llama-dry-run: run Llama 3.2 1B with random weights through the code of the GPU profile.
#   docs/gpu.md states its time and memory.
# make clean: remove .venv and .venv-vllm.
#
# TORCH_INDEX=URL names a package index with a torch build for your accelerator, or for CPUs only.
# Only torch and its accelerator libraries come from there. The default is pip's own index.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; raise SystemExit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
# torch is not in the lock, because each of its builds has its own hash. A test compares this line
# with pyproject.toml.
TORCH := torch==2.13.0
# The builds of xllamacpp for CUDA are not on PyPI. LLAMA_INDEX names the index of another CUDA
# version, such as https://xorbitsai.github.io/xllamacpp/whl/cu132.
LLAMA_INDEX ?= https://xorbitsai.github.io/xllamacpp/whl/cu128
LLAMA_CPP := $(shell awk '/^xllamacpp==/ {print $$1}' requirements.lock)
# PROFILE, N and RATES count only as arguments of make, because other programs also use these names
# in the environment. The shell reads PROFILE's value, whose signs make cannot quote.
export PROFILE
PROFILES := $(patsubst profiles/%.yaml,%,$(wildcard profiles/*.yaml))
# Model of make evaluate, and its name in the tables.
MODEL =
NAME = received
export MODEL NAME
# Number of seeds of make seeds, the pipeline's own included.
N = 3
# Learning rates of make sweep.
RATES = 1e-4 3e-4 1e-3
# Device of make gpu-check.
DEVICE = cuda
VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
# Disk space for packages and outputs. The default torch build also contains CUDA's libraries.
NEEDED_GB := $(if $(TORCH_INDEX),6,12)
# vLLM's own torch, and CUDA's libraries once more (an estimate).
GPU_GB := 16

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# A stage must not write byte code into a folder that DVC hashes.
export PYTHONDONTWRITEBYTECODE := 1
# Libraries must not send usage data.
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

# The first two installs take only files of the lock and check their SHA-256. The setuptools of the
# first install builds packages that ship only source, so pip fetches no build tool without a hash.
# The third install runs after all locked packages, so TORCH_INDEX cannot replace one of them.
define INSTALL
awk '/^[a-z0-9]/ {keep = /^setuptools==/} keep' requirements.lock > $(VENV)/setuptools.lock && \
awk '/^[a-z0-9]/ {print $$1}' requirements.lock > $(VENV)/constraints.txt && \
$(PIP) install --require-hashes --no-deps -r $(VENV)/setuptools.lock && \
$(PIP) install --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements.lock && \
$(PIP) install -c $(VENV)/constraints.txt $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") $(TORCH)
endef

define GPU_INSTALL
$(PIP) install -c $(VENV)/constraints.txt --no-build-isolation -e '.[gpu]' && \
$(PIP) install --no-deps --force-reinstall --index-url "$(LLAMA_INDEX)" $(LLAMA_CPP) && \
"$(PYTHON)" -m venv .venv-vllm && \
.venv-vllm/bin/python -m pip install --quiet 'pip>=25.1' && \
.venv-vllm/bin/python -m pip install --quiet --group vllm
endef

define REPRO
dvc repro; code=$$?; python -m bula keep-runs > /dev/null; exit $$code
endef

.PHONY: help setup gpu repro seeds sweep llama-dry-run gpu-check verify evaluate test lint plots \
	screenshots results clean known-profile
help:
	@grep -E '^# make|^#  ' Makefile | sed 's/^# //'

# A mistyped name must not wait for the packages.
known-profile:
ifeq ($(origin PROFILE),command line)
	@test -f "profiles/$$PROFILE.yaml" || { echo "profiles: there is no profile '$$PROFILE'; name one of $(PROFILES)"; exit 1; }
endif

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock | known-profile
	@test -n "$(PYTHON)" || { echo "bula needs Python 3.11 or 3.12, and none is on PATH; install one, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot create virtual environments; install its venv module (Debian: apt install python3-venv)"; exit 1; }
	@command -v git >/dev/null || { echo "bula needs git, and it is not on PATH"; exit 1; }
	@test $$(df -Pk . | awk 'NR==2 {print int($$4/1000000)}') -ge $(NEEDED_GB) || { echo "bula needs $(NEEDED_GB) GB of free disk here; df says there is less"; exit 1; }
	@echo "installing the pinned packages into $(VENV) (once, a few minutes)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) || \
		{ echo "the packages could not be installed: is a package index reachable, and is there disk space? pip's messages are above"; exit 1; }
	@touch $@

# Remove .venv-vllm to install the packages again, for example from another LLAMA_INDEX.
gpu: .venv-vllm/.installed

.venv-vllm/.installed: $(VENV)/.installed pyproject.toml
	@test $$(df -Pk . | awk 'NR==2 {print int($$4/1000000)}') -ge $(GPU_GB) || { echo "make gpu needs $(GPU_GB) GB of free disk here; df says there is less"; exit 1; }
	@echo "installing the packages for a GPU into $(VENV) and .venv-vllm (once, several GB)"
	@$(GPU_INSTALL) || \
		{ echo "the packages for a GPU could not be installed: are the package index and $(LLAMA_INDEX) reachable, and is there disk space? pip's messages are above"; exit 1; }
	@touch $@

# Check what params.yaml needs before DVC starts. dvc repro records no run in the run-cache if git has
# outputs of the stage, so keep-runs records the finished stages, also after a failure.
repro: setup
ifeq ($(origin PROFILE),command line)
	@python -m bula preflight --profile "$$PROFILE"
	@python -m bula profile "$$PROFILE"
else
	@python -m bula preflight
	@$(REPRO)
endif

# dvc repro then marks the differences within the spread in the report.
seeds: setup
	@python -m bula seeds --count $(N)
	@$(REPRO)

sweep: setup
	@python -m bula sweep $(RATES)

llama-dry-run: setup
	@python -m bench.llama_dry_run

# A machine with a GPU may have its own Python packages, and no .venv.
gpu-check:
	@$$(command -v python || command -v python3) -m bench.gpu_check --device "$(DEVICE)"

lint: setup
	@ruff check . && ruff format --check . && codespell && mypy && .ci/lint

test: lint
	@pytest

verify: setup
ifeq ($(origin REMOTE),command line)
	@python -m bula verify --remote "$$REMOTE"
else
	@python -m bula verify
endif

evaluate: setup
	@python -m bula evaluate "$$MODEL" --name "$$NAME"

plots: setup
	@python -m bula plots

screenshots: setup
	@python -m bench.screenshots

results: setup
	@python -m bula results

# .bula stays, because it contains paid verdicts of the judge.
clean:
	rm -rf $(VENV) .venv-vllm
