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
#   SUITE=folder     tests of yours instead of ours
#   PLAN=file        a YAML file with any of the options as keys; the variables above override it

SHELL  := /bin/sh
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kharness
ifneq ($(words $(CACHE))$(findstring :,$(CACHE))$(findstring %,$(CACHE)),1)
$(error kharness: make cannot have blanks, : or % in the name of the cache, $(CACHE); set XDG_CACHE_HOME to another)
endif
PYTHON ?= python3
VENV   := $(CACHE)/venv/$(shell cat requirements.lock 2>/dev/null | sha256sum | cut -c1-16)
# -P and the exports below: Python imports from the checkout and the virtual environment, from nowhere else.
PY     := $(VENV)/bin/python -P
LOCKER := uv==0.13.9
# What b4 needs for what kharness does not do with it: signatures of mails, rewriting history (see harness/source/b4.py).
# dkimpy has no wheel, and nothing is built when packages are installed.
# jsonschema, of which kcidb-io asks for more than it uses, does without rfc3987, which is GPLv3.
UNUSED := dkimpy dnspython pygit2 ezgb rfc3987

ifeq ($(filter Makefile ./Makefile,$(lastword $(MAKEFILE_LIST))),)
$(error run make in the checkout, or as make -C FOLDER)
endif

# What the user gives is text and no program: make expands nothing in it, and recipes read it from their environment,
# where the shell does not look for quotes, backquotes or $$(...).
GIVEN  := KERNEL PATCH BASE HEAD ARCH K OUT BPF FAULTS SUITE PLAN
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(foreach name,$(GIVEN),$(if $(value $(name)),$(name)))

# PYTHONOPTIMIZE removes assertions, PYTEST_ADDOPTS selects tests: not meant for ours.
unexport $(filter PYTHON% PYTEST_%,$(.VARIABLES))
export PYTHONPATH := $(CURDIR)
export PYTHONSAFEPATH := 1

# The words of BPF= are files, each an option.
RUN     = set -f; set --; for file in $$BPF; do set -- "$$@" "--bpf=$$file"; done; \
          $(PY) -m harness run "$$@" $${KERNEL:+"--tree=$$KERNEL"} $${ARCH:+"--arch=$$ARCH"} \
          $${PATCH:+"--patch=$$PATCH"} $${BASE:+"--base=$$BASE"} $${HEAD:+"--head=$$HEAD"} $${K:+-k "$$K"} \
          $${OUT:+"--out=$$OUT"} $${FAULTS:+"--faults=$$FAULTS"} \
          $${SUITE:+"--suite=$$SUITE"} $${PLAN:+-- "$$PLAN"}
TESTED  = KHARNESS_TREE="$$KERNEL" $(PY) -m pytest
CHOSEN  = $${K:+-k "$$K"}

.PHONY: run test unit e2e test-full mutants check schema doctor bench lock clean
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
	@$(PY) -m pytest -q tests/unit $(CHOSEN)

e2e: $(VENV)/.ready
	@$(TESTED) -q -m "not full and not mutants" tests/e2e $(CHOSEN)

# Hand-broken kernels, other configurations, long campaigns: about an hour.
test-full: $(VENV)/.ready
	@$(PY) -m harness run --full $${KERNEL:+"--tree=$$KERNEL"}
	@$(TESTED) -v -m "not mutants" tests/e2e $(CHOSEN)

# Known-bad kernels of one defect each: how many are caught, and named? Hours; K= selects.
mutants: $(VENV)/.ready
	@KHARNESS_ARCH="$${ARCH:-x86_64}" $(PY) -m pytest -v -m mutants tests/e2e/test_mutants.py $(CHOSEN)

check: $(VENV)/.ready
	@$(VENV)/bin/ruff check harness tests benchmarks
	@$(VENV)/bin/ruff format --check --quiet harness tests benchmarks
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache
	@! grep -rniIE 'dsq|sched_ext|scx' harness vm kconfigs/base.config bpf_progs/observers || \
		{ echo "kharness: the engine names a subsystem (above); it belongs into a suite" >&2; exit 1; }
	@$(PY) -m harness.report.schema --check

# After a change of a record that results.json has.
schema: $(VENV)/.ready
	@$(PY) -m harness.report.schema

doctor: $(VENV)/.ready
	@$(PY) -m harness doctor

bench: $(VENV)/.ready
	@$(PY) -m benchmarks

# Nothing is run from a cache that somebody else can write to; it is made, for us alone, where there is none.
.PHONY: ours
ours:
	@$(PYTHON) -I harness/host/whose.py "$(CACHE)"

# Written last, when all else is on the disk, so that an interrupted installation is done again.
$(VENV)/.ready: | ours
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kharness: $(PYTHON) is too old; 3.11 or newer is needed: set PYTHON=python3.11" >&2; exit 2; }
	@echo "python environment: installing into $(VENV)" >&2
	@$(PYTHON) -m venv --clear "$(VENV)" || \
		{ echo "kharness: python3 cannot make virtual environments; sudo apt-get install -y python3-venv" >&2; exit 4; }
	@$(PY) -m pip install -qq --disable-pip-version-check --only-binary :all: --no-deps \
		--require-hashes -r requirements.lock
	@sync -f "$(VENV)"
	@touch $@

# After a change of requirements.txt. Takes what it finds, and says so: read the difference before it is committed.
lock: $(VENV)/.ready
	@$(PYTHON) -m venv --clear "$(VENV)-lock"
	@$(VENV)-lock/bin/python -m pip install -qq --disable-pip-version-check $(LOCKER)
	@$(VENV)-lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		$(UNUSED:%=--no-emit-package %) \
		--no-annotate --no-header requirements.txt -o requirements.lock
	@rm -rf "$(VENV)-lock"
	@git --no-pager diff --stat requirements.lock

clean:
	rm -rf out

.PHONY: print-venv
print-venv: $(VENV)/.ready
	@echo "$(VENV)"
