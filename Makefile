# make run    virtual environment, pinned requirements, the full pipeline
# make test   the same with the test extras, then all tests
# make app    the web app, from an environment of its own without TensorFlow
# make serve  the REST API, from the same environment
# make run GPU=1 installs TensorFlow's GPU build; make run ARGS="--data DIR" passes options on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE := .venv-serve
REQUIREMENTS := $(if $(GPU),requirements-gpu.txt,requirements.txt)
PINS := requirements-base.txt constraints.txt pyproject.toml
ARGS ?=

define make_environment
$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 12), "Python 3.11 or 3.12 is needed, this is " + sys.version'
$(PYTHON) -m venv $(1) || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
$(1)/bin/pip install --quiet --disable-pip-version-check -r $(2)
endef

.PHONY: run app serve test test-fast lint notebook clean

run: $(VENV)/.installed
	$(BIN)/python main.py $(if $(ARGS),run $(ARGS))

app: $(SERVE)/.installed
	$(SERVE)/bin/streamlit run st_app_predict.py $(ARGS)

serve: $(SERVE)/.installed
	$(SERVE)/bin/python main.py serve $(ARGS)

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
	$(call make_environment,$(VENV),$(REQUIREMENTS))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt requirements-serve.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(SERVE)/.installed: requirements-serve.txt constraints.txt
	$(call make_environment,$(SERVE),requirements-serve.txt)
	touch $@
