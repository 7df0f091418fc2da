# STACK=upstream|onedl  VENV=DIR  TORCH=VERSION  PYTHON=INTERPRETER  JOBS=N; see README.md
STACK ?= upstream
VENV ?= $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
# A PYTHON that the user names is taken or refused; python3 is only where the search begins.
PYTHON_CHOSEN := $(filter command environment,$(origin PYTHON))
PYTHON ?= python3
JOBS ?= 2
BIN = $(VENV)/bin
# It makes environments; the launchers in tools/ take a PYTHON of their surroundings for the one to run with.
unexport PYTHON

.PHONY: install demo test lint docs

install:
	@'$(PYTHON)' -c '' 2>/dev/null || { echo 'error: $(PYTHON) does not run here: install Python 3.10 to 3.14, or name one with PYTHON=COMMAND.' >&2; exit 1; }
	@'$(PYTHON)' requirements/install.py --stack $(STACK) --venv '$(VENV)' $(if $(TORCH),--torch $(TORCH)) $(if $(PYTHON_CHOSEN),--this-python)

demo: install
	@'$(BIN)/python' tools/demo.py

# Two test processes at a time, whose parts that have one thread would leave cores idle; more with JOBS=N.
test: install lint
	@OMP_NUM_THREADS=1 '$(BIN)/python' -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: install
	@'$(BIN)/ruff' check .

docs: install
	@NO_MKDOCS_2_WARNING=1 '$(BIN)/python' -m mkdocs build --quiet --strict
	@echo 'the pages are in site/index.html'
