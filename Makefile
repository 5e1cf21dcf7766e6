# setup | check | test | faults | kills | rates | endurance | licences | audit | demo | bench | docs | evidence | paper | relations | starts, each from a fresh clone on two CPU cores
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest

.PHONY: setup check test test-slow test-lowest test-yolo-versions faults kills rates endurance licences audit demo bench docs evidence paper relations starts clean

setup: $(READY)

$(READY): pyproject.toml plugins/botvision-yolo/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all,export,serve]" \
		--editable "plugins/botvision-yolo[all,openvino]" --group dev --group studies
	touch $(READY)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 4

# uv, because pip cannot resolve to the lowest versions that pyproject.toml allows
$(LOWEST)/.ready: pyproject.toml plugins/botvision-yolo/pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[all,export,serve]" \
		--editable "plugins/botvision-yolo[all,openvino]" --group dev --group studies
	touch $(LOWEST)/.ready

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-yolo-versions: setup
	set -e; for version in 8.3.203 8.4.60; do \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/ultralytics-$$version ultralytics==$$version; \
		PYTHONPATH=$(CURDIR)/$(VENV)/ultralytics-$$version $(BIN)/python -m pytest plugins/botvision-yolo/tests; \
	done

faults: setup
	$(BIN)/python -m tests.faults

kills: setup
	nice -n 19 $(BIN)/python -W ignore -m tests.faults.kills --kills 40 --report runs/kills.md

rates: setup
	nice -n 19 $(BIN)/python -W ignore -m tests.faults.rates --steps 500 --report runs/rates.md

endurance: setup
	nice -n 19 $(BIN)/python -W ignore -m tests.faults.endurance --minutes 60 --report runs/endurance.md

licences: setup
	$(BIN)/python docs/licences.py

# by the package index's database of vulnerabilities: needs the network
audit: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9"
	$(BIN)/pip-audit --local --skip-editable

demo: setup
	$(BIN)/botvision scenes data/scenes
	$(BIN)/botvision maskrcnn train --recipe demo --on_existing resume

bench: setup
	$(BIN)/botvision bench attention

evidence: setup
	$(BIN)/python -m studies.evidence --grid cpu --limit 0 --results benchmarks/results/evidence_cpu --report docs/evidence.md

paper: setup
	$(BIN)/python -m studies.paper --out docs/paper.md

starts: setup
	$(BIN)/python -m studies.starts --limit 0 --results benchmarks/results/starts --report docs/directional-start.md

relations: setup
	$(BIN)/python -m studies.relations --limit 0 --results benchmarks/results/relations --report docs/relations.md

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(LOWEST) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
