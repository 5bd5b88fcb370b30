# make demo | test | test-fast | check | clean. Everything is installed into .venv on first use.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-fast check clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(RUN) scripts/make_demo.py --output_dir output/demo

test: $(VENV)/.installed
	$(RUN) -m pytest

test-fast: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow"

check: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(MAKE) test

clean:
	rm -rf $(VENV) output build *.egg-info
