# make demo       what burst does, on this machine, in a minute or two
# make test       every kind of test, in its most telling cases; as root it installs the Debian packages it uses
# make test-all   every case: about two hours
# make test-fast  what takes seconds
# make lint       style, types, layers
# make bench      start-up cost of the wrapper, and builds against plain cargo and sccache
# make live       one server's life at the real Hetzner; says what it costs, and needs your consent (tests/live)

# The first that really is 3.11 or newer (a pyenv shim may exist without a version behind it).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python

SYSTEM_PACKAGES := bubblewrap openssh-server systemd-container debootstrap iproute2 build-essential shellcheck \
	passt slirp4netns postgresql mariadb-server redis-server \
	gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

PIP := $(RUN) -m pip --quiet --disable-pip-version-check --no-input

.PHONY: demo test test-all test-fast lint format bench live system-packages clean
.DEFAULT_GOAL := test-fast

demo: $(VENV)/.bench
	@$(RUN) benchmarks/demo.py

test: $(VENV)/.dev system-packages
	@$(RUN) -m pytest --durations=15 --numprocesses=auto

test-all: export BURST_TEST_ALL := 1
test-all: test

test-fast: $(VENV)/.dev
	@$(RUN) -m pytest -m "not slow and not projects"

lint: $(VENV)/.dev
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

bench: $(VENV)/.bench
	@$(RUN) benchmarks/startup.py
	@$(RUN) benchmarks/cold_warm.py
	@$(RUN) benchmarks/ssh_bytes.py

live: $(VENV)/.dev
	@$(RUN) tests/live/smoke.py $(LIVE)

# Debian's python3 comes without ensurepip: then python3-venv as root, else virtualenv.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on PATH" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	|| { rm -rf $(VENV); test "$$(id -u)" = 0 && apt-get install -qq -y python3-venv >/dev/null \
	     && $(PYTHON) -m venv $(VENV); } \
	|| { rm -rf $(VENV); $(PYTHON) -m pip install -q --root-user-action=ignore --target .cache/virtualenv virtualenv \
	     && PYTHONPATH=.cache/virtualenv $(PYTHON) -m virtualenv -q $(VENV); } \
	|| { rm -rf $(VENV); echo "error: cannot make a virtual environment" >&2; \
	     echo "hint: install python3-venv, or virtualenv" >&2; exit 1; }

# Dependency groups need pip 25.1.
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --editable . --group dev
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.dev
	@$(PIP) install --group bench
	@touch $@

system-packages:
	@missing=; for package in $(SYSTEM_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
		|| missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		policy=/usr/sbin/policy-rc.d; \
		if [ ! -e $$policy ]; then \
			printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; trap "rm -f $$policy" EXIT; \
			echo "(none of their services is started: $$policy says so meanwhile)"; fi; \
		{ apt-get -qq update && apt-get -qq -y --no-install-recommends install $$missing; } \
			>/dev/null </dev/null \
		|| echo "could not install$$missing: the tests that need them are skipped"; \
	else echo "not installed:$$missing: the tests that need them are skipped"; fi

clean:
	rm -rf $(VENV) .cache .demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
