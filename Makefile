# All targets use one virtual environment, made on first use. `make help` explains the targets.
PYTHON ?= python3
VENV ?= .venv
MODELS ?= models
IMAGE ?= resnet-service
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install tools run test test-all lint bench bench-peers bench-attacks soak docs proto docker lock sbom audit clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed  ## make the virtual environment and install everything

# the constraints pin the versions that were tested together
$(VENV)/installed: pyproject.toml docker/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint docker/constraints.txt --editable '.[cpu,grpc,export,dev]'
	touch $@

tools:  ## install nginx, Chromium, Prometheus, docker-registry for tests (on Debian as root; elsewhere, say what is missing)
	@tests/install-tools

run: install  ## get models (ImageNet weights, or else the demo) and serve them on port 8000
	$(BIN)/python -m model_export quickstart --models-dir $(MODELS)
	$(BIN)/python -m service --models-dir $(MODELS)

# processes with one thread each: threads that share a core spend most of their time waiting for each other; bytecode is
# kept, as every test process and service would compile the modules again
PYTEST = env OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# the tests that depend on the machine, again on pretended machines (tests/pretend); no-vnni also computes differently;
# only their files, as collecting all others would take longer, and in few processes, as nothing waits
MARKED = $$(grep -lrE --include='*.py' 'mark\.(machine|arithmetic)' tests)
PRETENDED = $(PYTEST) --numprocesses 2 $(MARKED) -m

# $(1): which tests; what the first run exports serves them all
define TESTS
set -e; \
SHARED_TEST_FOLDER=$$(mktemp -d); export SHARED_TEST_FOLDER; \
trap 'rm -rf "$$SHARED_TEST_FOLDER"' EXIT; trap 'exit 1' HUP INT TERM; \
$(PYTEST) --numprocesses auto $(1); \
tests/pretend no-plugin $(PRETENDED) machine; \
tests/pretend no-devices $(PRETENDED) machine; \
tests/pretend no-vnni $(PRETENDED) 'machine or arithmetic'
endef

test: install tools lint  ## run the checks: formatting, types, unit and end-to-end tests, a third of the examples of each property
	$(call TESTS,-m 'not slow')

test-all: export ALL_EXAMPLES = yes
test-all: install tools lint  ## as `test`, with the slow tests (trainings, the deepest networks) and all examples of the properties
	$(call TESTS)

lint: install  ## check style (ruff) and types (mypy)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## measure decoding, serving (needs wrk), workers and training; about half an hour
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.training

bench-peers: install  ## compare the service with eight other servers (needs wrk and java); 25 minutes
	$(BIN)/python -m benchmarks.peers

bench-attacks: install  ## measure overload, hostile clients and memory over 100,000 requests (needs wrk); an hour and a half
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.slow_clients
	$(BIN)/python -m benchmarks.memory --model resnet8-cifar

SECONDS ?= 3600
soak: install  ## mixed load, faults and hostile input for SECONDS (3600), behind nginx; draws what they do
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS)

docs: install  ## regenerate the pages of docs/ that come from the code
	$(BIN)/python docs/generate.py

proto: install  ## compile service/grpc_api/open_inference.proto
	$(BIN)/python -m service.grpc_api.generate

docker:  ## build the images `service`, `service-cuda` and `export`, labelled with commit, date and version
	for target in service service-cuda export; do \
		docker build --target $$target --tag $(IMAGE):$$target \
			--build-arg COMMIT=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) \
			--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) . || exit; \
	done

lock: install  ## pin the installed versions, and the hashes of the images' packages, in docker/
	$(BIN)/python docker/lock.py

# an environment as the image's: the same command as in the Dockerfile
sbom: install  ## write build/sbom.json: what the image `service` holds (CycloneDX)
	rm -rf build/service
	$(PYTHON) -m venv --without-pip build/service
	$(BIN)/pip --python build/service install --quiet --require-hashes --only-binary :all: \
		--requirement docker/requirements-service.txt
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --validate \
		--output-file build/sbom.json build/service

# strict: a package that could not be asked about fails the audit, too
audit: install  ## look for known vulnerabilities in what the images hold
	for file in docker/requirements-*.txt; do \
		$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement $$file \
			|| { echo "$$file: a vulnerability, or a package that PyPI's advisories could not be asked about: see above"; exit 1; }; \
	done

clean:  ## remove the virtual environment and caches; keep the models
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build *.egg-info
