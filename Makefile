# Every target sets up what it needs: a fresh machine needs only Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# all tests in several processes; the few that ARGS names are done before those have started
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

# unit tests, and one end-to-end test of each kind
QUICK := smoke or not whole

# of all three packages: the library, the station, and plugins for a line
CODE := src tests conftest.py station line weights bench docs examples docker deploy

.DEFAULT_GOAL := help
# Tests start hundreds of processes: each would compile every module again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test chain lint format bench figures gpu docs dist release bundle notes clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# PyPI's torch for Linux is built for GPUs and takes gigabytes; its own index has one for the CPU.
# An index or folder of one's own is taken as it is, and where that index cannot be reached PyPI's will do.
define TORCH
if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null \
	&& ! $(BIN)/python -m pip config list | grep -qE 'index-url|find-links|no-index' && ! $(BIN)/python -c 'import torch' 2> /dev/null; then \
	$(INSTALL) --retries 1 --index-url https://download.pytorch.org/whl/cpu torch torchvision \
		|| echo "torch for the CPU is not to be had: the usual one is installed"; fi
endef

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@$(TORCH)
	$(INSTALL) ./weights -e ".[train]"
	@touch $@

$(READY): pyproject.toml station/pyproject.toml line/pyproject.toml weights/pyproject.toml weights/dinov2/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@$(TORCH)
	$(INSTALL) ./weights ./weights/dinov2 \
		-e ".[train,accurate,export,openvino,backbones,cluster,tiff,dev]" -e "station[openid]" -e "line[plc,basler]"
	@touch $@

install: $(READY) ## create .venv with everything for development

demo: $(or $(wildcard $(READY)),$(VENV)/.demo) ## generate a data set, fit, evaluate, write pictures (demo/)
	$(BIN)/flawscope demo --out demo

test: $(READY) ## run the unit tests and one end-to-end test of each kind; ALL=1: all tests
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),$(PARALLEL) $(if $(ALL),,-m "$(QUICK)"))

chain: $(READY) ## all methods, runtimes and precisions give the same numbers, in minutes
	$(BIN)/python -m pytest tests/whole/methods/chain.py tests/whole/methods/test_contract.py $(if $(ARGS),$(ARGS),$(PARALLEL))

lint: $(READY) ## style, types, spelling; with npm the pages' scripts, too
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python tests/imported_names.py $(CODE)
	$(BIN)/codespell $(CODE) configs *.md
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory node_modules/.ready && npm run --silent lint; \
	else echo "no npm: the pages' scripts are not checked (apt-get install npm)"; fi

node_modules/.ready: package.json package-lock.json
	npm ci --silent
	@touch $@

format: $(READY) ## apply the style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(READY) ## measure everything (bench/results/) in about a day; goes on where it stopped (bench/README.md)
	$(BIN)/python bench/accuracy.py --seen 0,10
	$(BIN)/python bench/fit.py
	$(BIN)/python bench/fit.py --set size=256 --out bench/results/fit-256.json
	$(BIN)/python bench/latency.py
	$(BIN)/python bench/latency.py --methods patchcore --set size=256 --out bench/results/latency-256.json
	$(BIN)/python bench/parity.py
	$(BIN)/python bench/calibration.py
	$(BIN)/python bench/peers/run.py

figures: $(READY) ## write the README's figures and the table of accuracy from bench/results/
	$(BIN)/python docs/figures.py

# with what is there: a machine that has a GPU has a torch of its own
gpu: ## measure all that needs a GPU (bench/results/gpu*.json), in 16 minutes at most; without one it says so
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) bench/gpu.py $(ARGS)

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[docs]"
	@touch $@

docs: $(VENV)/.docs ## build the guide as a site (site/)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: ## build sdists and wheels (dist/), check them, and try the core in an empty environment
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist/tools
	build/dist/tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build twine
	for folder in . station line weights weights/dinov2; do build/dist/tools/bin/python -m build --outdir dist $$folder || exit; done
	build/dist/tools/bin/twine check --strict dist/*
	$(PYTHON) deploy/built_files.py dist
	$(PYTHON) -m venv build/dist/empty
	build/dist/empty/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/flawscope-*.whl
	cd build/dist && empty/bin/flawscope info ../../tests/fixtures/models/patchcore-two-sizes.onnx --self-test

release: ## make all files of a release (dist/); VERSION=0.1.0, optional REPOSITORY=https://...
	$(PYTHON) deploy/release.py $(VERSION) $(if $(REPOSITORY),--repository $(REPOSITORY)) $(ARGS)

bundle: $(READY) ## make an archive that installs a station without internet (dist/); ARGS="--extras openvino"
	$(BIN)/python deploy/bundle.py $(ARGS)

notes: ## print the release notes of this version, from the changelog
	@$(PYTHON) .ci/notes.py

clean: ## remove what the other targets made
	rm -rf $(VENV) node_modules demo site build dist .pytest_cache .mypy_cache .ruff_cache
