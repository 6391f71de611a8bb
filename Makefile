# Everything that a fresh machine needs is Python >= 3.11 (with venv), git and make.
PYTHON ?= python3
ENV ?= emt
ROOT ?= demo-root
# More options of `rootstock-site install`, such as: INSTALL_FLAGS="--set uv.find-links=/path/to/wheels"
INSTALL_FLAGS ?=
# More options of pytest, such as: TESTS="-k calculator"
TESTS ?=
# How many processes run tests at the same time: one more than there are processors, since tests wait for others, too
PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

# Each is a target of its own, so that they run side by side.
CHECKS := types types-of-the-worker docs style layers modulefiles-in-git

.PHONY: demo test coverage test-soak test-models models-table test-gpu test-nodes check $(CHECKS) bench clean

demo: .venv/installed  ## Install a site root in ./demo-root and compute with it; ENV=chgnet for a real model
	$(BIN)/rootstock-site install --cluster local --root "$(ROOT)" --env $(ENV) --yes $(INSTALL_FLAGS)
	"$(ROOT)"/client/*/bin/python examples/demo.py --root "$(ROOT)" --model $(ENV)

test: check  ## Lint, types, layers, and every test that this machine can run
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --durations 20 $(TESTS)

coverage: .venv/developer  ## The same tests, and which lines their own processes did not run
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --cov --cov-report=term $(TESTS)

test-soak: .venv/developer  ## The checks of which `make test` runs a sample, with other random numbers and far more of them: hours
	$(BIN)/python -m pytest -m "soak or hypothesis" --hypothesis-profile soak -n $(PROCESSES) --dist loadgroup $(TESTS)

test-models: .venv/developer  ## Every model, also those that CI leaves out; PYTHON312 names a Python for ORB, MODELS_WEIGHTS a folder with released weights
	$(BIN)/python -m pytest tests/models -m "models or all_models" $(TESTS)

models-table: .venv/developer  ## What the tests see of each model, into docs/models-tested.json; TESTS="-k chgnet" for one
	MODELS_TABLE=docs/models-tested.json $(BIN)/python -m pytest tests/models/test_conformance.py -m "" $(TESTS)

test-gpu: .venv/developer  ## Models on a GPU of this machine; ROOTSTOCK_TEST_DEVICE=cuda:1 takes another
	$(BIN)/python -m pytest tests/gpu -m gpu $(TESTS)

test-nodes: .venv/developer  ## A larger run on three nodes of Slurm, on this machine
	$(BIN)/python -m pytest tests/site/test_nodes.py tests/site/test_nodes_parsl.py -m nodes $(TESTS)

check: .venv/developer  ## Lint, types, layers and documentation
	$(MAKE) --jobs $(PROCESSES) --output-sync --no-print-directory $(CHECKS)

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

types-of-the-worker: # which runs in environments of its own, with older Pythons
	$(BIN)/mypy --python-version 3.10 rootstock/errors.py rootstock/worker

layers:
	$(BIN)/lint-imports --no-cache

modulefiles-in-git:
	$(BIN)/rootstock-site render --output modulefiles --check

docs: .venv/developer  ## The documentation's pages in ./site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: .venv/installed  ## Cost of a call against ASE in process and ASE's socket calculator: figures and plots in build/bench
	$(UV) --editable '.[bench]'
	mkdir -p build/bench
	$(BIN)/python benchmarks/ipc_overhead.py --json build/bench/ipc_overhead.json
	$(BIN)/python benchmarks/ipi_overhead.py --json build/bench/ipi_overhead.json
	$(BIN)/python benchmarks/plot.py build/bench/*.json --output build/bench

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: .venv/bin/uv pyproject.toml rootstock/__init__.py  # which holds the version
	$(UV) --editable .
	touch $@

.venv/developer: .venv/installed
	$(UV) --editable '.[docs,lint,test]'
	touch $@

clean:
	rm -rf .venv .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis dist site
