# make demo | test | test-all | test-fast | test-floors | coverage | check | docs | dist | check-wheel |
# weights | clean. Everything is installed into .venv on first use; PYTHON=python3.13 VENV=.venv313 takes another
# Python.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-all test-heavy test-fast test-floors coverage check check-code docs dist check-wheel weights clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
# A test compares with it. It requires opencv-python, whose files would overwrite those of
# opencv-python-headless, so it comes without its requirements, which are all there.
	$(VENV)/bin/pip install --quiet --no-deps vos-benchmark
	touch $@

demo: $(VENV)/.installed
	$(RUN) scripts/demo/make_demo.py --output_dir output/demo

# Two at once, since most of the time goes into starting processes; one thread each. Compiled modules are
# kept, also where the environment says not to: else each process compiles the package anew.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

# Without what takes minutes: damaged files by the thousand, killed runs, full disks, whole trainings by
# command, a browser, the wheel.
test: $(VENV)/.installed
	$(PYTEST) -m "not heavy"

test-all: $(VENV)/.installed
	$(PYTEST)

test-heavy: $(VENV)/.installed
	$(PYTEST) -m heavy

test-fast: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow and not heavy"

# Which lines of the package the whole suite runs, in processes that it starts as well.
coverage: $(VENV)/.installed
	$(PYTEST) --cov --cov-report=term --cov-report=html:output/coverage

check-code: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

check: check-code
	$(MAKE) test-all

# The site of the documentation, in output/site; a link that leads nowhere fails.
docs: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable ".[docs]"
	$(RUN) -m mkdocs build --strict --quiet

# Wheel and source distribution, in DIST.
DIST ?= dist
BUILD_VENV ?= .venv-build
dist:
	$(PYTHON) -m venv $(BUILD_VENV)
	$(BUILD_VENV)/bin/pip install --quiet build
	$(BUILD_VENV)/bin/python -m build --outdir "$(DIST)"

# The wheel with what it says it needs, in an environment that has nothing else, used in an empty folder.
WHEEL_VENV ?= .venv-wheel
check-wheel: dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet "$$(ls -t "$(DIST)"/tcmn-*.whl | head -1)[annotate,fast]"
	$(WHEEL_VENV)/bin/pip check
	check="$$PWD/.ci/check_wheel.py" python="$$(realpath -s $(WHEEL_VENV))/bin/python"; \
	  folder="$$(mktemp -d)" && cd "$$folder" && env -u PYTHONPATH "$$python" "$$check" && rm -r "$$folder"

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

# The weights anew, in WEIGHTS; see docs/studies/training/README.md. Called again, it goes on where it was.
#   make weights DATA=folder_of_data_sets BACKBONES=folder_of_backbones OPTIONS="--batch_size 8"
DATA ?= data
BACKBONES ?= backbones
WEIGHTS ?= output/weights
OPTIONS ?=
# What the release has learned from: its scores on these say nothing about new videos.
SEEN = cvc_clinicdb camus_unseen camus_unseen_from_es davis_held_out davis_train_held_out vocal_folds \
  vocal_folds_held_out vos_extra selection
TRAINING = $(RUN) -W ignore -m monai.bundle run training --logging_file configs/logging.conf \
  --dataset_dir "$(DATA)"

weights: $(VENV)/.installed
	$(TRAINING) --config_file "['configs/train.yaml','configs/pretrain.yaml']" --val_interval 4 \
	  --network_def#backbone_weights "$(BACKBONES)/resnet50_imagenet_c4.pt" \
	  --network_def#mask_backbone_weights "$(BACKBONES)/resnet18_imagenet_c4.pt" \
	  --output_dir "$(WEIGHTS)/pretrain" $(OPTIONS)
	$(TRAINING) --config_file configs/train.yaml --initial_weights "$(WEIGHTS)/pretrain/best.pt" \
	  --epochs 19 --val_interval 10 --output_dir "$(WEIGHTS)/train" $(OPTIONS)
	$(RUN) scripts/dev/export_weights.py "$(WEIGHTS)/train.pt" "$(WEIGHTS)/train/last.pt"
	$(TRAINING) --config_file "['configs/train.yaml','configs/larger.yaml']" --epochs 8 \
	  --initial_weights "$(WEIGHTS)/train.pt" --output_dir "$(WEIGHTS)/larger" $(OPTIONS)
	$(RUN) scripts/dev/export_weights.py "$(WEIGHTS)/larger.pt" "$(WEIGHTS)/larger/last.pt"
	$(TRAINING) --config_file "['configs/train.yaml','configs/larger.yaml']" \
	  --initial_weights "$(WEIGHTS)/larger.pt" --output_dir "$(WEIGHTS)/longer" $(OPTIONS)
	$(RUN) scripts/dev/export_weights.py "$(WEIGHTS)/longer.pt" "$(WEIGHTS)/longer/last.pt"
	$(TRAINING) --config_file "['configs/train.yaml','configs/more_data.yaml']" \
	  --initial_weights "$(WEIGHTS)/longer.pt" --output_dir "$(WEIGHTS)/more_data" $(OPTIONS)
	$(RUN) scripts/dev/export_weights.py "$(WEIGHTS)/model_protocol.pt" "$(WEIGHTS)/more_data/last.pt"
	$(TRAINING) --config_file "['configs/train.yaml','configs/more_data.yaml','configs/release.yaml']" \
	  --initial_weights "$(WEIGHTS)/model_protocol.pt" --output_dir "$(WEIGHTS)/release" $(OPTIONS)
	$(RUN) scripts/dev/export_weights.py "$(WEIGHTS)/model.pt" "$(WEIGHTS)/release/last.pt" \
	  --seen $(SEEN)

clean:
	rm -rf $(VENV) output build dist

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
	$(LABEL_VENV)/bin/pip install --quiet "setuptools>=77" wheel hatchling editables \
	  "torch==2.14.1" "torchvision==0.29.1"
	SAM2_BUILD_CUDA=0 $(LABEL_VENV)/bin/pip install --quiet --no-build-isolation \
	  --editable ".[label]" beartype "pytest>=9" pytest-timeout
	touch $@

label-serve: label-env
	$(LABEL_CONF) $(LABEL_VENV)/bin/python -m monailabel.main start_server --host 127.0.0.1 \
	  --port $(PORT) --app scripts/label_app --studies $(STUDIES) $(OPTIONS)

# The environment's pydicom is too old to have the echocardiogram that one test sends.
label-test: label-env
	ECHOCARDIOGRAM="$(wildcard $(VENV)/lib/python*/site-packages/$(ECHOCARDIOGRAM))" \
	  $(LABEL_VENV)/bin/python -m pytest -m label tests/apps/test_label.py
