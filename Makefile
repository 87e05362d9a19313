# Every target first makes .venv ready (infra/bootstrap.py), which takes no time when nothing has changed.
PYTHON ?= python3
BIN := .venv/bin
TASK ?= denoising
BENCH ?= $(sort $(wildcard bench/*.py))
QUICK := $(if $(filter undefined,$(origin ARGS)),--quick,$(ARGS))

.DEFAULT_GOAL := help
.PHONY: help setup demo test servers lint types docs bench clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." adds options; PYTHON=python3.12 picks the Python that .venv is made with'

setup:  ## make .venv ready
	@$(PYTHON) infra/bootstrap.py

demo: setup  ## make a language model's recorded decisions again, live but for them: no key, no GPU, no server
	$(BIN)/sia run $(TASK) --agent recorded $(ARGS)

test: setup  ## run the tests (ARGS="-m slow" for the slow ones)
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

servers: setup  ## install real model servers in environments of their own and test against them (SERVERS="vllm" for some)
	$(BIN)/python -m tests.servers.environments $(SERVERS)
	$(BIN)/pytest -m servers $(if $(SERVERS),$(patsubst %,tests/servers/test_%.py,$(SERVERS)),tests/servers) $(ARGS)

lint: setup  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## check types
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard bench/*.py)

docs: setup  ## build the documentation's site into build/site; any warning is an error
	$(BIN)/python -m infra.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup  ## run the benchmarks, shortened: make bench BENCH=bench/sandbox.py for one, ARGS= for whole ones
	@set -e; for file in $(BENCH); do echo "== $$file"; $(BIN)/python -m bench.$$(basename $$file .py) $(QUICK); done

clean:  ## remove .venv and caches; runs and models under ~/.sia stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
