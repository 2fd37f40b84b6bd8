PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := --dataset-size 50000 --batch-size 1500 --steps 3400 --noise-multiplier 0.335 --clip-norm 20 --gap 0.15 --truncation 100 --delta 1e-5
DIGITS := --dataset-size 1437 --target-epsilon 3 --delta 1e-4 --epochs 40

CORE := tests/records tests/commands/test_core.py

.PHONY: run test core slow bench bench-gpu reference clean

run: $(VENV)/run.done  ## price the paper's run, solve for a noise, then probe, advise, train on handwritten digits, price what was spent, one page of it all
	$(BIN)/mmaccount compare $(RUN)
	$(BIN)/mmaccount solve --for noise-multiplier --target-epsilon 3 $(RUN)
	rm -rf runs/digits && mkdir -p runs
	$(BIN)/python -m trainer --probe runs/probe.npz --data digits
	$(BIN)/mmaccount advise $(DIGITS) --probe runs/probe.npz --out runs/digits.json --picture runs/advice.png
	$(BIN)/python -m trainer --plan runs/digits.json --data digits --checkpoint-every 10 --out runs/digits
	$(BIN)/mmaccount spent runs/digits/ledger.json
	$(BIN)/mmaccount report runs/digits --out runs/digits/report.html

test: $(VENV)/test.done core  ## lint, types, all quick tests; some with the newest and the lowest packages, without torch
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --ignore tests/commands/test_core.py

# Old packages warn beside new ones: there alone a warning is no error.
core: $(VENV)-newest/test.done $(VENV)-lowest/test.done  ## the core without torch, with the newest and the lowest versions
	rm -rf build
	$(VENV)-newest/bin/pip install --quiet --force-reinstall --no-deps .
	$(VENV)-lowest/bin/pip install --quiet --force-reinstall --no-deps .
	$(VENV)-newest/bin/pytest -q $(CORE) > $(VENV)-newest/tests.log 2>&1 & newest=$$!; \
	$(VENV)-lowest/bin/pytest -q -W default $(CORE); lowest=$$?; \
	wait $$newest; newest=$$?; cat $(VENV)-newest/tests.log; exit $$((newest + lowest))

slow: $(VENV)/test.done  ## the tests that take minutes each
	$(BIN)/pytest -m slow

bench: $(VENV)/test.done  ## time two-sided bounds and per-record gradients against others, accuracy on digits, linear on glyphs (minutes)
	$(BIN)/pip install --quiet --editable ".[bench]"
	$(BIN)/python tests/bench/peers.py
	$(BIN)/python -m trainer --bench --threads 1
	$(BIN)/python tests/bench/digits.py
	$(BIN)/python tests/bench/glyphs.py
	$(BIN)/python tests/bench/advice.py

bench-gpu:  ## time training on a GPU, then the headline runs; PYTHON needs this package, opacus and torch built for CUDA
	$(PYTHON) tests/bench/resnet.py runs/resnet --device cuda --gpu-all

reference: $(VENV)/test.done  ## make the 50-digit tables of tests/reference again (about 15 minutes)
	for script in tests/reference/make_*.py; do $(BIN)/python $$script || exit 1; done

# torch first and by exact version: anything else may pull a build with gigabytes of GPU libraries.
$(VENV)/run.done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[train]"
	touch $@

$(VENV)/test.done: $(VENV)/run.done
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

$(VENV)-newest/test.done: pyproject.toml
	test -x $(VENV)-newest/bin/python || $(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager ".[test-core]"
	touch $@

$(VENV)-lowest/test.done: pyproject.toml
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(PYTHON) tests/helpers/lowest.py > $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/pip install --quiet --constraint $(VENV)-lowest/lowest.txt ".[test-core]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lowest runs build dist *.egg-info
