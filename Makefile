# What README, CONTRIBUTING and .ci/run call. PYTHON chooses the interpreter: `make setup PYTHON=python3.12`.
PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
HOURS ?= 2

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# PortAudio for sounddevice; a private PulseAudio server is the tests' sound card; systemd reads the unit, and boots a
# machine that runs it; faketime sets a daemon's UTC; mosquitto and openssl's certificates are what bridges lead to.
SYSTEM_PACKAGES := libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins systemd dbus faketime mosquitto openssl

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check bench soak install-systemd install-units system-packages clean

help:
	@echo "make setup      .venv with the core packages (no torch)"
	@echo "make demo       simulate a sea, replay it while another process listens, draw what was found"
	@echo "make test       the tests; adds the training packages to .venv (several GB)"
	@echo "make test-long  the tests that take minutes"
	@echo "make check      ruff, mypy --strict, import contracts"
	@echo "make bench      throughput, memory, start-up, latency, live streams, the wire, training"
	@echo "make soak       HOURS=2 of live capture, then 100 h of replay: nothing grows, is lost or is unexplained"
	@echo "make install-systemd  as root: pamd in /opt/pamd, the unit pamd@.service and its user"
	@echo "make clean      remove .venv, caches and what demo, bench and soak left"

setup: .venv/core.stamp

demo: .venv/core.stamp
	$(BIN)/pamd demo

# One OpenMP thread each: more would spin for one another, which stalls trainings where cores are few.
test test-long: export OMP_NUM_THREADS = 1

# Four at a time on any machine: most of what takes long waits for real time to pass. A process that ends in the midst of
# its tests is not replaced: xdist 3.8 waits for the newcomer for ever (pytest-xdist issues 1323 and 1327).
test: .venv/full.stamp system-packages .venv/bin/promtool
	$(BIN)/python -m pytest -m "not long" --numprocesses 4 --dist loadgroup --max-worker-restart 0 $(PYTEST_ARGS)

test-long: .venv/full.stamp system-packages
	$(BIN)/python -m pytest -m long --timeout 0 -o faulthandler_timeout=0 $(PYTEST_ARGS)

check: .venv/full.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/full.stamp system-packages
	PYTHONPATH=tests $(BIN)/python tests/bench $(BENCH_ARGS)

soak: .venv/full.stamp system-packages
	$(BIN)/python tests/soak --hours $(HOURS)

install-systemd:
	$(PYTHON) -m venv $(DESTDIR)/opt/pamd
	$(DESTDIR)/opt/pamd/bin/python -m pip install --quiet --disable-pip-version-check . --constraint constraints.txt
	$(MAKE) --no-print-directory install-units
	[ -n "$(DESTDIR)" ] || { systemd-sysusers && systemctl daemon-reload; }
	@echo "next: docs/deploying.md"

install-units:
	install -D -m 644 systemd/pamd@.service $(DESTDIR)/etc/systemd/system/pamd@.service
	install -D -m 644 systemd/pamd.sysusers.conf $(DESTDIR)/etc/sysusers.d/pamd.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/doc/pamd systemd/pamd-gpu.conf systemd/pamd-keys.conf configs/prometheus-rules.yaml
	install -d $(DESTDIR)/usr/local/bin && ln -sf /opt/pamd/bin/pamd $(DESTDIR)/usr/local/bin/pamd
	[ -e $(DESTDIR)/etc/pamd ] || install -d -m 755 $(DESTDIR)/etc/pamd

clean:
	rm -rf .venv demo bench soak .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pamd needs Python 3.11 or newer; '$(PYTHON)' is missing or older: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "'$(PYTHON)' has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable . --constraint constraints.txt
	@touch $@

.venv/full.stamp: pyproject.toml constraints.txt constraints-train.txt | .venv/core.stamp
	@echo "installing the training and development packages: several GB, some minutes"
	$(INSTALL) --editable ".[train,dev]" --constraint constraints-train.txt
	@touch $@

# Prometheus's tool that tries alert rules, taken out of its package: the server is not installed.
.venv/bin/promtool: | .venv/bin/python system-packages
	@directory=$$(mktemp -d) && cd $$directory && chmod 755 . && apt-get download -qq prometheus \
	  && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool && chmod 755 promtool \
	  && mv promtool $(CURDIR)/$@ || echo "no promtool: tests of the alert rules need it" >&2; rm -rf $$directory

# Installed where that needs no password; elsewhere it is said what is missing, and the device tests fail.
system-packages:
	@missing=""; \
	if command -v dpkg-query >/dev/null; then for package in $(SYSTEM_PACKAGES); do \
	  dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep -q "ok installed" \
	    || missing="$$missing $$package"; done; fi; \
	if [ -n "$$missing" ]; then \
	  sudo=""; if [ "$$(id -u)" != 0 ]; then sudo="sudo -n"; fi; \
	  echo "installing$$missing"; \
	  { [ -z "$$sudo" ] || $$sudo true 2>/dev/null; } \
	    && $$sudo apt-get update -qq \
	    && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null \
	    || echo "could not: tests of sound devices need$$missing (apt-get install$$missing)" >&2; \
	fi
