# make demo: Figure 2 of an ImageNet network over real photographs.  make test: the tests.  Both install first.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test lint clean

demo: $(VENV)/installed-demo
	$(VENV)/bin/deconv experiment=fig2_features layers=[conv1,fire3,fire5,fire7,fire9]

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# One stamp for each set of extras: pip runs again when pyproject.toml is newer than its last success.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find deconv experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
