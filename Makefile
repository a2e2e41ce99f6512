# Everything here sets itself up: a virtual environment in .venv from requirements.lock. Needs Python >= 3.11 and make, nothing else.
# ARGS="..." is handed to the command a target runs; PYTHON=... chooses the interpreter .venv is made with.

.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# In one process more than there are cores, up to four, for some wait: each starts servers of its own. For one, ARGS="-n 0".
PARALLEL := -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1))) --maxprocesses 4 --dist worksteal

# The sources in this directory are installed editable; a PYTHONPATH or virtual environment of the caller's must not come before them.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Set up again only when what is installed, or how, has changed.
$(READY): requirements.lock pyproject.toml scripts/bootstrap
	@PYTHON="$(PYTHON)" scripts/bootstrap
	@touch $@

.PHONY: setup
setup: $(READY) ## make or update .venv (every other target does it by itself)

.PHONY: servers
servers: ## install the servers that tests need, where this is root on Debian and they are missing
	@scripts/servers

.PHONY: demo
demo: $(READY) ## run the main job on the embedded transport: stream a document to three live subscribers
	@$(BIN)/fanwire demo $(ARGS)

.PHONY: test
test: $(READY) servers ## run all tests, with branch coverage of core (at least 95 %)
	$(PYTEST) $(PARALLEL) --cov --cov-report=term $(ARGS)

.PHONY: test-fast
test-fast: $(READY) servers ## run the tests that take no seconds, without coverage (ARGS="-k hub")
	$(PYTEST) -m "not slow and not soak" $(ARGS)

.PHONY: test-wheel
test-wheel: $(READY) servers ## build the wheel, install it elsewhere and run the fast tests against it
	scripts/test-wheel $(ARGS)

.PHONY: soak
soak: $(READY) servers ## stress, ten minutes of it: the kit ten times at once on one server, thousands of drawn plans (ARGS="-k memory", FANWIRE_SOAK_SECONDS=600)
	$(PYTEST) -m soak --timeout 3600 -o faulthandler_timeout=0 $(ARGS)

.PHONY: coverage
coverage: $(READY) servers ## run all tests and write build/coverage/index.html
	$(PYTEST) $(PARALLEL) --cov --cov-report=term --cov-report=html

.PHONY: lint
lint: style typecheck architecture generated ## run every checker: style, typecheck, architecture, generated

.PHONY: style
style: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: typecheck
typecheck: $(READY) ## mypy strict and pyright strict
	$(BIN)/mypy
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python

.PHONY: architecture
architecture: $(READY) ## import-linter: arrows point down only
	$(BIN)/lint-imports

.PHONY: generated
generated: $(READY) ## check that the blocking façade is what the asynchronous one gives
	$(BIN)/python scripts/generate_blocking.py --check

.PHONY: generate
generate: $(READY) ## write the blocking façade anew, after a change of the asynchronous one
	$(BIN)/python scripts/generate_blocking.py

.PHONY: format
format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(READY) servers ## run the benchmarks, in process and over Redis, and write benchmarks/results/ (ARGS="redis --quick": a look at one)
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks redis)

.PHONY: docs
docs: $(READY) ## build the documentation into build/site, warnings as errors, and check every relative link
	$(BIN)/python scripts/check_links.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: docs-serve
docs-serve: $(READY) ## show the documentation at http://127.0.0.1:8000, built anew whenever it changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

.PHONY: lock
lock: $(READY) ## refresh requirements.lock after a change of pyproject.toml (ARGS=--upgrade: newest versions)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --all-extras --group dev $(ARGS) pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove .venv, build/ and all caches
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
