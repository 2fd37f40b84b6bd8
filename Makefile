PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := --dataset-size 50000 --batch-size 1500 --steps 3400 --noise-multiplier 0.335 --clip-norm 20 --gap 0.15 --truncation 100 --delta 1e-5

.PHONY: run test bench reference clean

run: $(VENV)/run.done  ## price the paper's Resnet-20 run, and solve for the noise that epsilon 3 needs
	$(BIN)/mmaccount compare $(RUN)
	$(BIN)/mmaccount solve --for noise-multiplier --target-epsilon 3 $(RUN)

test: $(VENV)/test.done  ## lint, types, all quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(VENV)/test.done  ## time brackets against other accountants (about a minute)
	$(BIN)/python tests/bench/peers.py

reference: $(VENV)/test.done  ## make the 50-digit tables of tests/reference again (about 15 minutes)
	for script in tests/reference/make_*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/run.done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

# torch first and by exact version: opacus would pull a build with gigabytes of GPU libraries.
$(VENV)/test.done: $(VENV)/run.done
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
