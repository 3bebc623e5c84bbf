# make demo   a small survey on disk, classified: a catalogue and a figure to open
# make test   style, types and tests; those of the inspection page need a chromium on the PATH
# make model  trains the model that comes with the package, for hours: TEMPLATES=folder of template sets
# Both create what they need under .venv-*/ and leave nothing elsewhere.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
OUT ?= demo/out
PIP = bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test model clean
.DELETE_ON_ERROR:

demo: .venv-demo/installed
	rm -rf $(OUT)
	.venv-demo/bin/broadline simulate $(OUT)/survey --archive boss --n 200 --seed 7 --files spectra
	.venv-demo/bin/broadline classify $(OUT)/survey/spectra -o $(OUT)/catalogue.fits
	.venv-demo/bin/python demo/compare.py $(OUT)

model: .venv-test/installed
	.venv-test/bin/broadline train -o model --in-memory 400000 --epochs 22 $(if $(TEMPLATES),--templates $(TEMPLATES))

test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/python -m pytest

.venv-demo/installed: pyproject.toml constraints.txt
	$(call environment,.venv-demo)
	.venv-demo/$(PIP) -e .
	touch $@

.venv-test/installed: pyproject.toml constraints.txt
	$(call environment,.venv-test)
	.venv-test/$(PIP) -e '.[dev,train,cluster,specutils,inspect,serve]'
	touch $@

define environment
	@test -n "$(PYTHON)" || { echo "broadline needs Python 3.11 or newer on the PATH"; exit 1; }
	@$(PYTHON) -m venv $(1) || { echo "this Python lacks venv; on Debian/Ubuntu: apt install python3-venv"; exit 1; }
endef

clean:
	rm -rf .venv-demo .venv-test $(OUT)
