# Everything happens in a virtual environment of its own, made on first use. `make help` explains the targets.
PYTHON ?= python3
VENV ?= .venv
MODELS ?= models
IMAGE ?= resnet-service
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install tools run test test-all lint bench bench-peers docs docker lock clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed  ## make the virtual environment with everything in it

# the constraints pin every version that was tested together
$(VENV)/installed: pyproject.toml docker/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint docker/constraints.txt --editable '.[cpu,export,dev]'
	touch $@

tools:  ## install what the end-to-end tests run: nginx and Chromium (Debian, as root; elsewhere it says what is missing)
	@tests/install-tools

run: install  ## get models (ImageNet weights, or else the demo that ships) and serve them on port 8000
	$(BIN)/python -m model_export quickstart --models-dir $(MODELS)
	$(BIN)/python -m service --models-dir $(MODELS)

# as many processes as cores, each with one thread: threads that share a core wait for each other more than they compute
PYTEST = env OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# what depends on the machine once more as if on others (tests/pretend); on no-vnni another arithmetic, too
define PRETENDED
tests/pretend no-plugin $(PYTEST) -m machine
tests/pretend no-devices $(PYTEST) -m machine
tests/pretend no-vnni $(PYTEST) -m 'machine or arithmetic'
endef

test: install tools lint  ## run every check: formatting, types, unit and end-to-end tests
	$(PYTEST) -m 'not slow'
	$(PRETENDED)

test-all: install tools lint  ## the same, and what takes minutes: the demo's training, the deepest networks
	$(PYTEST)
	$(PRETENDED)

lint: install  ## check style (ruff) and types (mypy)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## measure decoding, serving (needs wrk) and training beside their limits; about half an hour
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.training

bench-peers: install  ## measure the service beside seven other servers, each in an environment of its own (needs wrk, java); an hour or two
	$(BIN)/python -m benchmarks.peers

docs: install  ## regenerate the parts of docs/ that come from the code
	$(BIN)/python docs/generate.py

docker:  ## build the images `service`, `service-cuda` and `export`
	for target in service service-cuda export; do docker build --target $$target --tag $(IMAGE):$$target . || exit; done

lock: install  ## pin the versions that are installed now in docker/constraints.txt
	$(BIN)/python docker/lock.py

clean:  ## remove the virtual environment and caches; models stay
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build *.egg-info
