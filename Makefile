# Everything a fresh machine needs is done here: `make demo`, `make test`. PYTHON names the interpreter (3.11 is tested).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint setup clean

setup: $(VENV)/.ready

# torch first and pinned: resolved by another package it would come with gigabytes of CUDA libraries. torchaudio's wheel
# links CUDA; beside a CPU-only torch its extension is set aside (src/ser_hf/torchaudio_cpu.py says why).
$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m ser_hf.torchaudio_cpu
	touch $@

demo: setup
	$(BIN)/python -m accelerate.commands.launch --num_processes 1 --mixed_precision no --num_machines 1 --dynamo_backend no \
		recipes/wav2vec2_cls.py --dataset demo --output_dir runs/demo --overwrite_output_dir true
	$(BIN)/python recipes/try_model.py runs/demo

test: setup
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 $(PYTEST)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs build *.egg-info src/*.egg-info
