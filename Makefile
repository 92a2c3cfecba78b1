# One command for each thing a developer does. `make` alone lists them.
#
# Every target sets up what it needs: the environment is made again whenever
# pyproject.toml or constraints.txt has changed, and left alone otherwise.

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Which Python makes the environment: 3.11, whatever it is called here.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

# Where the torch wheel comes from: arguments added to `pip install`.
#
# On Linux the torch of a public package index is the CUDA build, which brings several
# gigabytes of CUDA packages. Nothing here needs them: the tests and the demo run on the
# CPU. The CPU build is the same version from another place (PyTorch's install page names
# the index), or a wheel that you have:
#
#     make test TORCH_SOURCE="--extra-index-url ADDRESS_OF_A_CPU_WHEEL_INDEX"
#     make test TORCH_SOURCE="--find-links FOLDER_WITH_A_CPU_WHEEL"
#
# Left empty, pip decides by its own configuration.
TORCH_SOURCE ?=

# Every folder with Python in it.
CODE := client common server simulations tests benchmarks

# Extra arguments for pytest: make test ARGS="tests/common -k console".
ARGS ?=

# How long make fuzz goes on.
SECONDS ?= 3600

# No process of ours phones home; Flower and Ray do unless they are told not to.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

# Else the tests and each process that they start compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo demo-network test test-all coverage siege fuzz golden lint format types stubs bench cuda mutants docs pages constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## make the environment (every target below does it for you)

$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "error: Consilium is tested on Python 3.11"; \
	  echo "  found:  $$("$(PYTHON)" --version 2>&1)"; \
	  echo "  do:     install Python 3.11, or name it: make PYTHON=/path/to/python3.11"; \
	  exit 2; } >&2
	@echo "Making the environment in $(VENV); the first time takes a few minutes."
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_SOURCE) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## four made-up hospitals train one shared model; the report is runs/demo/report.html
	$(BIN)/consilium-sim demo --out runs/demo

demo-network: $(INSTALLED) ## a coordinator and three hospitals over TLS, one study, and the same simulated
	$(BIN)/consilium-sim network --out runs/network

# A file's tests share what is expensive to make, so a file stays with one process. Integration
# tests are collected first (tests/conftest.py) and must stay first: each keeps a processor busy
# for long.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED) ## run the tests but for the long ones; ARGS="..." goes to pytest
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(INSTALLED) ## run all tests
	$(PYTEST) $(ARGS)

# Slower than test-all: every process of every test counts its lines.
coverage: $(INSTALLED) ## run all tests and show which lines none of them reaches
	$(PYTEST) --cov --cov-report=term $(ARGS)

siege: $(INSTALLED) ## ten minutes of a dishonest coordinator, hospital and stranger against real daemons
	$(BIN)/python -m tests.siege $(ARGS)

golden: $(INSTALLED) ## four shipped studies end in the same weights as before; MEDMNIST=FOLDER for two of them
	$(BIN)/python -m tests.golden $(ARGS)

# Settings and every exception with its reason: pyproject.toml. Those of proselint, whose file
# takes no comments: typography is for print (the documents hold commands and code), words that
# are repeated across a line of a drawing or a heading are no fault, and neither is "very".
lint: $(INSTALLED) ## check style, formatting, dependencies, dead code, spelling and the documents' English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/codespell *.md docs $(CODE) docker systemd Makefile pyproject.toml
	$(BIN)/proselint check *.md docs

format: $(INSTALLED) ## correct what a tool can correct of style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## check types
	$(BIN)/mypy --strict

stubs: $(INSTALLED) ## write the Python of the control services from their protos
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	  common/control/*.proto

bench: $(INSTALLED) ## run the benchmarks, or one of them: make bench NAME=foo
	$(BIN)/python -m benchmarks $(NAME)

# Not in CI: it needs a card. It writes benchmarks/results/cuda.json and docs/cuda.md.
cuda: $(INSTALLED) ## tests, probe and benchmark on this machine's graphics card, with a page of results
	$(BIN)/python -m benchmarks.card $(ARGS)

fuzz: $(INSTALLED) ## an hour of changed files and messages against every reader; SECONDS=60 ARGS="--seed N dicom"
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

# Hours for all of them. Not in CI: see CONTRIBUTING.md.
mutants: $(INSTALLED) ## change a module in one place after another; which change does no test notice? NAME=client/records/ledger ARGS="--sample 0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutants]'
	nice $(BIN)/python -m tests.mutants $(NAME) $(ARGS)

images: ## run each image's steps in a fresh environment, where no image can be built
	PYTHON="$(PYTHON)" TORCH_SOURCE="$(TORCH_SOURCE)" docker/check.sh

pages: $(INSTALLED) ## write the pages "What went wrong" from the errors in the code, and docs/dicom.md
	$(BIN)/python -m tests.error_pages
	$(BIN)/python -m tests.dicom_files

docs: $(INSTALLED) ## build the API pages into docs/api
	rm -rf docs/api
	$(BIN)/pdoc --docformat google --output-directory docs/api client common server simulations

# The lines above the first blank one stay. Freezing a fresh environment gives the first
# block; the second, which a CPU wheel does not install, is what resolving torch adds.
constraints: ## pin every dependency again, at its newest
	rm -rf build/constraints && "$(PYTHON)" -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet $(TORCH_SOURCE) -e '.[dev,mutants]'
	{ sed '/^$$/q' constraints.txt; \
	  build/constraints/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	    | sed 's/+.*//' | grep -vE '^(cuda|nvidia|triton)'; \
	  echo; echo "# What the CUDA build of torch adds."; \
	  echo 'torch==2.13.0' | build/constraints/bin/uv pip compile - --quiet --no-header \
	    --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	    | grep -E '^(cuda|nvidia|triton)'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## remove the environment and everything built; runs/ stays
	rm -rf $(VENV) build dist docs/api htmlcov *.egg-info
	rm -rf .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
