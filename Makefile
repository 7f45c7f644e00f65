# Two commands for a newcomer: `make demo` and `make test`. Each makes the environment first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format bench clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## a model, text, a trained SAE and its measurements, from nothing
	$(BIN)/saelab assets fetch
	$(BIN)/saelab run configs/demo.yaml

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## what every commit passes: style, types, structure, fast tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m 'not slow'

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## a training step beside its floors
	$(BIN)/saelab bench train

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
