# STACK=upstream|onedl  VENV=DIR  TORCH=VERSION  PYTHON=INTERPRETER; see README.md
STACK ?= upstream
VENV ?= $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: install demo test lint

install:
	@$(PYTHON) requirements/install.py --stack $(STACK) --venv $(VENV) $(if $(TORCH),--torch $(TORCH))

demo: install
	@$(BIN)/python tools/demo.py

test: install lint
	@$(BIN)/python -m pytest

lint: install
	@$(BIN)/ruff check .
