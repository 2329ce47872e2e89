# Every target sets up what it needs: `make demo` works in a fresh checkout.
#
#   make demo           real programs in Glasskernel, one screen after another
#   make test           lint, then all tests
#   make lint           ruff, mypy, import layers, coverage table
#   make fix            let ruff repair what it can (import order, old syntax)
#   make coverage       what the kernel covers, as a table
#   make conformance    CPython's tests, stress-ng and many schedules; writes docs/conformance.md
#   make bench          the speed figures
#   make fidelity       call graphs and call chains against Linux's; writes docs/fidelity.md
#   make venv           only the Python environment
#
# PYTHON=python3.12 VENV=/tmp/v312   another Python, in an environment of its own
# APT=no                             do not look for missing Debian packages
# JOBS=4                             parallel test processes
# ARGS="-k pipe -x"                  more arguments for pytest or the benchmarks

PYTHON ?= python3.11
VENV ?= .venv
APT ?= yes
JOBS ?= 2
ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help venv test-deps demo test lint fix coverage conformance bench fidelity

help:
	@sed -n 's/^#   //p' Makefile

venv: $(VENV)/.stamp

# The first of these that is new enough; "python3.11" may be a pyenv shim that does not run.
# pip runs again only when pyproject.toml changed; a half-made environment has no stamp.
$(VENV)/.stamp: pyproject.toml
	@set -e; \
	for python in "$(PYTHON)" python3 python3.13 python3.12; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "Glasskernel needs Python >= 3.11: set PYTHON=..." >&2; exit 1; }; \
	[ -x $(PY) ] && $(PY) -m pip --version >/dev/null 2>&1 || { \
	    echo "== making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); }; \
	echo "== installing Python packages"; \
	$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'; \
	touch $@

# Once for each change of the list. Asking dpkg is all that happens when nothing is missing.
test-deps: $(if $(filter no,$(APT)),,$(VENV)/.test-deps)

$(VENV)/.test-deps: tests/apt-packages.txt scripts/install-test-deps | $(VENV)/.stamp
	@scripts/install-test-deps || { echo "(APT=no goes on without; tests that miss a program are skipped)"; exit 1; }
	@touch $@

# The programs come from the host's own system directories. What is missing and cannot be
# installed makes demo.sh leave out a section, so this may fail.
DEMO_PACKAGES := bash coreutils gawk gcc grep gzip libc6-dev procps python3 sed tar

demo: venv
	@[ $(APT) = no ] || scripts/install-test-deps $(DEMO_PACKAGES) || true
	@$(BIN)/glasskernel run --share scripts:/mnt -- bash /mnt/demo.sh

test: lint test-deps
	@echo "== tests"
	@$(PY) -m pytest -q -n $(JOBS) $(ARGS)

lint: venv
	@echo "== lint"
	@$(BIN)/ruff check -q --output-format=concise .
	@$(BIN)/mypy --no-error-summary
	@$(PY) scripts/check_layers.py
	@$(PY) scripts/coverage.py --check

# No formatter: it would undo the aligned comments that make field lists and tables readable.
fix: venv
	@$(BIN)/ruff check -q --fix --output-format=concise .

coverage: venv
	@$(PY) scripts/coverage.py

conformance: venv test-deps
	@$(PY) -m tests.conformance -j $(JOBS) $(ARGS)

bench: venv test-deps
	@$(PY) -m benchmarks $(ARGS)

fidelity: venv test-deps
	@$(PY) scripts/fidelity.py $(ARGS)
