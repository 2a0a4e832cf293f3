# make demo: install, see it work, and click in it until Ctrl-C. make test: install and run all checks. Both work on a
# fresh machine. make demo DEMO_ARGS=--no-serve ends by itself. make test-fast leaves out what takes seconds.
# make coverage runs the tests and prints which lines and branches none of them reaches. make flink makes the environment
# of Apache Flink, without which tests of streams skip. docs/testing.md says more.
PYTHON ?= python3
VENV ?= .venv
FLINK ?= .venv-flink
PYTEST_ARGS ?= -n 2 --dist worksteal
ENGINE_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?=
PIP = $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
BIN = $(VENV)/bin
DEMO = .venv-demo

.PHONY: demo test test-fast coverage lint flink clean

demo:
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip --quiet --disable-pip-version-check install '.[client,report,rules,serve]'
	$(DEMO)/bin/zhiyin demo $(DEMO_ARGS)

# Tests of engines have processes of their own, whose machine of Java and threads no other test has beside it; a file, and
# what its tests share, is of one of them.
test: $(VENV)/.installed lint
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/engines
	$(BIN)/python -m pytest tests/engines $(ENGINE_ARGS)

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/engines -m "not slow" --hypothesis-profile fast
	$(BIN)/python -m pytest tests/engines -m "not slow" --hypothesis-profile fast

coverage: $(VENV)/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An environment of its own: Flink pins versions of numpy and pyarrow that are older than ours. See docs/dependencies.md.
flink: $(FLINK)/.installed

$(FLINK)/.installed:
	test -x $(FLINK)/bin/python || $(PYTHON) -m venv $(FLINK)
	$(FLINK)/bin/python -m pip --quiet --disable-pip-version-check install 'apache-flink==2.3.*'
	touch $@

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --editable '.[test]'
	touch $@

clean:
	rm -rf .coverage .coverage.* .venv-demo demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
