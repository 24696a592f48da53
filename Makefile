# Remit. `make` alone says what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export TORCH_INDEX
export HF_HUB_OFFLINE = 1

.PHONY: help demo bench-retrieval bench-search test check chaos chaos-audit chaos-sync chaos-service soak drain fuzz setup setup-dev lint types contracts buf drift proto format clean

help: ## Say what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## See the product do its job on real files with real permissions (KEEP=1 keeps it running)
	@$(BIN)/python -m service.demo $(if $(KEEP),--keep)

test: setup-dev ## Run every test that this host can run
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

check: lint types contracts buf drift test ## Everything that CI runs

bench-retrieval: setup-dev ## Measure searching under permissions beside other systems (ARGS=--quick for minutes)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint deploy/constraints.txt --editable '.[bench]' --no-build-isolation
	@$(BIN)/python -m benchmarks.bench_retrieval $(ARGS)

bench-search: setup-dev ## Measure a whole service: latency, searches a second, overhead (two minutes)
	@$(BIN)/python -m benchmarks.end_to_end $(ARGS)

chaos: chaos-audit chaos-sync ## Break the audit log and syncs, 200 times each; writes the results

chaos-sync: setup-dev ## Break syncs: killed, full disks, sources that hang, lie, answer in part, vanish (ROUNDS=…)
	@$(BIN)/python -m tests.service.sync_chaos --rounds $(or $(ROUNDS),204) --report

chaos-audit: setup-dev ## Break the audit log of a service under load, 200 times (ROUNDS=…)
	@$(BIN)/python -m tests.service.audit_chaos --rounds $(or $(ROUNDS),200) --report

soak: setup-dev ## Change, load, kill and check a service for a while, and check all it told (SOAK_MINUTES=20)
	@$(BIN)/python -m tests.soak --minutes $(or $(SOAK_MINUTES),20) --report $(SOAK_ARGS)

chaos-service: setup-dev ## Kill a service under load and see what it left (KILLS=100)
	@$(BIN)/python -m tests.soak --kills $(or $(KILLS),100) --report $(SOAK_ARGS)

fuzz: setup-dev ## Give every parser of outside bytes 20,000 damaged inputs each (FUZZ_ARGS="-k settings")
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/fuzz tests/acl/test_bad_input.py --timeout 3600 $(FUZZ_ARGS)

drain: setup-dev ## Stop and start a service under load, 20 times (ROUNDS=…)
	@$(BIN)/python -m tests.service.drain_rounds --rounds $(or $(ROUNDS),20) --report

setup: ## Install Remit into $(VENV)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" deploy/venv.sh

setup-dev:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" deploy/venv.sh dev

lint: setup-dev ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup-dev ## Check types
	@$(BIN)/mypy

contracts: setup-dev ## Check who may import whom
	@$(BIN)/lint-imports

buf: ## Lint the API and look for breaking changes (needs Node)
	@deploy/buf.sh

drift: setup-dev ## Check that the generated code matches the .proto files
	@$(BIN)/python deploy/generate.py --check

proto: setup-dev ## Generate the code from the .proto files
	@$(BIN)/python deploy/generate.py

format: setup-dev ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache node_modules
