# SPDX-License-Identifier: GPL-2.0-only
# Each target is one line of kharness; what needs setting up sets itself up, once.
#
#   KERNEL=~/linux   test this tree instead of Debian's newest 7.2 source
#   PATCH=a.patch    and this patch (a mailbox, a folder) against the tree without it
#   BASE=v7.2        what lies in KERNEL= (or HEAD=) against this revision of it
#   ARCH=x86_64      architectures, separated by commas
#   K=expression     pytest's -k
#   OUT=folder       where the results go
#   BPF=files        BPF schedulers of yours, to be tested too
#   FAULTS=file      a fault plan of yours, to be carried out too; K=plan: alone
#   PLAN=file        a YAML file with any of the options as keys; the variables above override it

SHELL  := /bin/sh
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kharness
PYTHON ?= python3
VENV   := $(CACHE)/venv/$(shell cat requirements.txt 2>/dev/null | sha256sum | cut -c1-16)
PY     := $(VENV)/bin/python
RUN     = $(PY) -m harness run $(if $(PLAN),"$(PLAN)") $(if $(KERNEL),--tree "$(KERNEL)") $(if $(ARCH),--arch "$(ARCH)") \
          $(if $(PATCH),--patch "$(PATCH)") $(if $(BASE),--base "$(BASE)") $(if $(HEAD),--head "$(HEAD)") \
          $(if $(K),-k "$(K)") $(if $(OUT),--out "$(OUT)") $(foreach file,$(BPF),--bpf "$(file)") \
          $(if $(FAULTS),--faults "$(FAULTS)")
TESTED  = KHARNESS_TREE="$(KERNEL)" $(PY) -m pytest

.PHONY: run test unit e2e test-full mutants check doctor bench clean
.DEFAULT_GOAL := run

run: $(VENV)/.ready
	@$(RUN)

# The harness's own quick tests, then the kernel's, then the harness as its users meet it. On a bare host the quick tests
# of the sandbox would be skipped, hence the first line.
test: $(VENV)/.ready
	@$(PY) -m harness doctor --install
	@$(PY) -m pytest -q tests/unit
	@$(RUN)
	@$(TESTED) -q -m "not full and not mutants" tests/e2e

unit: $(VENV)/.ready
	@$(PY) -m pytest -q tests/unit $(if $(K),-k "$(K)")

e2e: $(VENV)/.ready
	@$(TESTED) -q -m "not full and not mutants" tests/e2e $(if $(K),-k "$(K)")

# Hand-broken kernels, other configurations, long campaigns: about an hour.
test-full: $(VENV)/.ready
	@$(PY) -m harness run --full $(if $(KERNEL),--tree "$(KERNEL)")
	@$(TESTED) -v -m "not mutants" tests/e2e $(if $(K),-k "$(K)")

# Known-bad kernels of one defect each: how many are caught, and named? Hours; K= selects.
mutants: $(VENV)/.ready
	@KHARNESS_ARCH="$(or $(ARCH),x86_64)" $(PY) -m pytest -v -m mutants tests/e2e/test_mutants.py $(if $(K),-k "$(K)")

check: $(VENV)/.ready
	@$(VENV)/bin/ruff check harness tests benchmarks
	@$(VENV)/bin/mypy

doctor: $(VENV)/.ready
	@$(PY) -m harness doctor

bench: $(VENV)/.ready
	@$(PY) -m benchmarks

# Written last and renamed into place, so that an interrupted installation is done again.
$(VENV)/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kharness: $(PYTHON) is too old; 3.11 or newer is needed: set PYTHON=python3.11" >&2; exit 2; }
	@echo "python environment: installing into $(VENV)" >&2
	@$(PYTHON) -m venv --clear "$(VENV)" || \
		{ echo "kharness: python3 cannot make virtual environments; sudo apt-get install -y python3-venv" >&2; exit 4; }
	@"$(PY)" -m pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

clean:
	rm -rf out

.PHONY: print-venv
print-venv: $(VENV)/.ready
	@echo "$(VENV)"
