# trunkline. `make serve` sets everything up and starts the server; `make help` lists the rest.
# PYTHON=/path/to/python3 chooses the Python, ARGS="..." is passed on to the program a target runs.

set_up := @sh scripts/python.sh -m scripts.set_up
run := @exec .venv/bin

.DEFAULT_GOAL := help
targets := help install serve test test-slow test-clients test-open-webui bench bench-peers lint format lock clean
.PHONY: $(targets)

# Before anything is done: `make serve my_agent.py:agent` would serve without the agent, and say so when the server has ended.
unknown := $(filter-out $(targets),$(MAKECMDGOALS))
ifneq ($(unknown),)
$(error make knows no target $(unknown), see make help; arguments are given as ARGS="$(unknown)")
endif

help:
	@echo 'make serve       set up what is missing and start the server   ARGS="my_agent.py:agent --port 0"'
	@echo 'make install     set up alone; the program is .venv/bin/trunkline'
	@echo 'make test        every test                                    ARGS="-k stream"'
	@echo 'make test-slow   the long suites'
	@echo 'make test-clients  agent frameworks and command lines, installed for it (2 GB)'
	@echo 'make test-open-webui  the chat UI in front, installed for it (7.5 GB)'
	@echo 'make bench       CPU cost per request and per streamed event'
	@echo 'make bench-peers  other gateways to compare with, installed for it (1.5 GB)'
	@echo 'make lint        formatting, lint, types, layers'
	@echo 'make format      format the code and fix what can be fixed'
	@echo 'make lock        write requirements/ anew from pyproject.toml   ARGS="--upgrade"'
	@echo 'make clean       remove everything that make has made'

install:
	$(set_up) install

serve:
	$(set_up) serve
	$(run)/trunkline serve $(ARGS)

test:
	$(set_up) test
	$(run)/python -m pytest $(ARGS)

test-slow:
	$(set_up) test
	$(run)/python -m pytest -m slow $(ARGS)

test-clients:
	$(set_up) test
	$(run)/python -m tests.clients.install
	$(run)/python -m pytest -m clients $(ARGS) tests/clients

test-open-webui:
	$(set_up) test
	$(run)/python -m tests.clients.install open_webui
	$(run)/python -m pytest -m clients $(ARGS) tests/clients/test_open_webui.py

bench:
	$(set_up) bench
	$(run)/python -m bench $(ARGS)

bench-peers:
	$(set_up) bench
	$(run)/python -m bench.peers $(ARGS)

lint:
	$(set_up) lint
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

format:
	$(set_up) lint
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

lock:
	$(set_up) lock
	$(run)/python -m scripts.lock $(ARGS)

clean:
	@rm -rf .venv .venv-clients* tests/sdk/node/node_modules tests/clients/*/node_modules .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
