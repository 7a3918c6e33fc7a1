# Every target does its own set-up from nothing; a stamp in .venv makes the second run quick.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo serve test check bench soak check-image peers lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Real programs the tests talk to: a PACS, a toolkit, a broker, a database, a checker, a PDF renderer, a browser.
PEERS := orthanc orthanc-dicomweb dcmtk openssl redis-server postgresql dicom3tools poppler-utils rsync sqlite3 chromium chromium-driver
PEER_PROGRAMS := Orthanc storescu openssl redis-server dciodvfy pdftoppm rsync sqlite3 chromium chromedriver

help:
	@echo "make demo | serve | test | check | bench | soak"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-to-serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "set-up: the service and its CPU engines"
	$(PIP) -c constraints.txt -e '.[cpu]'
	touch $@

$(VENV)/.ready-to-develop: pyproject.toml constraints.txt | $(BIN)/python
	@echo "set-up: the service, training and the checks"
	$(PIP) -c constraints.txt -e '.[cpu,train,dev]'
	touch $@ $(VENV)/.ready-to-serve

# Missing peers are installed where apt-get and the rights are there; elsewhere the tests skip with the reason (with CI=true that fails them).
peers:
	@missing=; for program in $(PEER_PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing initdb"; \
	[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$$missing orthanc-dicomweb"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "set-up: not found:$$missing; as root, apt-get install $(PEERS)"; [ "$${CI:-}" != true ]; exit; \
	fi; \
	echo "set-up: installing$$missing"; export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PEERS) >/dev/null; } || [ "$${CI:-}" != true ]

demo: $(VENV)/.ready-to-serve
	$(BIN)/leukoscope demo

serve: $(VENV)/.ready-to-serve
	$(BIN)/leukoscope serve

check: $(VENV)/.ready-to-develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three processes: a test that waits for a lease, a quiet time or a restart leaves its core to another.
test: peers check
	$(BIN)/python -m pytest --numprocesses 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

# An hour of faults: every cell of the fault matrix on both sets, hundreds of kills, a hundred series, ten thousand changed files and PDUs.
soak: peers $(VENV)/.ready-to-develop
	$(BIN)/python -m pytest -m soak
	PROPERTY_EXAMPLES=500 $(BIN)/python -m pytest tests/worker/encode -k any_grid --timeout 3600
	for set in embedded full; do for victim in everything something; do \
		$(BIN)/python -m tests.soak.kills --set $$set --victim $$victim --kills 50; done; $(BIN)/python -m tests.soak.hundred --set $$set; done
	$(BIN)/python -m tests.soak.mutations

# BENCH="wire day --size small" chooses parts and a size; the full size wants a quiet machine.
bench: peers $(VENV)/.ready-to-develop
	TCP_NODELAY=1 $(BIN)/python -m tests.bench $(BENCH)

# The Dockerfile's steps in a chroot, and what comes out of them run as its user: for machines without a container engine. Needs root.
check-image:
	$(PYTHON) deploy/check_image.py

# After a change of dependencies: the versions that are installed and work, without the project itself and without a build's local label.
lock: $(VENV)/.ready-to-develop
	$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/+cpu$$//' -e '/ @ /d' -e '/^-e/d' -e '/^#/d' > constraints.txt
	touch $(VENV)/.ready-to-develop $(VENV)/.ready-to-serve

clean:
	rm -rf $(VENV) build dist *.egg-info demo-results bench-results.json
