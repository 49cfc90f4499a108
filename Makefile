# `make demo` (recording -> node -> picture), `make test`; where there is a GPU `make gpu`, `gpu-train`.
VENV ?= .venv
PYTHON ?= python3
# The torch build to install; set e.g. TORCH="torch --index-url ..." for a CUDA build.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

# For `make gpu`: a PYTHON that was asked for, else the environment here, else the system's.
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) python3),$(PYTHON))

.PHONY: demo test test-ros gpu gpu-train venv clean

demo: venv
	$(BIN)/steer_depth demo --out out/demo $(if $(FRAMES),--frames $(FRAMES)) $(if $(BAG),--bag $(BAG)) $(if $(PRESET),--preset $(PRESET))

test: venv
	$(BIN)/python -m pytest --cov --cov-report=term

# A colcon workspace of its own: builds, installed scripts, drivers of every QoS.
test-ros: venv
	$(BIN)/python -m pytest -rA --tb=short -q test/ros/workspace_checks.py

# Tests, compute-sanitizer and benchmarks on the GPU here, without a network; writes
# docs/benchmarks/gpu_NAME.json and .md. Needs nvcc, pytest, hypothesis and a torch with CUDA.
gpu:
	$(GPU_PYTHON) -m steer_depth_ros.benchmarks.gpu

# Nine minutes of training on the GPU here; the same command goes on where it stopped.
gpu-train:
	$(GPU_PYTHON) setup.py -q build_ext --inplace
	$(GPU_PYTHON) -m steer_depth_ros.cli train --config config/train/learned_gpu.yaml --minutes 9

venv: $(BIN)/.installed

$(BIN)/.installed: setup.py pyproject.toml $(wildcard csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[ros,train,test]'
	touch $@

clean:
	rm -rf build out $(VENV) *.egg-info steer_depth_ros/ops/*.so
