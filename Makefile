# The development commands. A machine with python3 (3.11 or newer) and make is enough:
# each target first installs the pinned versions it needs into $(VENV).
#
#   make test PYTHON=python3.13     another interpreter for a new environment
#   make test VENV=/path/to/venv    another place for the environment
#   make test WORKERS=8             more test processes
#   make test PIP_ARGS="..."        further options for pip. Where the package index
#                                   serves a CUDA build of torch and you want the
#                                   smaller CPU build:
#       PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
PIP_ARGS ?=
# The packages that test-alone, test-oldest and test-newest test.
BACKENDS ?= numpyro pyro
EXTRAS ?= all
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=

PY = $(VENV)/bin/python
PIP_OPTIONS = --quiet $(PIP_ARGS) -c $(CONSTRAINTS)
PIP = $(PY) -m pip install $(PIP_OPTIONS)
SPEC = pyproject.toml $(CONSTRAINTS)
STAMP = $(VENV)/.stamp

# Plots are written to files, never shown.
export MPLBACKEND = Agg
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Each test process computes on one thread, so that the processes do not compete.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
# Two pip processes must not write to one environment at the same time.
.NOTPARALLEL:
.PHONY: demo notebooks test coverage test-alone test-oldest test-newest test-gpu wheels gpu \
  fuzz api-table lint types bench docs dist check help

demo: $(STAMP)-run $(STAMP)-tutorials ## Train the discrete VAE of the demo
	$(PY) tutorials/demo.py

# NAMES="swap_the_sites_pyro ..." executes only these.
NAMES ?=
notebooks: $(STAMP)-run $(STAMP)-tutorials ## Execute the tutorials as notebooks
	$(PY) tutorials/execute.py $(NAMES)

# A test compiles a program to run it once or twice. Other tests, in another process or
# in another run, find what was compiled in a folder.
COMPILE_FAST = JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
  JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/jax \
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# The older emitters of XLA's kernels compile faster. XLA stops at a flag that it does not
# know, so this is for the pinned versions alone.
COMPILE_FAST_PINNED = $(COMPILE_FAST) \
  XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_use_fusion_emitters=false"
test: $(STAMP)-run $(STAMP)-test $(STAMP)-tutorials ## Run the fast tests
	$(ONE_THREAD) $(COMPILE_FAST_PINNED) $(PY) -m pytest -n $(WORKERS) -m "not slow" \
	  $(PYTEST_ARGS) tests

# The fast tests with the share of the lines and branches that they run, which must not
# fall below the floor. A quarter of the test modules reaches this one; raise it to what
# the whole suite reaches.
COVERAGE_FLOOR ?= 70
coverage: $(STAMP)-run $(STAMP)-test $(STAMP)-tutorials ## Run the fast tests with coverage
	$(ONE_THREAD) $(COMPILE_FAST_PINNED) $(PY) -m pytest -n $(WORKERS) -m "not slow" \
	  --cov --cov-report=term:skip-covered --cov-report=xml \
	  --cov-fail-under=$(COVERAGE_FLOOR) $(PYTEST_ARGS) tests

# Tests of one package where the other backend is not installed, in .venv-alone-pyro and
# so on: the contracts of the distributions, the public functions, examples and pages.
ALONE = test_docs test_import_isolation test_ops test_distributions test_relaxation \
  test_guides test_objectives
test-alone: $(BACKENDS:%=test-alone-%) ## Run tests with one backend installed
.PHONY: test-alone-numpyro test-alone-pyro
test-alone-numpyro test-alone-pyro: test-alone-%:
	$(MAKE) --no-print-directory VENV=.venv-alone-$* EXTRAS=$*,plots \
	  .venv-alone-$*/.stamp-run .venv-alone-$*/.stamp-test
	$(ONE_THREAD) $(COMPILE_FAST_PINNED) .venv-alone-$*/bin/python -m pytest -n $(WORKERS) \
	  -m "not slow" --backend $* $(PYTEST_ARGS) $(ALONE:%=tests/%.py)

# The fast tests of one package with the oldest or newest versions of its backend that
# pyproject.toml allows, in .venv-oldest-numpyro and so on; the rest is pinned as ever.
# BACKENDS=numpyro tests only that package. What is newest depends on PYTHON.
test-oldest: $(BACKENDS:%=test-oldest-%) ## Run the tests with the oldest versions
test-newest: $(BACKENDS:%=test-newest-%) ## Run the tests with the newest versions

VERSIONS = oldest-numpyro oldest-pyro newest-numpyro newest-pyro
.PHONY: $(VERSIONS:%=test-%)
$(VERSIONS:%=test-%): test-%: .venv-%/constraints.txt
	$(MAKE) --no-print-directory test VENV=.venv-$* CONSTRAINTS=$< \
	  PYTEST_ARGS="$(strip --backend $(lastword $(subst -, ,$*)) $(PYTEST_ARGS))"

$(VERSIONS:%=.venv-%/constraints.txt): .venv-%/constraints.txt: \
  pyproject.toml constraints.txt tests/support/allowed_versions.py
	@mkdir -p $(@D)
	@$(PYTHON) tests/support/allowed_versions.py $(subst -, ,$*) > $@

