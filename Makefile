# Two commands for a newcomer: `make demo` and `make test`. Each makes the environment first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PEERS := .venv-peers
PEERS_INSTALLED := $(PEERS)/.installed

SAEBENCH := .venv-saebench
SAEBENCH_INSTALLED := $(SAEBENCH)/.installed

.PHONY: demo test style check format notebooks bench bench-peers interop interop-evals interop-saebench torture clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## a model, text, a trained SAE and its measurements, from nothing
	$(BIN)/saelab assets fetch
	$(BIN)/saelab run configs/demo.yaml

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest

style: $(INSTALLED)  ## style, types, structure
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

check: style  ## what every commit passes: these and the fast tests
	$(BIN)/python -m pytest -q -m 'not slow'

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(INSTALLED)  ## execute the notebooks in full on the demo model, and store them with their outputs
	$(BIN)/saelab assets fetch
	$(BIN)/python -m tests.notebooks $(NOTEBOOKS)

bench: $(INSTALLED)  ## a training step beside its floors
	$(BIN)/saelab bench train

# torchvision, which a peer's dependencies bring, is built for another torch than the one for CPUs and breaks transformers.
$(PEERS_INSTALLED): tests/benchmarks/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	$(PEERS)/bin/pip uninstall --quiet --yes torchvision
	touch $@

bench-peers: $(INSTALLED) $(PEERS_INSTALLED)  ## saelab and its peers, alternately: speed, memory, what they learn
	$(BIN)/saelab assets fetch
	$(BIN)/saelab cache configs/demo.yaml
	PYTHONPATH=. $(PEERS)/bin/python -m tests.benchmarks $(BENCH_PEERS)

interop: $(PEERS_INSTALLED)  ## every format with the tool it is for: saelab's exports there, their SAEs here
	PYTHONPATH=. $(PEERS)/bin/python -m tests.interop_peers $(INTEROP)

RUN ?= runs/demo
interop-evals: $(INSTALLED) $(PEERS_INSTALLED)  ## SAELens' run_evals on RUN's SAE, beside saelab eval
	PYTHONPATH=. $(PEERS)/bin/python -m tests.interop_peers --evals $(RUN) --saelab $(BIN)/python $(INTEROP)

# SAEBench pins an older NumPy than its peers here.
$(SAEBENCH_INSTALLED): tests/interop_peers/saebench.txt
	$(PYTHON) -m venv $(SAEBENCH)
	$(SAEBENCH)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	$(SAEBENCH)/bin/pip uninstall --quiet --yes torchvision
	touch $@

interop-saebench: $(INSTALLED) $(SAEBENCH_INSTALLED)  ## SAEBench's core evaluation on RUN's SAE, beside saelab eval
	PYTHONPATH=. $(SAEBENCH)/bin/python -m tests.interop_peers --evals $(RUN) --by SAEBench --saelab $(BIN)/python $(INTEROP)

torture: $(INSTALLED)  ## kills at random moments; what is left alone afterwards must end as if nothing had been
	$(BIN)/python -m tests.torture $(TORTURE)

clean:
	rm -rf $(VENV) $(PEERS) $(SAEBENCH) build dist .pytest_cache .ruff_cache
