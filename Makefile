# Two commands do everything: `make demo` and `make test`. The virtual environment is
# made on first use, one for each interpreter: PYTHON=python3.12 make demo
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(VERSION),)
$(error '$(PYTHON)' does not run here: install Python 3.11 or newer, or name another interpreter as in PYTHON=python3.12 make)
endif
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
RUN := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/xla $(BIN)/python

# TensorFlow builds data sets and nothing else: it has an environment of its own.
PREPARE := $(VENV)-prepare

# libtpu compiles for TPUs that are not there. JAX would look for one wherever it finds
# libtpu: so that is beside the environment above, which it sees, and not in it.
TPU := $(VENV)-tpu
SITE := lib/python$(VERSION)/site-packages

.PHONY: demo test test-slow seeded-faults prepare fashion tpu lint docs bench clean

# Fewer arenas: glibc would keep a few hundred megabytes of freed compiler memory. A step's
# buffers are kept from one step to the next: to map them anew costs 10 % of the time.
demo: $(VENV)/installed
	MALLOC_ARENA_MAX=2 MALLOC_TRIM_THRESHOLD_=134217728 MALLOC_MMAP_THRESHOLD_=33554432 \
	$(RUN) -m experiments.demo --workdir=runs/caco_digits $(if $(FRESH),--fresh)

# What every change has to pass, in minutes; `make test-slow` runs the rest, which CI
# runs too. TESTS names a part of either.
test: MARKED := not slow
test-slow: MARKED := slow
test test-slow: $(VENV)/installed-dev
	$(if $(wildcard $(PREPARE)/installed),CACO_PREPARE_PYTHON=$(CURDIR)/$(PREPARE)/bin/python) \
	$(if $(wildcard $(TPU)/installed),CACO_TPU_PYTHON=$(CURDIR)/$(TPU)/bin/python) \
	MALLOC_ARENA_MAX=2 $(RUN) -m pytest -n auto --dist loadgroup -m "$(MARKED)" $(TESTS)

# Puts slips into a copy, one at a time: the tests above must see each. ONLY names some.
seeded-faults: $(VENV)/installed-dev
	MALLOC_ARENA_MAX=2 $(BIN)/python -m tests.seeded_faults $(if $(ONLY),--only $(ONLY)) \
	$(if $(JOBS),--jobs=$(JOBS))

prepare: $(PREPARE)/installed
	@echo "$(PREPARE)/bin/caco prepare prepares data sets"

# 70,000 images of clothes, 31 MB: Debian's package, or FASHION=FOLDER with the files.
FASHION ?= /usr/share/datasets/fashion-mnist
FASHION_THERE := ls $(FASHION)/train-images-idx3-ubyte* >/dev/null 2>&1
fashion:
	@$(FASHION_THERE) || { test "$(origin FASHION) $$(id -u)" = "file 0" && \
	command -v apt-get >/dev/null && apt-get -qq update && \
	apt-get -qq --yes --no-install-recommends install dataset-fashion-mnist && \
	$(FASHION_THERE); } || { echo "fashion: expected the files of Fashion-MNIST in $(FASHION), got none; as root of a Debian: apt-get install dataset-fashion-mnist; elsewhere download the four files and say make fashion FASHION=FOLDER" >&2; exit 1; }
	@echo "--config.data.source=idx:$(abspath $(FASHION)) --config.data.views=small_gray"

tpu: $(TPU)/installed
	@echo "$(TPU)/bin/caco compile compiles for TPUs, without a TPU"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/mkdocs build --strict
	@echo "open build/docs/index.html"

bench: $(VENV)/installed
	$(RUN) -m experiments.benchmarks --out=runs/bench/bench.json --figure=runs/bench/cost_growth.png

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[data]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(PREPARE)/installed: setup.cfg
	$(PYTHON) -m venv $(PREPARE)
	$(PREPARE)/bin/pip install --quiet --disable-pip-version-check --editable '.[prepare]'
	touch $@

$(TPU)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(TPU)
	echo "import site; site.addsitedir('$(CURDIR)/$(VENV)/$(SITE)')" > $(TPU)/$(SITE)/beside.pth
	$(TPU)/bin/pip install --quiet --disable-pip-version-check 'jax[tpu]>=0.10.2'
	$(TPU)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall --editable .
	touch $@

clean:
	rm -rf .venv .cache build *.egg-info
