# make demo: install, see it work, and click in it until Ctrl-C. make test: install and run all checks. Both work on a
# fresh machine. make demo DEMO_ARGS=--no-serve ends by itself.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2
DEMO_ARGS ?=
PIP = $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
BIN = $(VENV)/bin
DEMO = .venv-demo

.PHONY: demo test lint clean

demo:
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip --quiet --disable-pip-version-check install '.[report,rules,serve]'
	$(DEMO)/bin/zhiyin demo $(DEMO_ARGS)

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --editable '.[test]'
	touch $@

clean:
	rm -rf .venv-demo demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
