# make demo: Figure 2 and the atlas of the paper's network over real photographs.  make test: the tests.
# Both install first. For an ImageNet network: make demo MODEL=squeezenet LAYERS=conv1,fire3,fire5
PYTHON ?= python3
VENV := .venv
MODEL ?= zfnet64_trunk
LAYERS ?= conv1,conv2,conv3,conv4,conv5
# Only zfnet64 comes with what each of its units can reach; of another network units are drawn at random.
CHOOSE ?= $(if $(filter zfnet64 zfnet64_trunk,$(MODEL)),strongest,random)
# At 96 pixels things have nearly the size at which zfnet64 learned them.
SQUARE := model.size=[96,96]
SIZE ?= $(if $(filter zfnet64_trunk,$(MODEL)),$(SQUARE))

.PHONY: demo test lint docs notebooks bench reliability coverage clean

demo: $(VENV)/installed-demo
	$(VENV)/bin/deconv experiment=fig2_features model=$(MODEL) layers=[$(LAYERS)] choose=$(CHOOSE) $(SIZE)
	$(VENV)/bin/deconv experiment=atlas model=$(MODEL) layers=[$(LAYERS)] $(SIZE)

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# make docs: the documentation as a site, site/index.html.  make notebooks: runs those of docs/notebooks and keeps what they give.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo site/index.html

notebooks: $(VENV)/installed-docs
	OMP_NUM_THREADS=1 $(VENV)/bin/python docs/run_notebooks.py

# make reliability: runs the tests of what deconv promises and writes RELIABILITY.md from what they report.
reliability: $(VENV)/installed-test
	$(VENV)/bin/python -m tests.reliability

# make coverage: what is missing of outputs/coverage.jsonl, and docs/COVERAGE.md; about an hour from nothing. To measure
# some architectures again: make coverage COVERAGE="torchvision/resnet18 timm/resnet10t".
coverage: $(VENV)/installed-test
	$(VENV)/bin/python -m tests.coverage $(COVERAGE)

# make bench: everything against its peers; make bench BENCH="projection --quick" for a part (see benchmarks/README.md).
bench: $(VENV)/installed-peers
	$(VENV)/bin/python -m benchmarks $(BENCH)

# Without dependencies, so that pip leaves torch as it is; what the two import is in the extra.
$(VENV)/installed-peers: Makefile | $(VENV)/installed-bench
	$(VENV)/bin/python -m pip install --no-deps zennit==0.4.6 zennit-crp==0.6.0
	touch $@

# One stamp for each set of extras: pip runs again when pyproject.toml is newer than its last success.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find benchmarks deconv experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
