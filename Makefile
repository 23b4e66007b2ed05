# make serve    run the server on 127.0.0.1:8091 with the embedded model
# make check    lint, types and the tests that start no process, in less than a minute
# make test     pass every check; installs some 500 Debian packages (0.9 GB) for that (PROCESSES=)
# Both make their own virtual environment first, and are fast the second time.
# make test-many    several hosts behind HAProxy and nginx, and a Ray cluster
# make test-systemd, make test-container    the service on a booted systemd, the image in a container
# make test-wheel    the wheel in bare Debian systems without a compiler, on each of their Pythons
# make test-cgroup2    the guard under another kernel, with version 2 of the memory controller
# make test-aarch64    the SIMD library on an emulated ARM processor
# make install, make uninstall    the server as a system service (PREFIX, DESTDIR, EXTRAS)
# make wheel    wheels into dist/, with the native parts for x86-64 and aarch64 inside, and one without
# make deb    dist/modelserver_VERSION_ARCHITECTURE.deb for this release of Debian or Ubuntu
# make certificate HOST=NAME    a certificate for https in front (deploy/nginx/tls.conf)
# make image    the container images modelserver and modelserver:ko (CONTAINER=podman)
# make lock, make audit, make sbom    pin the images' packages; look for known vulnerabilities; list them
# make bench    25 minutes of comparisons, benchmarks/report/index.html (ONLY=, COMPARE=COMMIT, KEEP=1)
# make bench-full    the scripts of benchmarks/ as well, for hours
# make locust    load a server with locust for a minute (LOCUST_* in benchmarks/locustfile.py)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
## What runs the tests; CI runs a failed one again, alone, and names it.
PYTEST := $(BIN)/pytest

## The tests start a server hundreds of times: its bytecode is cached, whatever the shell has set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve check lint test test-many test-systemd test-wheel test-container test-cgroup2 test-aarch64 format lock audit sbom image install uninstall certificate bench bench-full locust wheel deb clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

serve: $(VENV)/.serve
	$(BIN)/modelserver serve

check: $(VENV)/.test lint
	$(BIN)/pytest --quiet -m quick

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

## They race the kernel, or measure how late the server is: beside others they fail now and then.
ALONE := tests/supervisor/test_guard.py tests/http/test_hostile.py tests/serving/test_recordings.py

## Tests wait for processes, too: three keep two processors busy, more disturb each other.
PROCESSES ?= 3

test: $(VENV)/.test lint
	$(PYTEST) --numprocesses $(PROCESSES) --durations 40 $(ALONE:%=--ignore %)
	$(PYTEST) --durations 10 $(ALONE)

test-many: $(VENV)/.test
	scripts/system-packages many
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[ko,test]" \
		--editable "./tools[ray]"
	$(BIN)/pytest -m many

test-systemd: $(VENV)/.test
	scripts/system-packages boot
	$(BIN)/pytest -m systemd

test-wheel: $(VENV)/.test
	scripts/system-packages boot
	$(BIN)/pytest -m bare

test-container: $(VENV)/.test
	scripts/system-packages container
	$(BIN)/pytest -m container

## Not a part of CI: an emulated processor is slow, and too slow for the rest of the story.
STORY := tests/serving/test_story.py::test_a_server_of_the_old_shape_is_killed_by_the_kernel
STORY += "tests/serving/test_story.py::test_this_server_answers_every_request_under_the_same_limit_and_load[prepared]"
CGROUP2 := tests/models/test_mapping.py tests/supervisor/test_guard.py tests/supervisor/test_readings.py $(STORY)
test-cgroup2: $(VENV)/.test
	scripts/system-packages virtual
	scripts/virtual-machine env TEST_PATIENCE=6 $(BIN)/pytest -p no:cacheprovider --timeout 600 $(CGROUP2)
	VM_SYSTEMD=1 scripts/virtual-machine env TEST_PATIENCE=6 $(BIN)/pytest -p no:cacheprovider --timeout 600 -m systemd tests/deploy/test_unit_version_2.py

test-aarch64: $(VENV)/.test
	scripts/system-packages aarch64
	$(BIN)/pytest -m aarch64 tests/models/test_simd_aarch64.py tests/models/test_search_aarch64.py

## With the Python of the image's Debian (3.11).
lock:
	scripts/lock "$(PYTHON)"

audit: $(VENV)/.audit
	$(BIN)/pip-audit --require-hashes --disable-pip --requirement requirements/image-ko.txt

## docker, or podman where that is what there is.
CONTAINER ?= $(if $(shell command -v docker),docker,podman)
BUILD = $(CONTAINER) build $(if $(findstring podman,$(CONTAINER)),--format docker) $(BUILD_OPTIONS)
LABEL = --label org.opencontainers.image.version=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' modelserver/__init__.py)

image:
	$(BUILD) $(LABEL) --tag modelserver .
	$(BUILD) $(LABEL) --tag modelserver:ko --target ko .

sbom:
	$(BUILD) --target sbom --output dist .

$(VENV)/.audit: $(VENV)/.serve
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	touch $@

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.serve: pyproject.toml scripts/system-packages
	scripts/system-packages serve
	scripts/virtual-environment "$(PYTHON)" $(VENV) ko,onnx
	touch $@

$(VENV)/.test: pyproject.toml tools/pyproject.toml scripts/system-packages
	scripts/system-packages serve test
	scripts/virtual-environment "$(PYTHON)" $(VENV) ko,test ./tools
	touch $@ $(VENV)/.serve

## The embedded model is installed, too; EXTRAS= leaves it out.
EXTRAS ?= ko
install:
	scripts/install install "$(PYTHON)" "$(EXTRAS)"

uninstall:
	scripts/install uninstall

deb: $(VENV)/.serve
	BUILDER=$(BIN)/python scripts/deb

wheel: $(VENV)/.serve
	$(BIN)/python scripts/wheel --twice

certificate:
	scripts/certificate "$(HOST)" certificate

$(VENV)/.benchmark: $(VENV)/.serve pyproject.toml
	scripts/system-packages benchmark
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[ko,benchmark]"
	touch $@

## ONLY=throughput,streams: only these; COMPARE=COMMIT: beside another commit's server. KEEP=1: into
## docs/benchmarks.md and the READMEs.
comma := ,
BENCH = $(BIN)/modelserver models prepare && \
	$(BIN)/python benchmarks/bench.py $(subst $(comma), ,$(ONLY)) $(if $(COMPARE),--compare $(COMPARE)) $(FULL) \
	$(if $(KEEP),--keep && $(BIN)/python scripts/reference)

bench: $(VENV)/.benchmark
	$(BENCH)

## Its scripts need the packages of the tests, too.
bench-full: FULL := --full
bench-full: $(VENV)/.benchmark $(VENV)/.test
	$(BENCH)

$(VENV)/.locust: $(VENV)/.serve
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[ko,locust]"
	scripts/system-packages benchmark
	touch $@

locust: $(VENV)/.locust
	$(BIN)/python benchmarks/run_locust.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
