# make demo   the whole program on synthetic clips, in minutes, on any machine
# make test   the fast tests
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo test test-slow test-gpu soak lint docs images clean
help:
	@grep -E '^# make' Makefile | sed 's/^# //'

# make setup  a virtual environment in .venv with all that is needed
setup: $(INSTALLED)

# The mark is written last: an installation that was interrupted is taken up again.
$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check "setuptools<81" wheel
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation -r requirements-dev.txt
	@touch $(INSTALLED)

demo: $(INSTALLED)
	$(RUN) -m engine.demo

# One thread a process: processes that each take all cores slow each other down.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q --durations=15 --numprocesses=auto --maxprocesses=4 --dist=worksteal

# make test-slow  the tests that take longer
test-slow: $(INSTALLED)
	$(RUN) -m pytest -q -m slow

# make test-gpu  tries everything on the GPU of this machine and prints a table of times: 6 minutes
test-gpu: $(INSTALLED)
	$(RUN) -m pytest -q -m gpu

# make soak   kills a small training and fills its disk again and again, for half an hour
soak: $(INSTALLED)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(RUN) tests/soak.py

# make lint   layout, lint and types
lint: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# make docs   writes docs/options.md from the parser
docs: $(INSTALLED)
	$(RUN) -m engine.options.document

# make images  draws the pictures of the README again
images: $(INSTALLED)
	$(RUN) images/overview.py

# make clean  removes the environment and caches, never data or runs
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
