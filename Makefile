# make demo    documents -> tokens -> training -> text, three to eleven minutes on two CPU cores after the installation
# make chat-demo    then: the demo's model learns to answer questions about Python, under three minutes
# make test    the tests, under five minutes; make test-all adds the slow ones and all examples of the property tests
VENV ?= .venv
PYTHON ?= python3
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: demo demo-short chat-demo chat-demo-short test test-rest test-all lint

demo: $(VENV)/installed
	python prepare_wiki.py config/data_pydocs.py
	python train.py config/demo.py
	python sample.py --checkpoint=out/demo --prompt='Return a copy of the array' --max_new_tokens=100

# The same commands with fewer steps, for CI.
demo-short: $(VENV)/installed
	python prepare_wiki.py config/data_pydocs.py
	python train.py config/demo.py --out_dir=out/demo-short --max_iters=60 --eval_interval=30 --checkpoint_interval=30
	python sample.py --checkpoint=out/demo-short --prompt='Return a copy of the array' --max_new_tokens=100

chat-demo: $(VENV)/installed out/demo/latest
	python prepare_chat.py config/chat_pydocs.py
	python train.py config/sft_demo.py
	python chat.py --checkpoint=out/chat-demo --prompt='What does numpy.clip do?'
	python chat.py --checkpoint=out/chat-demo --prompt='Show an example of numpy.clip.'

# The same after demo-short.
chat-demo-short: $(VENV)/installed out/demo-short/latest
	python prepare_chat.py config/chat_pydocs.py
	python train.py config/sft_demo.py --init_from=out/demo-short --out_dir=out/chat-demo-short --max_iters=40 --eval_interval=20 --checkpoint_interval=20
	python chat.py --checkpoint=out/chat-demo-short --prompt='What does numpy.clip do?'
	python chat.py --checkpoint=out/chat-demo-short --prompt='Show an example of numpy.clip.'

out/demo/latest:
	$(error the demo's model is not there; first: make demo)

out/demo-short/latest:
	$(error the short demo's model is not there; first: make demo-short)

test: $(VENV)/installed-dev
	python -m pytest -n 2 --dist=worksteal

# What `make test` leaves out. (hypothesis marks its tests with its name.)
test-rest: export HYPOTHESIS_PROFILE ?= full
test-rest: $(VENV)/installed-dev
	python -m pytest -n 2 --dist=worksteal --durations=25 -m 'slow or hypothesis'

test-all: test test-rest

lint: $(VENV)/installed-dev
	ruff check .
	ruff format --check .

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "NonLlama needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
