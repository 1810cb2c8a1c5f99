# make run    virtual environment, pinned requirements, the full pipeline
# make test   the same with the test extras, then all tests
# make run GPU=1 installs TensorFlow's GPU build; make run ARGS="--data DIR" passes options on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(if $(GPU),requirements-gpu.txt,requirements.txt)
PINS := requirements-base.txt constraints.txt pyproject.toml
ARGS ?=

.PHONY: run test test-fast lint notebook clean

run: $(VENV)/.installed
	$(BIN)/python main.py $(if $(ARGS),run $(ARGS))

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

notebook: $(VENV)/.installed-test
	$(BIN)/python research/run_notebook.py

clean:
	rm -rf artifacts logs

$(VENV)/.installed: $(REQUIREMENTS) $(PINS)
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 12), "Python 3.11 or 3.12 is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@
