# The menu of the repository. On a fresh machine `make demo` and `make test` do all the set-up themselves.
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv

.PHONY: help demo test check bench campaign clean

help:
	@echo "make demo      install, boot the simulation, fly the showpiece, say where everything is"
	@echo "make test      install and run every test (at most 15 minutes on 2 cores)"
	@echo "make check     format, lint, types, import floors"
	@echo "make bench     the benchmarks, each with its goal and its peer"
	@echo "make campaign  the full counts: ten seeds, killed kernels, 500 kills of the bare kernel (an hour)"
	@echo "make clean     remove the virtual environment and what tools left behind"

$(UV):
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.demo: $(UV) pyproject.toml constraints.txt
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(UV) pyproject.toml constraints.txt
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(PY) examples/demo.py

test: $(VENV)/.dev
	$(PY) -m pytest

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check src tests examples benchmarks
	$(VENV)/bin/ruff check src tests examples benchmarks
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.dev
	$(PY) -m benchmarks

campaign: $(VENV)/.dev
	$(PY) -m benchmarks.survey seeds --count 10
	$(PY) -m benchmarks.survey kills --count 20
	QAIOS_CRASHES=500 $(PY) -m pytest tests/kernel/test_crash.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
