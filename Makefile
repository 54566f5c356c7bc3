# The two commands to know: `make demo` trains, evaluates and draws; `make test` runs the tests. Both make .venv first.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
DEMO    = data/demo
RUN     = runs/demo
DEMO_SETTINGS =
PEER    = .venv-peer
MEDIAPIPE  = .venv-mediapipe
EXECUTORCH = .venv-executorch
# Tests compare with PyPI's effdet 0.4.1 where `make peer-env` has been run, or where EFFDET_PEER_PYTHON names an
# interpreter that has it. An empty value is the same as none.
ifeq ($(strip $(EFFDET_PEER_PYTHON)),)
  EFFDET_PEER_PYTHON := $(abspath $(wildcard $(PEER)/bin/python))
endif
ifneq ($(strip $(EFFDET_PEER_PYTHON)),)
  export EFFDET_PEER_PYTHON
endif

ifeq ($(strip $(EFFDET_MEDIAPIPE_PYTHON)),)
  EFFDET_MEDIAPIPE_PYTHON := $(abspath $(wildcard $(MEDIAPIPE)/bin/python))
endif
ifneq ($(strip $(EFFDET_MEDIAPIPE_PYTHON)),)
  export EFFDET_MEDIAPIPE_PYTHON
endif

SITE = site

.PHONY: demo docs model-table env peer-env mediapipe-env executorch-env test-executorch test test-fast test-outside test-sweeps fuzz gpu-check runtime-speed parity lint format types package clean

demo: env
	$(BIN)/python tools/data.py demo --root $(DEMO)
	rm -rf $(RUN)
	$(BIN)/python tools/train.py configs/demo.yaml $(DEMO_SETTINGS)
	$(BIN)/python tools/evaluate.py --weights $(RUN)/best.safetensors --data $(DEMO)
	$(BIN)/python tools/predict.py --weights $(RUN)/best.safetensors $(DEMO)/images/val_00000.jpg --out $(RUN)/pictures

env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev,lite-weights,fast-eval,logging,video,deploy,edge,split,search,large,remote,tiff,report,wandb,mlflow,app,docs]'
	# tidecv, which tests compare with, asks for an OpenCV that would overwrite ours.
	$(BIN)/python -m pip install --quiet --no-deps tidecv==1.0.1 appdirs==1.4.4
	touch $@

# PyPI's effdet has our import name, so it lives in an environment of its own; what it imports it shares with ours.
peer-env: $(PEER)/.installed

$(PEER)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --no-deps effdet==0.4.1
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(PEER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(PEER)/bin/python -I -W ignore -c 'import importlib.metadata as m, effdet; assert m.version("effdet") == "0.4.1", m.version("effdet")'
	touch $@

# MediaPipe brings an OpenCV of its own, which would overwrite ours. It also needs Debian's libegl1 and libgles2.
mediapipe-env: $(MEDIAPIPE)/.installed

$(MEDIAPIPE)/.installed:
	$(PYTHON) -m venv $(MEDIAPIPE)
	$(MEDIAPIPE)/bin/python -m pip install --quiet mediapipe==1.2.3
	$(MEDIAPIPE)/bin/python -c 'import mediapipe.tasks.python.vision'
	touch $@

# ExecuTorch wants OmegaConf 2.3 and brings coremltools; the rest is shared with our environment.
executorch-env: $(EXECUTORCH)/.installed

$(EXECUTORCH)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(EXECUTORCH)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(EXECUTORCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(EXECUTORCH)/bin/python -m pip install --quiet executorch==1.5.1 coremltools==9.0
	touch $@

# The tests that need ExecuTorch or coremltools.
test-executorch: executorch-env
	$(EXECUTORCH)/bin/python -m pytest -n auto --dist loadfile tests/deployment/test_executorch.py tests/deployment/test_coreml.py

# The runtimes of exported files side by side, as in docs/measurements/performance.md; the exports, which take long, are kept.
RUNTIMES = onnxruntime openvino litert executorch openvino-int8 litert-int8
SPEED = $(EXECUTORCH)/bin/python tools/benchmark.py network --no-peak --classes 3 --repeats 5 --steps 6 --keep runs/runtime-speed

runtime-speed: executorch-env
	for threads in 1 2; do \
		$(SPEED) --variant lite0 lite1 lite2 lite3 lite4 --runtime $(RUNTIMES) executorch-int8 --threads $$threads && \
		$(SPEED) --variant d0 --runtime $(RUNTIMES) --threads $$threads || exit 1; done

parity: env peer-env
	EFFDET_PEER_PYTHON=$(abspath $(PEER)/bin/python) $(BIN)/python tests/peer/parity.py --table docs/measurements/parity.md

test: env
	$(BIN)/python -m pytest -n auto

# The site, into site/. Fails where a link is broken or a public name has no page.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir $(SITE)

# The table of all models in docs/how-to/choosing_a_model.md.
model-table: env
	PYTHONPATH=tools $(BIN)/python -m site_pages.model_table

# The tests that need what a clone does not hold: the peer's environment and ../shared/data.
test-outside: env
	$(BIN)/python -m pytest -n auto -m 'outside and not sweep'

# Checks over many cases: all exported backbones, all published models as TFLite, several processes that share a search.
test-sweeps: env
	$(BIN)/python -m pytest -n auto -m sweep

# On a machine with a GPU: checks and measurements in a few minutes; run it again to go on where it stopped.
gpu-check: env
	$(BIN)/python tools/gpu_check --json gpu.json

# Give COUNT damaged and hostile files to all readers; the next call goes on where this one stopped.
COUNT ?= 10000
fuzz: env
	$(BIN)/python tools/fuzz --count $(COUNT) --state fuzz-state.json

test-fast: env
	$(BIN)/python -m pytest -n auto -m 'not slow and not outside'

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env
	$(BIN)/mypy

# Build sdist and wheel, install the wheel outside the clone, then train, evaluate, export and predict there.
package: env
	.ci/check-package $(BIN)/python

clean:
	rm -rf $(VENV) $(PEER) $(MEDIAPIPE) $(EXECUTORCH) .pytest_cache .mypy_cache .ruff_cache build dist site *.egg-info
