# Everything sets itself up: each target creates .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find sgnet_nnunet -name '*.py') setup.py pyproject.toml
# Two tests at a time, one thread each; tests of one xdist_group share a worker.
PYTEST := pytest -n 2 --dist loadgroup
pytest fast newest lowest: export OMP_NUM_THREADS := 1
# The processes of the tests read each other's bytecode instead of compiling all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help test lint typecheck pytest fast fast-of-models fast-of-files fuzz newest lowest slurm audit release demo docs study synthetic speed clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# A regular (not editable) install: the tests see what a user's `pip install .` gives.
$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build # a module deleted since the last build would come back from there
	$(BIN)/pip install --quiet --disable-pip-version-check '.[test]'
	touch $@

$(BIN)/pytest:
	$(MAKE) $(VENV)/installed

test: lint typecheck pytest ## Everything that CI runs: ruff, structure, mypy, all tests with coverage; about 20 minutes

lint: $(VENV)/installed ## ruff, and the structure of the package against its limits
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/structure.py

typecheck: $(VENV)/installed ## mypy
	$(BIN)/mypy

pytest: $(VENV)/installed ## All tests, with coverage
	$(BIN)/$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

# Two processes without workers, half of the time each: a worker collects all tests and imports what any of them needs.
MODELS := $(addprefix tests/,inference training networks planning benchmarks evaluation tools test_headers.py)
fast: $(BIN)/pytest ## The tests that are not slow, on the checkout without installing it; for daily work
	$(MAKE) --no-print-directory --jobs 2 --keep-going \
		$(if $(filter output-sync,$(.FEATURES)),--output-sync=target) fast-of-models fast-of-files

fast-of-models fast-of-files: export PYTHONPATH := $(CURDIR)
fast-of-models:
	$(BIN)/pytest -q -m 'not slow' $(MODELS)

fast-of-files:
	$(BIN)/pytest -q -m 'not slow' $(addprefix --ignore=,$(MODELS))

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= nifti metaimage nrrd plans dataset splits point export record table names checkpoint probabilities
fuzz: $(BIN)/atheris ## Readers against files drawn by libFuzzer, FUZZ_SECONDS for each; Linux, Python 3.13 or older
	for target in $(FUZZ_TARGETS); do \
		$(BIN)/python tools/fuzz.py $$target fuzz_output -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

$(BIN)/atheris: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check 'atheris>=3.0'
	touch $@

newest: ## All tests with the newest nnU-Net, PyTorch and NumPy, in an environment of their own
	rm -rf build
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --disable-pip-version-check '.[test]'
	.venv-newest/bin/pip install --quiet --disable-pip-version-check --upgrade nnunetv2 torch numpy
	.venv-newest/bin/$(PYTEST)

# The oldest Python for which these releases have wheels.
LOWEST_PYTHON ?= python3.10
TEST_TOOLS := dcm2niix hypothesis panoptica playwright pymeshmetrics pytest pytest-xdist statsmodels
lowest: ## The tests that are not slow with the lowest releases that are supported, tools/lowest.txt
	test -x .venv-lowest/bin/python || $(LOWEST_PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -c tools/lowest.txt '.[all]' $(TEST_TOOLS)
	PYTHONPATH=$(CURDIR) .venv-lowest/bin/$(PYTEST) -m 'not slow'

slurm: $(VENV)/installed ## The same study through a real Slurm of this host, as root; skipped with its reason without one
	tools/slurm.sh $(BIN)/pytest tests/study/test_slurm.py || test $$? = 77

TOOLS := .venv-tools
$(TOOLS)/installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7' 'pip-audit>=2.9'
	touch $@

ADVISORIES := https://pypi.org/pypi/pip/24.0/json
audit: $(VENV)/installed $(TOOLS)/installed ## Known vulnerabilities of everything that is installed; asks PyPI
	@$(TOOLS)/bin/python -c 'import requests; requests.get("$(ADVISORIES)", timeout=30).raise_for_status()' 2> /dev/null || \
		{ echo 'audit: nothing was audited: $(ADVISORIES), where PyPI has its advisories, cannot be read from here' >&2; exit 1; }
	$(BIN)/pip list --format=freeze --exclude sgnet-nnunet > $(TOOLS)/versions.txt
	$(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps --requirement $(TOOLS)/versions.txt

release: $(VENV)/installed $(TOOLS)/installed ## A wheel, the same bytes wherever it is built, its checksum and an SBOM, in dist/
	rm -rf build dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(TOOLS)/bin/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json $(BIN)/python
	cd dist && sha256sum * > SHA256SUMS

demo: $(VENV)/installed ## The main job end to end on phantoms, about seven minutes
	$(BIN)/sgnet demo demo_output

docs: $(BIN)/mkdocs ## Build the documentation site in site/ and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(BIN)/mkdocs:
	$(MAKE) $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check '.[docs]'

BUDGET ?= cpu
# The name of the files in benchmarks/results.
NAME ?= $(if $(filter precision,$(BUDGET)),precision,phantom_study)
study: $(VENV)/installed ## Train every network on phantoms and write benchmarks/results; hours, resumable
	$(BIN)/python benchmarks/study.py phantoms study_output/phantoms
	$(BIN)/sgnet study benchmarks/studies/$(BUDGET).yaml
	$(BIN)/python benchmarks/study.py score benchmarks/studies/$(BUDGET).yaml
	$(BIN)/python benchmarks/study.py speed benchmarks/studies/$(BUDGET).yaml
	$(BIN)/python benchmarks/study.py report benchmarks/studies/$(BUDGET).yaml benchmarks/results --name $(NAME)

SYNTHETIC ?= synthetic_output
synthetic: $(VENV)/installed ## Train a network on synthetic patients alone; hours, resumable
	$(BIN)/python tools/synthetic.py train $(SYNTHETIC)

DEMO_MODEL ?= demo_output/nnUNet_results/Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres
DEMO_IMAGES ?= demo_output/nnUNet_raw/Dataset501_BrainMetsLung/imagesTs
speed: $(VENV)/installed ## Time inference (of the demo's model) and training; an hour, on an idle machine
	$(BIN)/python benchmarks/inference.py $(DEMO_MODEL) $(DEMO_IMAGES) benchmarks/results
	$(BIN)/python benchmarks/training.py benchmarks/results --no-default --batches 8

clean: ## Remove what the other targets made
	rm -rf $(VENV) .venv-newest .venv-lowest .venv-tools build dist *.egg-info demo_output fuzz_output notebooks/new_patient_output study_output synthetic_output site .coverage .mypy_cache .pytest_cache .ruff_cache
