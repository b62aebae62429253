# `make demo` and `make test` work on a fresh machine with Python and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test floors lint readme goldens long grid gallery photos examples ui-pictures reference bench bench-check ptx

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python tools/demo.py

test: install lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests of the runtime with the lowest versions of its dependencies, which Python 3.10 has.
FLOOR_PYTHON ?= python3.10
floors:
	$(FLOOR_PYTHON) tools/floors.py .venv/floors

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

# The examples of the README and the pages as written, in order, in one folder; `make test` only parses them.
readme: install
	$(BIN)/python -m pytest -m readme tests/runtime/test_documented_commands.py

# Every golden of the family on networks of published widths, and every checkpoint from its file to engines.
goldens: install
	$(BIN)/python -m pytest -m "goldens or slow" tests/train/networks/test_family.py tests/export/test_family_goldens.py

# Tests that take minutes, crowds and kills at psp serve above all. `make test` leaves them out.
long: install
	$(BIN)/python -m pytest -m long -s

# The six tasks on the README, docs/tasks.png, and faces with their inversions, docs/inversion.png.
grid: install
	$(BIN)/python tools/grid.py

# Contact sheets of every application, docs/gallery.
gallery: install
	$(BIN)/python tools/gallery.py

# Whole photos before and after, docs/photos.
photos: install
	$(BIN)/python tools/photos.py

# What the web demo can be tried on, psp_runtime/ui/examples.
examples: install
	PYTHONPATH=tools $(BIN)/python tools/web_demo/examples.py

# The web demo in a browser, docs/ui. Needs Chromium.
ui-pictures: install
	$(BIN)/python tools/web_demo/pictures.py

# The reference of the Python API and of the commands, docs/reference.
reference: install
	$(BIN)/python tools/reference.py

# Measure this machine, the baseline on OpenVINO and torch.compile included, into benchmarks/results, and put what was measured into README.md and docs/speed.md, charts included.
bench: install
	$(BIN)/python benchmarks/latency.py --peers --json benchmarks/results
	$(BIN)/python benchmarks/table.py

# The same measurement against the last stored one of this kind of machine: exit code 1 where a ratio fell.
bench-check: install
	$(BIN)/python benchmarks/regression.py

# The compiled CUDA kernels, from the compiler of CUDA 12.1 (drivers since 2023 read what it writes). No GPU needed.
ptx: install
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --upgrade --target build/nvrtc nvidia-cuda-nvrtc-cu12==12.1.105
	$(BIN)/python -m psp_runtime.kernels.ptx --nvrtc build/nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12
