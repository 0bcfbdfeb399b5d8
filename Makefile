# The two commands of a newcomer are `make demo` and `make test`; everything runs in .venv.
PYTHON ?= python3
BIN := .venv/bin
IMAGES ?=
OUT ?= demo_out

.PHONY: demo test check format install clean

install: .venv/.installed

# One marker file, so that a second run installs nothing and needs no network.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py --out $(OUT) $(if $(IMAGES),--images $(IMAGES))

test: install
	$(BIN)/python -m pytest -n 2 -m "not gpu"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not gpu"

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(OUT)
