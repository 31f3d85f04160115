# One command each. All of it works on a fresh Debian or Ubuntu, as root.
.PHONY: install demo test simulate test-slow lint security soak bench ci clean help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv with insula and the runtimes of this host in it

.venv/installed: pyproject.toml scripts/install
	scripts/install
	touch $@

.venv/test-installed: .venv/installed
	.venv/bin/python -m pip install --quiet --group test --group lint --group bench
	scripts/install-node
	touch $@

demo: .venv/installed  ## install, run a tenant-isolated function as two tenants, show the isolation
	.venv/bin/python -m pip install --quiet --group demo
	.venv/bin/python examples/demo.py

test: .venv/test-installed  ## install what the tests need, and run them
	.venv/bin/python -m pytest -m "not slow" -n 3 --dist loadfile

simulate: .venv/test-installed  ## thousands of random worlds around the dispatcher, on all processors
	.venv/bin/python -m tests.simulation --seeds 3000

test-slow: .venv/test-installed  ## the longer tests; installs what their virtual machine needs
	scripts/install-machine
	.venv/bin/python -m pytest -m slow

lint: .venv/test-installed  ## ruff and mypy --strict
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

security: .venv/test-installed  ## the attacks
	.venv/bin/python -m pytest tests/security

soak: .venv/test-installed  ## ten minutes of mixed load with kills; then nothing may be left
	.venv/bin/python -m tests.soak.run

bench: .venv/test-installed  ## measure, next to a bare floor
	.venv/bin/python bench/run.py

ci:  ## what CI runs
	.ci/run

clean:  ## remove everything that was built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
