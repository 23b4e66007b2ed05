# make serve    run the server on 127.0.0.1:8091 with the embedded model
# make test     pass every check
# Both make their own virtual environment first, and are fast the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check format benchmark clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

serve: $(VENV)/.serve
	$(BIN)/modelserver serve

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.serve: pyproject.toml scripts/system-packages
	scripts/system-packages serve
	scripts/virtual-environment "$(PYTHON)" $(VENV) ko
	touch $@

$(VENV)/.test: pyproject.toml scripts/system-packages
	scripts/system-packages serve test
	scripts/virtual-environment "$(PYTHON)" $(VENV) ko,test
	touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
