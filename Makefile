# make demo | make test | make check. Each makes .venv itself when it is missing or older than pyproject.toml.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOAK_MINUTES ?= 60
WAITING := tests/reliability tests/server/executors tests/server/cli tests/server/streams tests/server/test_serve.py
BROWSER := tests/page

# Processes that tests start load compiled sources instead of compiling them again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test soak bench study check format golden docs clean

demo: $(READY)
	$(BIN)/gan-mhe demo

# Three lanes: tests that compute, one per core; tests that wait for processes, many at once; tests that drive a browser,
# whole files at a time, because a browser and an event loop of another test cannot be in one process. A lane is a list of
# paths and not a marker, because every worker of a lane collects, and so imports, all that the lane may run.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=30 $(addprefix --ignore=,$(WAITING) $(BROWSER))
	$(BIN)/python -m pytest -n 6 --dist worksteal --durations=10 $(WAITING)
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=5 $(BROWSER)

# Each half takes SOAK_MINUTES at most; the campaign finishes and audits the round that is under way.
soak: $(READY)
	timeout $(SOAK_MINUTES)m $(BIN)/python -m pytest -n 0 -m soak
	$(BIN)/python -m benchmarks.campaign --minutes $(SOAK_MINUTES) --out runs/soak/$(shell date +%Y%m%dT%H%M%S)

bench: $(READY)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.constraints
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.parallel
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.bulk
	$(BIN)/python -m benchmarks.page

study: $(READY)
	$(BIN)/gan-mhe study configs/studies/digits_variants.toml

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 tests/architecture

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python -m tools.configuration_page > docs/configuration.md

golden: $(READY)
	$(BIN)/python -m tools.record_golden

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
