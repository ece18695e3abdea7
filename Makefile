# Everything a person does with this checkout. Each target sets up what it needs.

PYTHON := .venv/bin/python
SETUP := .venv/.setup

# pip reads these; the second one pins what builds the package, too.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check bench bench-quick format

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## Build .venv with everything in it, as pinned by constraints.txt.

run: $(SETUP) ## Serve on 127.0.0.1:8080 with an embedded database, kept in .fetchlock.
	@$(PYTHON) -m broker dev

demo: $(SETUP) ## Do real work with three workers, kill one, verify all (DIR=… takes another folder).
	@$(PYTHON) -m examples.demo $(if $(DIR),"$(DIR)")

test: $(SETUP) ## Run the tests against a real PostgreSQL and real processes.
	$(PYTHON) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(SETUP) ## Check format, lint, types, import rules and the committed OpenAPI document.
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	PATH="$(CURDIR)/.venv/bin:$$PATH" pyright --verifytypes worker_sdk --ignoreexternal
	.venv/bin/lint-imports
	$(PYTHON) -m broker.api.openapi --check docs/openapi.json

bench: $(SETUP) ## Measure everything beside raw SQL and other libraries: about an hour.
	@$(PYTHON) -m benchmarks

bench-quick: $(SETUP) ## The same in under two minutes, with less to be believed.
	@$(PYTHON) -m benchmarks --quick

format: $(SETUP) ## Format the code and mend what the linter can.
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

# A name on the PATH may be a shim with nothing behind it, so each candidate must show what it is.
# Debian's Python has pip but no ensurepip until python3-venv is installed: its pip then fills the
# .venv from outside.
$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c '' 2>/dev/null || { \
	  for candidate in python3.13 python3.12 python3.11 python3 none; do \
	    $$candidate -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  done; \
	  if [ $$candidate = none ]; then \
	    echo "Fetchlock needs Python 3.11 or newer, and none is on the PATH." >&2; exit 1; \
	  fi; \
	  echo "Setting up .venv with $$candidate: a minute or two, once."; \
	  $$candidate -m venv --clear .venv >/dev/null 2>&1 || { \
	    $$candidate -m venv --clear --without-pip .venv && \
	    $$candidate -m pip --python $(PYTHON) install --quiet pip; \
	  } || { echo "$$candidate has neither ensurepip nor pip: install python3-venv." >&2; exit 1; }; \
	}
	@$(PYTHON) -m pip install --quiet --editable '.[dev]'
	@touch $@
