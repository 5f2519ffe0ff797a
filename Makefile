# `make help` lists what there is. Every target does the set-up that it needs, once.
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench fuzz lint hosts guests verify-sensitivity verify-specificity clean

PYTHON := .venv/bin/python
PYTEST_ARGS ?=
# A worker for each core, files whole: what one file has set up once is not set up in every worker.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## install what is missing: Debian packages, a virtual environment with vmpack in it
	@tools/setup.sh

demo: setup  ## pack a real Debian machine into one file, boot it from there, take it out again
	@tools/build.sh debian
	@$(PYTHON) tools/demo.py

test: setup  ## all tests, with everything that they need
	@tools/build.sh small debian
	@tools/build.sh --optional hosts
	@$(PYTHON) -m pytest $(WORKERS) $(PYTEST_ARGS)

bench: setup  ## measure vmpack beside qemu-img on the Debian guest
	@tools/build.sh debian
	@$(PYTHON) -m bench

fuzz: setup  ## mutate images, then look for new examples in the property tests (FUZZ_SECONDS=n, FUZZ_FORMATS="vmdk vhd", FUZZ_EXAMPLES=n)
	@$(PYTHON) tools/fuzz.py --seconds $(or $(FUZZ_SECONDS),60) --seed $(or $(FUZZ_SEED),1) $(FUZZ_FORMATS)
	@HYPOTHESIS_PROFILE=fuzz $(PYTHON) -m pytest -m hypothesis $(PYTEST_ARGS)

lint: setup  ## ruff and mypy
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy -p vmpack -p fixtures -p tests

hosts: setup  ## newer QEMU versions, each in a small Debian root of its own
	@tools/build.sh hosts

guests: setup  ## the test guests: small Linux for BIOS and UEFI, full Debian 12
	@tools/build.sh small debian

verify-sensitivity: setup  ## every planted change, those inside guests too: each is found and named
	@tools/build.sh small
	@VMPACK_LONG=1 $(PYTHON) -m pytest $(WORKERS) tests/test_verify_sensitivity.py tests/test_verify_sensitivity_guest.py $(PYTEST_ARGS)

verify-specificity: setup  ## boot unchanged guests again and again on every QEMU: nothing may differ (ROUNDS=n, half an hour)
	@tools/build.sh small debian hosts
	@$(PYTHON) tools/specificity.py --rounds $(or $(ROUNDS),4)

clean:  ## remove what was built, guests and hosts included
	@tools/clean.sh
