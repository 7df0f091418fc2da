# STACK=upstream|onedl  VENV=DIR  TORCH=VERSION  PYTHON=INTERPRETER; see README.md
STACK ?= upstream
VENV ?= $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: install demo test lint docs

install:
	@$(PYTHON) requirements/install.py --stack $(STACK) --venv $(VENV) $(if $(TORCH),--torch $(TORCH))

demo: install
	@$(BIN)/python tools/demo.py

test: install lint
	@$(BIN)/python -m pytest

lint: install
	@$(BIN)/ruff check .

docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo 'the pages are in site/index.html'
