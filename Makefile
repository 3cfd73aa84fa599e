# Everything this needs is set up by itself, on Debian and Ubuntu; scripts/lib.sh says what and where.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down status image test test-vagrant verify lint bench mirror lock docs

# Ports of the sandbox on 127.0.0.1.
DASHBOARD_PORT ?= 8501
SPARK_UI_PORT ?= 8080
KAFKA_PORT ?= 9092
CQL_PORT ?= 9042
SSH_PORT ?= 2222
# Where prices come from: simulator or coinlore.
MARKET ?= simulator
# How Kafka's brokers agree: kraft or zookeeper.
KAFKA_MODE ?= kraft
# One scenario for `make test` (default: all of molecule/).
SCENARIO ?=
# Anything: leave that scenario's host for `make verify`.
KEEP ?=
# Downloads, tools and the image's packages.
CRYPTO_STREAM_CACHE ?= $(HOME)/.cache/crypto-stream
export DASHBOARD_PORT SPARK_UI_PORT KAFKA_PORT CQL_PORT SSH_PORT MARKET KAFKA_MODE SCENARIO KEEP CRYPTO_STREAM_CACHE

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  variables: MARKET=coinlore KAFKA_MODE=zookeeper SCENARIO=default KEEP=1 DASHBOARD_PORT SPARK_UI_PORT KAFKA_PORT CQL_PORT SSH_PORT CRYPTO_STREAM_CACHE'

up: ## Bring the whole stack up in the sandbox and print where to look
	@scripts/up.sh

down: ## Remove the sandbox, with its data
	@scripts/down.sh

status: ## Show whether data is flowing, and every unit
	@scripts/status.sh

image: ## Make an OCI image of the stack
	@scripts/image.sh

test: ## Run lint, the unit tests and the molecule scenarios
	@scripts/test.sh

test-vagrant: ## Bring a virtual machine up, use it, halt it and bring it back (libvirt; an hour and a half without a hypervisor)
	@scripts/test-vagrant.sh

verify: ## Run the tests of SCENARIO once more on the host that KEEP=1 left
	@MOLECULE_COMMAND_BORDERS=false scripts/run.sh dev molecule verify --scenario-name $(or $(SCENARIO),default)

lint: ## Run every linter
	@scripts/lint.sh

bench: ## Measure the running sandbox and write bench.json (55 minutes)
	@scripts/bench.sh

mirror: ## Fill the artifact mirror in the cache
	@scripts/mirror.sh

lock: ## Write locks/ anew from pyproject.toml
	@scripts/lock.sh

docs: ## Write docs/variables.md anew from the roles
	@scripts/run.sh dev python scripts/variables.py
