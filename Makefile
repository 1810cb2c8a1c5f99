# make run    virtual environment, pinned packages, the full pipeline
# make test   the same with the test extras, the linters, then all tests with their coverage
# make app    the web app, from an environment of its own without TensorFlow
# make serve  the REST API, from the same environment
# make docs   the documentation, into site/
# make run GPU=1 installs TensorFlow's GPU build; make run ARGS="--data DIR" passes options on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE := .venv-serve
REQUIREMENTS := $(if $(GPU),requirements-gpu.txt,requirements.txt)
PINS := constraints.txt pyproject.toml
ARGS ?=
# A worker for each core; tests/conftest.py says which tests stay together. ARGS="-n 0" is one process, as plain pytest is.
WORKERS := -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

define make_environment
$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 12), "Python 3.11 or 3.12 is needed, this is " + sys.version'
$(PYTHON) -m venv $(1) || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
$(1)/bin/pip install --quiet --disable-pip-version-check -r $(2)
endef

.PHONY: run app serve test test-fast lint docs notebook clean

run: $(VENV)/.installed
	$(BIN)/python main.py $(if $(ARGS),run $(ARGS))

app: $(SERVE)/.installed
	$(SERVE)/bin/streamlit run st_app_predict.py $(ARGS)

serve: $(SERVE)/.installed
	$(SERVE)/bin/python main.py serve $(ARGS)

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=term $(ARGS)

test-fast: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebook: $(VENV)/.installed-test
	$(BIN)/python research/run_notebook.py

clean:
	rm -rf artifacts logs build site

$(VENV)/.installed: $(REQUIREMENTS) $(PINS)
	$(call make_environment,$(VENV),$(REQUIREMENTS))
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(SERVE)/.installed: requirements-serve.txt $(PINS)
	$(call make_environment,$(SERVE),requirements-serve.txt)
	touch $@
