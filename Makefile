# make demo | test | test-fast | check | clean. Everything is installed into .venv on first use.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-fast check clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
# A test compares with it. It requires opencv-python, whose files would overwrite those of
# opencv-python-headless, so it comes without its requirements, which are all there.
	$(VENV)/bin/pip install --quiet --no-deps vos-benchmark
	touch $@

demo: $(VENV)/.installed
	$(RUN) scripts/make_demo.py --output_dir output/demo

# Two at once, since most of the time goes into starting processes; one thread each.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow"

check: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(MAKE) test

clean:
	rm -rf $(VENV) output build *.egg-info

# MONAI Label: an environment of its own, since it wants older releases of what others use.
LABEL_VENV ?= .venv-label
STUDIES ?= studies
PORT ?= 8000
LABEL_CONF = MONAI_LABEL_TRACKING_ENABLED=false MONAI_LABEL_AUTO_UPDATE_SCORING=false

.PHONY: label-env label-serve label-test

label-env: $(LABEL_VENV)/.installed

# One of its requirements, unused here, has no wheel and would compile for CUDA in an environment with
# a second PyTorch: it is built in this one, without.
$(LABEL_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/pip install --quiet "setuptools>=77" wheel "torch==2.14.1" "torchvision==0.29.1"
	SAM2_BUILD_CUDA=0 $(LABEL_VENV)/bin/pip install --quiet --no-build-isolation \
	  --editable ".[label]" beartype "pytest>=9" pytest-timeout
	touch $@

label-serve: label-env
	$(LABEL_CONF) $(LABEL_VENV)/bin/python -m monailabel.main start_server --host 127.0.0.1 \
	  --port $(PORT) --app scripts/label_app --studies $(STUDIES)

label-test: label-env
	$(LABEL_VENV)/bin/python -m pytest -m label tests/test_label.py
