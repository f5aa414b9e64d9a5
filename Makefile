# Two commands on a fresh machine with Python 3.11+, git and make: `make demo` and `make test`.
# Variables reach the recipes through the environment: RUN, DEVICES, SET, DATA, SMALL, PAIR.

PYTHON ?= python3
VENV ?= .venv
NAME =
RUN ?= runs/multi30k-de-en
OUT ?= runs/paper
WORKERS ?= 4
SEEDS ?= 1
LIMIT ?= 6
ROWS ?= all
MODEL ?= transformer
WORDS ?=
RATES ?=
SET ?=
JOBS ?= 2
INPUTS ?= 1000000

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo recipe wmt-recipe paper test test-fast test-system fuzz check check-lowest format docs bench clean

help: ## Show what there is
	@echo "make TARGET [VARIABLE=value]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r target text; do printf '  %-12s %s\n' $$target "$$text"; done
	@echo "Variables of demo and recipes: RUN=runs/mine DEVICES=cpu,cpu SET=\"--set model.type=rnn\""
	@echo "and of recipes: DATA=a folder or a mirror with the downloads, SMALL=1; recipes/README.md"

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nmtasync needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "Installing into $(VENV); this takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers,cluster]'
	@touch $@

install: $(INSTALLED) ## Make .venv and install nmtasync into it, with the versions of constraints.txt
	@echo "Ready: $(BIN)/nmtasync --help"

recipe: $(INSTALLED) ## Run a recipe, from downloads to BLEU: make recipe NAME=multi30k
	@[ -n "$(NAME)" ] && [ -x recipes/$(NAME)/run ] || \
	  { echo "NAME=$(NAME): there are" $(notdir $(patsubst %/run,%,$(wildcard recipes/*/run))) >&2; exit 2; }
	@PATH="$(abspath $(BIN)):$$PATH" recipes/$(NAME)/run

demo: NAME = demo
demo: recipe ## Generate a corpus, preprocess, train with 2 asynchronous workers, evaluate

wmt-recipe: NAME = wmt16-ro-en
wmt-recipe: recipe ## WMT 2016 Romanian-English with the paper's settings; SMALL=1 for a trial

paper: COST = recipes/paper/four_gpus.toml
paper: DEVICES = auto
paper: JOBS = $(if $(COST),2,1)
paper: $(INSTALLED) ## Run the ablation of Bogoychev et al. 2018 on RUN; see recipes/paper/README.md
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m recipes.paper.run "$(RUN)" "$(OUT)" \
	  --model "recipes/paper/$(MODEL).toml" $(if $(WORDS),--batch-tokens $(WORDS)) \
	  $(if $(COST),--cost "$(COST)") --workers $(WORKERS) --devices "$(DEVICES)" --seeds "$(SEEDS)" \
	  --epochs $(LIMIT) --rows "$(ROWS)" --rates "$(RATES)" --jobs $(JOBS) $(SET)

test: $(INSTALLED) ## Run the tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not system"

test-fast: $(INSTALLED) ## Run the tests that start no processes and are not slow: a minute
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal \
	  -m "not system and not processes and not slow"

test-system: $(INSTALLED) ## Run the tests that train for minutes, and those of the wheel
	$(BIN)/python -m pytest -q -m system --timeout 1800

fuzz: $(INSTALLED) ## Let all readers of files read damaged ones: INPUTS of them, finds to runs/fuzz
	$(BIN)/python -m tests.fuzz.many --inputs $(INPUTS) --jobs $(JOBS)

check: $(INSTALLED) ## What CI runs: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

check-lowest: ## Run the fast tests with the lowest versions that setup.cfg allows, in .venv-lowest
	$(PYTHON) -m venv --clear .venv-lowest
	awk -F== 'NR == FNR {lowest[$$1]; next} !($$1 in lowest)' constraints-lowest.txt constraints.txt \
	  | cat constraints-lowest.txt - > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c .venv-lowest/constraints.txt -e '.[dev]'
	$(MAKE) test-fast VENV=.venv-lowest INSTALLED=

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## Write docs/configuration.md anew from the schema
	$(BIN)/python -m nmtasync.config.reference > docs/configuration.md

bench: $(INSTALLED) ## Measure speed, side by side, on this machine
	@for file in $(filter-out benchmarks/common.py benchmarks/against_checkout.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean: ## Remove the environment and what the demo made; other experiments stay
	rm -rf $(VENV) .venv-lowest runs/demo runs/demo-corpus build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
