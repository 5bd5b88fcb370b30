# make demo | test | test-fast | test-floors | check | clean. Everything is installed into .venv on
# first use; PYTHON=python3.13 VENV=.venv313 takes another Python.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-fast test-floors check clean

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

# The same with the oldest release of each dependency that pyproject.toml allows, in an environment of
# its own. pip has no such option; uv only computes the list, so that both environments come from pip.
FLOOR_VENV ?= .venv-floors

$(FLOOR_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(FLOOR_VENV)
	$(FLOOR_VENV)/bin/pip install --quiet uv
	$(FLOOR_VENV)/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml \
	  --python $(FLOOR_VENV)/bin/python --output-file $(FLOOR_VENV)/floors.txt
	$(FLOOR_VENV)/bin/pip install --quiet --constraint $(FLOOR_VENV)/floors.txt --editable ".[dev]"
	$(FLOOR_VENV)/bin/pip install --quiet --no-deps vos-benchmark
	touch $@

test-floors: $(FLOOR_VENV)/.installed
	OMP_NUM_THREADS=1 $(FLOOR_VENV)/bin/python -m pytest -n 2 --dist worksteal

clean:
	rm -rf $(VENV) output build *.egg-info

# MONAI Label: an environment of its own, since it wants older releases of what others use.
LABEL_VENV ?= .venv-label
STUDIES ?= studies
PORT ?= 8000
ECHOCARDIOGRAM = pydicom/data/test_files/examples_ybr_color.dcm
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

# The environment's pydicom is too old to have the echocardiogram that one test sends.
label-test: label-env
	ECHOCARDIOGRAM="$(wildcard $(VENV)/lib/python*/site-packages/$(ECHOCARDIOGRAM))" \
	  $(LABEL_VENV)/bin/python -m pytest -m label tests/test_label.py
