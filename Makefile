# Every chore is one word; each of them makes its own environment in $(VENV) the first time.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.farvox-installed
PIP := python -m pip install --disable-pip-version-check
LOCK ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# torch is whatever build of the version in constraints.txt the package index offers, with what that brings.
NO_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand \
	nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
	nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: help demo test test-quick soak check bench bench-check bench-base lock audit docs format clean

help:
	@echo "make demo        a far-field verifier from synthetic voices to its report, in exp/demo"
	@echo "make test        all tests"
	@echo "make test-quick  all tests but the slow ones"
	@echo "make soak        hours of kills, races and fuzzing (SOAK=tests/soak/test_kills.py: of one file)"
	@echo "make check       ruff, mypy --strict, the rules of the project"
	@echo "make bench       how fast each stage is, against a reference in the same run: one table"
	@echo "make bench-check the same; fails where a ratio is lost against benchmarks/results/base.json"
	@echo "make bench-base  the same; makes what was found the base, and the table of docs/performance.md"
	@echo "make lock        .ci/requirements.txt, the hashes of all packages but torch, anew"
	@echo "make audit       known vulnerabilities of these packages; asks pypi.org"
	@echo "make docs        these pages as a site, in site/"
	@echo "make format      let ruff put the code in order"
	@echo "make clean       remove what the others made, but the results in exp/"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCK),$(BIN)/$(PIP) --require-hashes --no-deps -r $(LOCK))
	$(BIN)/$(PIP) $(if $(LOCK),--no-build-isolation) -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/farvox run demo

test: $(READY)
	$(PYTEST)

test-quick: $(READY)
	$(PYTEST) -m "not slow"

soak: $(READY)
	-$(BIN)/python -m pip install --disable-pip-version-check -q -r tests/soak/requirements.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v $(or $(SOAK),tests/soak)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/python -m pytest -q -m "not slow" tests/project

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(STAGES)

bench-check: $(READY)
	$(BIN)/python benchmarks/run.py --check $(STAGES)

bench-base: $(READY)
	$(BIN)/python benchmarks/run.py --base --runs 3 $(STAGES)

lock: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/lock
	build/lock/bin/$(PIP) uv
	echo editables | build/lock/bin/uv pip compile pyproject.toml - --all-extras -c constraints.txt --universal \
		--python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock' \
		$(NO_TORCH:%=--no-emit-package %) -q -o .ci/requirements.txt

audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/$(PIP) pip-audit
	build/audit/bin/pip-audit --disable-pip --require-hashes --strict --timeout 20 -r .ci/requirements.txt || \
		{ echo "make audit: faults above, or the advisories of pypi.org cannot be reached from here"; exit 1; }

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
