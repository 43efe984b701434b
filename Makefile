# make demo      train a DenseNet on scanned digits, about a minute of training on two cores
# make setup     .venv with what the demo needs
# make test      the tests: about 10 minutes on two cores
# make test-all  the thorough ones too: about half an hour
# make lint      ruff
# make pins      requirements.txt and requirements-test.txt anew, from setup.cfg

# Any Python >= 3.12; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for python in python3.12 python3.13 python3.14 python3 python $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --quiet
# The tests on two workers; those of a file stay together and share what they make.
PYTEST := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/compiled $(VENV)/bin/python -m pytest -n 2 --dist loadfile
DEMO := $(VENV)/bin/python experiments/train.py --data.name digits --data.augment --model.depth 22 \
	--model.growth-rate 12 --epochs 40

.PHONY: always demo test test-all lint pins setup clean

demo: $(VENV)/.demo
	@out=runs/demo; n=2; while [ -e "$$out/summary.json" ]; do out=runs/demo-$$n; n=$$((n + 1)); done; \
	echo $(DEMO) --out "$$out"; $(DEMO) --out "$$out"

test: $(VENV)/.test
	@$(VENV)/bin/python tests/ready.py
	$(PYTEST) -m "not thorough" --durations 10

test-all: $(VENV)/.test
	@$(VENV)/bin/python tests/ready.py
	$(PYTEST) --durations 20

lint: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

setup: $(VENV)/.demo

pins: $(VENV)/.test
	$(PIP) uv
	$(VENV)/bin/uv pip compile --quiet --universal --no-emit-index-url --python-version 3.12 \
		--custom-compile-command "make pins" setup.cfg -o requirements.txt
	$(VENV)/bin/uv pip compile --quiet --universal --no-emit-index-url --python-version 3.12 --extra test \
		-c requirements.txt --custom-compile-command "make pins" setup.cfg -o requirements-test.txt

# A virtual environment of another Python, without pip, or one whose Python has gone, is made anew.
CHECK := import sys, pip; sys.exit(sys.version_info < (3, 12))
WHOLE := $(shell $(VENV)/bin/python -c '$(CHECK)' 2>/dev/null && echo yes)

$(VENV)/.demo: requirements.txt setup.cfg $(if $(WHOLE),,always)
	@[ -n "$(PYTHON)" ] || { echo "error: Python >= 3.12 is needed: 'pyenv install 3.12', or see python.org/downloads" >&2; exit 2; }
	@$(VENV)/bin/python -c '$(CHECK)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "error: $(PYTHON) has no venv: 'apt install python3-venv', or another with 'make PYTHON=...'" >&2; exit 2; }
	@$(call install,-r requirements.txt)
	@$(call install,--no-deps --editable .)
	@touch $@

# What pip refuses, as without a network, is its last line.
install = echo "pip install $(1)"; $(PIP) $(1) 2>$(VENV)/pip.log || \
	{ echo "error: pip install $(1) failed; is a package index within reach? ($$(tail -n 1 $(VENV)/pip.log))" >&2; exit 2; }

always:

$(VENV)/.test: $(VENV)/.demo requirements-test.txt
	@$(VENV)/bin/python tests/ready.py install
	@$(call install,-r requirements-test.txt)
	@touch $@

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
