# Two commands do all: `make train` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRA ?= dev
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: train checkpoints bench test test-slow test-gpu test-oldest lint format clean

train: $(INSTALLED)  ## train the embedded default and show what it learnt
	$(BIN)/python train.py

checkpoints: $(INSTALLED)  ## train the models that ship, and replace those of checkpoints/
	rm -rf runs/checkpoints
	for name in bcos_vit_digits standard_vit_digits bcos_vit_shapes standard_vit_shapes; do \
		$(BIN)/python train.py model=$$name data=$${name##*_} output=runs/checkpoints/$$name || exit 1; \
		cp runs/checkpoints/$$name/model.safetensors checkpoints/$$name.safetensors; \
		cp runs/checkpoints/$$name/card.json checkpoints/$$name.json; \
	done

bench: $(INSTALLED)  ## what an explanation costs, into docs/benchmark.md and .json; minutes, on a quiet machine
	$(BIN)/python benchmarks/price.py

# One thread a process: several small tests at once are faster than one test on many threads.
test: $(INSTALLED)  ## everything but slow, at most 6 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## the rest: trainings, exports, kills
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m slow

# Elsewhere these are skipped. BCOS_VIT_TEST_DEVICE=cpu tries out the tests themselves, without a GPU.
test-gpu: $(INSTALLED)  ## what needs a GPU, less than 5 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m gpu tests/gpu

test-oldest:  ## what `make test` runs, with the oldest versions that pyproject.toml allows, on Python 3.11
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt EXTRA=test

lint: $(INSTALLED)  ## style, types, and the arrows of the floor plan
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e ".[$(EXTRA)]"
	touch $@
