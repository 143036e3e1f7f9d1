# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
#
#   make demo    the whole way on a simulated drive, ends in demo/report.html
#   make test    the test suite
#   make lint    ruff and mypy
#   make setup   only the virtual environment
#   make clean   remove what make demo wrote (the environment stays)
#
# Variables: PYTHON (interpreter of the environment), VENV (its folder),
#   TORCH_INDEX (index to take torch AND torchvision from, for example PyTorch's CPU index),
#   PYTEST_ARGS (default: as many workers as processors).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?= -n auto
PY := $(VENV)/bin/python

# With ROS 2 sourced, its own rclpy is used instead of the wheels. Its messages were compiled against
# the distribution's numpy, which therefore stays; the newest pyarrow does not import with numpy 1.
HAVE_ROS := $(if $(ROS_DISTRO),$(shell $(PYTHON) -c 'import rclpy' 2>/dev/null && echo yes))
ifeq ($(HAVE_ROS),yes)
NUMPY := $(shell $(PYTHON) -c 'import numpy; print(numpy.__version__)')
EXTRAS := training
CONSTRAINTS := numpy==$(NUMPY) $(if $(filter 1.%,$(NUMPY)),'pyarrow<21')
else
EXTRAS := training,ros
CONSTRAINTS :=
endif

.PHONY: demo test test-fast lint format setup dev clean
.DEFAULT_GOAL := help

help:
	@sed -n '4,8s/^# *//p' Makefile

$(VENV)/.setup: setup.py Makefile
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	touch $(VENV)/COLCON_IGNORE
	$(PY) -m pip install --quiet --upgrade pip
	@# One index for the three: a CPU-only torch beside another index's torchvision breaks timm.
	$(PY) -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	$(PY) -m pip install --quiet -e '.[$(EXTRAS)]' $(CONSTRAINTS)
	touch $@

$(VENV)/.dev: $(VENV)/.setup
	$(PY) -m pip install --quiet -e '.[$(EXTRAS),dev]' $(CONSTRAINTS)
	touch $@

setup: $(VENV)/.setup

dev: $(VENV)/.dev

demo: setup
	$(PY) training/demo.py

test: dev
	$(PY) -m pytest $(PYTEST_ARGS)

test-fast: dev
	$(PY) -m pytest -m 'not slow' $(PYTEST_ARGS)

lint: dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf demo