# Random programs of each backend, relaxed and compared with the discrete ones; what fails
# is made small and printed. Program 7 alone: PROGRAMS=1 FIRST=7.
SEED ?= 0
FIRST ?= 0
PROGRAMS ?= 2000
PROGRAMS_NUMPYRO ?= $(shell expr $(PROGRAMS) / 4)
FUZZ = $(ONE_THREAD) $(COMPILE_FAST_PINNED) PYTHONPATH=tests/support:. $(PY) -m random_programs
fuzz: $(STAMP)-run $(STAMP)-test ## Compare many random programs with their relaxation
	$(FUZZ) pyro --programs $(PROGRAMS) --seed $(SEED) --first $(FIRST)
	$(FUZZ) numpyro --programs $(PROGRAMS_NUMPYRO) --seed $(SEED) --first $(FIRST)

# Minutes for Pyro, and half an hour for NumPyro, where each call is compiled.
api-table: $(STAMP)-run $(STAMP)-test ## Make the tables of supported functions anew
	$(ONE_THREAD) $(COMPILE_FAST_PINNED) PYTHONPATH=tests/support:. $(PY) -m api_sweep pyro
	$(ONE_THREAD) $(COMPILE_FAST_PINNED) PYTHONPATH=tests/support:. $(PY) -m api_sweep numpyro

# Tests that take a device run on the CPU and, where there is one, on the GPU; --device
# keeps to one. This target expects a CUDA build of
# torch and of jax in $(VENV); for jax, install the extra for your CUDA version, such as
# `$(VENV)/bin/pip install -c constraints.txt "jax[cuda13]"`. What either does not see is
# skipped, and the report says so. JAX would take most of the memory at its start.
GPU_REPORT ?= benchmarks/results/gpu_tests.md
test-gpu: $(STAMP)-run $(STAMP)-test ## Run the tests that need a GPU, with a report
	XLA_PYTHON_CLIENT_PREALLOCATE=false $(PY) -m pytest -m gpu --device cuda \
	  --report $(GPU_REPORT) tests

# Everything that needs a GPU, inside 12 minutes, on a machine that has torch, jax and
# numpyro for it: results and logs are in $(GPU_OUT). What such a machine lacks and
# cannot fetch travels as wheels: `make wheels` on a machine with a network first.
# GPU_ARGS="--data DIR" names the folder of the data of the paper's networks.
WHEELS ?= .wheels
GPU_OUT ?= out/gpu
GPU_ARGS ?=
wheels: $(STAMP)-run $(STAMP)-test ## Collect the packages that a GPU machine lacks
	$(PY) -m pip download $(PIP_OPTIONS) --no-deps --only-binary=:all: --python-version 3.12 \
	  --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 -d $(WHEELS) \
	  numpyro pyro-ppl pyro-api quax plum-dispatch funsor makefun beartype

gpu: ## Run all that needs a GPU
	$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade \
	  --target $(WHEELS)/site $(wildcard $(WHEELS)/*.whl)
	PYTHONPATH=$(WHEELS)/site:. $(PYTHON) -m benchmarks.gpu --out $(GPU_OUT) $(GPU_ARGS)

lint: $(STAMP)-dev ## Check style and formatting
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(STAMP)-run $(STAMP)-dev ## Check the types of both packages
	$(VENV)/bin/ty check --python $(VENV) concrete_core pyro_concrete numpyro_concrete

bench: $(STAMP)-run $(STAMP)-tutorials ## Run the benchmarks
	$(PY) -m benchmarks
	$(PY) -m benchmarks.pictures docs

# The site is in docs/_build/html. Warnings are errors, and names of ours that lead
# nowhere are warnings; no network is needed. CONCRETE_DOCS_ONLINE=1 checks the links to
# the backends' documentation against their own lists of names.
docs: $(STAMP)-run $(STAMP)-test $(STAMP)-docs ## Build the site, check it, run examples
	rm -rf docs/_build
	$(PY) -m sphinx -q -W --keep-going -n -b html docs docs/_build/html
	$(PY) docs/links.py docs/_build/html
	$(PY) -m pytest tests/test_docs.py tests/test_documentation_site.py

# The wheel and the source distribution, in dist/.
dist: $(STAMP)-pip ## Build the wheel and the source distribution
	rm -rf dist
	$(PY) -m hatchling build -d dist

check: lint types test ## Run lint, types and test

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# A stamp is older than pyproject.toml or constraints.txt only when these have changed,
# so without a change no target below needs the network. The build backend is installed
# beside pip and used without build isolation, which keeps it pinned and spares pip a
# download for every editable install.

$(STAMP)-pip: $(SPEC)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is not Python >= 3.11; set another with PYTHON=..." >&2; exit 1; }
	@echo "Preparing the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip hatchling editables
	@touch $@

$(STAMP)-run: $(STAMP)-pip $(SPEC)
	@echo "Installing the packages with their backends: $(EXTRAS) (some minutes)"
	@$(PIP) --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@

$(STAMP)-test $(STAMP)-tutorials $(STAMP)-docs $(STAMP)-dev: $(STAMP)-pip $(SPEC)
	@echo "Installing the packages for: $(@:$(STAMP)-%=%)"
	@$(PIP) --group $(@:$(STAMP)-%=%)
	@touch $@
