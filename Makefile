# `make demo` shows the system at work; `make test` is what CI runs. `make help` lists the rest.
# One profile (dev) serves tests, demo and everyday use, so nothing is compiled twice.

CARGO           ?= cargo
NEXTEST_VERSION ?= 0.9.143
NEXTEST_PROFILE ?= default
MODEL           ?= smollm2-135m
PYTHON          ?= python3
EXPERIMENT      ?= configs/experiments/quickstart.yaml
# More options of `influence run`, as in `make demo RUN_FLAGS=--fresh`.
RUN_FLAGS       ?=
# More options of a bench, as in `make bench-dispatch BENCH_FLAGS='--rate 2000 --json'`.
BENCH_FLAGS     ?=

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
INFLUENCE  := $(TARGET_DIR)/debug/influence

.DEFAULT_GOAL := help
# Seeds of `make chaos`: FROM..TO, the last not included.
SEEDS           ?= 0..100

.PHONY: help demo build model test tools fmt lint unit doctest chaos clients test-clients bench test-deploy bench-train bench-gpu bench-dispatch deny schemas clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Build, fetch the model, run the quickstart experiment, print its table.
	$(INFLUENCE) model fetch $(MODEL)
	$(INFLUENCE) run $(EXPERIMENT) $(RUN_FLAGS)

schemas: build ## Write docs/schemas/ anew: what editors need to check configuration files.
	for kind in experiment environment evaluation; do $(INFLUENCE) schema $$kind > docs/schemas/$$kind.json; done

build: ## Build the `influence` binary.
	$(CARGO) build --locked --bin influence

model: build ## Fetch the model of demo and tests into the user's cache folder.
	$(INFLUENCE) model fetch $(MODEL)

# In this order, cheapest first: a wrongly formatted file fails in a second, not after the build.
test: tools ## Everything CI checks: tools, format, clippy, all tests on the real model, doc tests.
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory doctest

tools:
	@NEXTEST_VERSION='$(NEXTEST_VERSION)' CARGO='$(CARGO)' .ci/tools

fmt: ## Format all Rust files.
	$(CARGO) fmt --all

lint: ## Check format and clippy; a warning is an error.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

# The test build makes the binary too: building it alone first would compile many dependencies twice, as tests turn on
# other features of theirs. Tests with the real model read its path from INFLUENCE_TEST_MODEL and fail without it.
unit: ## Run all tests but doc tests.
	$(CARGO) nextest run --no-run --locked --workspace
	model="$${INFLUENCE_TEST_MODEL:-$$($(INFLUENCE) model fetch $(MODEL) --print-path)}" && \
	INFLUENCE_TEST_MODEL="$$model" \
	  $(CARGO) nextest run --locked --workspace --profile $(NEXTEST_PROFILE)

doctest: ## Run the examples in the documentation of the library packages.
	$(CARGO) test --locked --workspace --doc

# They are installed from PyPI, into a Python environment among what is built.
CLIENTS := $(TARGET_DIR)/clients
$(CLIENTS)/installed: scripts/clients/requirements.txt
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --requirement $<
	touch $@

clients: $(CLIENTS)/installed ## Install what test-clients needs.

test-clients: build $(CLIENTS)/installed ## Try what others wrote: OpenAI's client, llama.cpp's server, readers of exports.
	model="$${INFLUENCE_TEST_MODEL:-$$($(INFLUENCE) model fetch $(MODEL) --print-path)}" && \
	  $(CLIENTS)/bin/python scripts/clients/openai_client.py --influence $(INFLUENCE) --model "$$model" && \
	  $(CLIENTS)/bin/python scripts/clients/exports.py --influence $(INFLUENCE) --model "$$model" && \
	  $(CLIENTS)/bin/python scripts/clients/llama_cpp_server.py --influence $(INFLUENCE) --model "$$model"

# The checkers of its files are installed from PyPI, beside what is built; docker, kubectl, promtool and shellcheck are the system's.
DEPLOYERS := $(TARGET_DIR)/deployers
$(DEPLOYERS)/installed: scripts/deploy/requirements.txt
	$(PYTHON) -m venv --clear $(DEPLOYERS)
	$(DEPLOYERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

deployers: $(DEPLOYERS)/installed ## Install what test-deploy needs.

test-deploy: build model $(DEPLOYERS)/installed ## Check deploy/, and bring its compose file up on a real Docker engine.
	$(DEPLOYERS)/bin/python scripts/deploy/files.py
	$(DEPLOYERS)/bin/python scripts/deploy/compose.py --influence $(INFLUENCE) --cache "$${INFLUENCE_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/influence}"

# Peers run in a Python with torch, transformers, gguf and llama-cpp-python: `make bench PYTHON=venv/bin/python`.
bench: model ## Measure the engine beside transformers and llama.cpp; takes a quarter of an hour.
	$(PYTHON) scripts/bench/run.py --model "$${INFLUENCE_TEST_MODEL:-$$($(INFLUENCE) model fetch $(MODEL) --print-path)}" $(BENCH_FLAGS)

# Its peer needs the package peft, too.
bench-train: model ## Measure a training step beside PEFT's.
	$(PYTHON) scripts/bench/train.py --model "$${INFLUENCE_TEST_MODEL:-$$($(INFLUENCE) model fetch $(MODEL) --print-path)}" $(BENCH_FLAGS)

# Needs a CUDA toolkit to build, and a Python with torch for the GPU, transformers, tokenizers and peft; no network, no weights.
bench-gpu: ## Measure the engine on an NVIDIA GPU beside transformers, on random models of real shapes.
	$(CARGO) bench --locked -p influence --features cuda --bench speed --no-run
	$(PYTHON) scripts/gpu/measure.py --bench "$$(ls -t $${CARGO_TARGET_DIR:-target}/release/deps/speed-* | grep -v '[.]d$$' | head -1)" $(BENCH_FLAGS)

# The profile `bench` is a release build: it compiles the coordinator and what it needs anew, without candle.
bench-dispatch: ## Measure the coordinator with 1,000 simulated workers; takes minutes.
	$(CARGO) bench --locked -p influence-coordinator --bench dispatch -- $(BENCH_FLAGS)

chaos: ## Kill and stop the processes of a cluster at random moments, for each of SEEDS=0..100.
	CHAOS_SEEDS=$(SEEDS) $(CARGO) test --locked --package influence --test chaos -- --nocapture

deny: ## Check licences and sources of all dependencies (needs cargo-deny, no network).
	$(CARGO) deny --offline check bans licenses sources

clean: ## Remove what was built. Runs, downloaded models and their caches stay.
	$(CARGO) clean
