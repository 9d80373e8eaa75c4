# demo and test set up all that they need; the environment is rebuilt when its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

demo: $(VENV)/product
	$(BIN)/triptych demo

test: check
	$(BIN)/pytest -n auto

check: $(VENV)/checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/peers
	$(BIN)/python bench/run.py $(or $(DEVICE),cpu) $(ONLY)

# The target is pip: a Python without its venv package makes the folder without it, and fails.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 14) and "Python %d.%d cannot install the versions of constraints.txt; 3.11 to 3.14 can: make PYTHON=python3.14" % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/product: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# torch-fidelity without torchvision, which next to a torch of another build breaks diffusers.
$(VENV)/checks: $(VENV)/product
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch-fidelity
	touch $@

# denoising-diffusion-pytorch without torchvision, and what else only its trainer needs.
$(VENV)/peers: $(VENV)/checks
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps denoising-diffusion-pytorch
	touch $@

clean:
	rm -rf $(VENV)
