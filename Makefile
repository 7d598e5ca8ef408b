# Needs python 3.11 to 3.13 and make; everything else comes from the Python package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GALLERY ?= default
HOST ?= 127.0.0.1
PORT ?= 8000

.PHONY: setup dev run test check audit bench proof soak faults fuzz lint fmt types contracts lock clean

setup: $(VENV)/.installed

dev: $(VENV)/.dev

$(VENV)/.installed: requirements/base.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "python 3.11 to 3.13 is needed; say PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/base.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

# Index a folder of people (or the sample people) and serve it.
run: setup
	$(BIN)/facesearch index "$(if $(IDENTITIES),$(IDENTITIES),$$($(BIN)/facesearch samples))" --gallery "$(GALLERY)"
	$(BIN)/facesearch serve --host "$(HOST)" --port "$(PORT)"

test: dev
	$(BIN)/python -m pytest

check: dev lint types contracts audit test

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

contracts: dev
	$(BIN)/lint-imports

# What bandit finds and nobody has explained. pip-audit, which asks the network, is not part of it.
audit: dev
	$(BIN)/bandit -q -r service indexer recognition migrations -c pyproject.toml

fmt: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Servers, writers and trouble for an hour, or SECONDS: no update may be lost.
soak: dev
	$(BIN)/python -m tests.freshness --seconds $(or $(SECONDS),3600)

# Hostile requests against a server, and hostile bytes for everything that reads files.
fuzz: dev
	$(BIN)/python -m fuzzing requests --requests $(or $(REQUESTS),100000)
	$(BIN)/python -m fuzzing readers --seconds $(or $(SECONDS),60)

# Kill, fill, cut and truncate, ROUNDS times each, and look what is left. As root also with disks that are full or read-only.
faults: dev
	$(BIN)/python -m tests.faults --rounds $(or $(ROUNDS),1) $(if $(ONLY),--only $(ONLY))

bench: dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.endtoend

# Compare what comes without weights with the reference, on seeded weights: some 20 minutes and 8 GB of packages.
proof: dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/keras.txt
	$(BIN)/python -m proof
	$(BIN)/python -m proof.retinaface
	$(BIN)/python -m proof.yolo

# Write the lock files anew: hashes, no index addresses. Needs uv.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/base.txt
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/dev.txt
	uv pip compile pyproject.toml --extra keras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/keras.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
