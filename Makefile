# `make demo` and `make test` work on a fresh machine with Python and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint grid gallery

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python tools/demo.py

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

# The picture grid of the README.
grid: install
	$(BIN)/python tools/grid.py

# Contact sheets of every application, docs/gallery.
gallery: install
	$(BIN)/python tools/gallery.py
