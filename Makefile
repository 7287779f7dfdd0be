# What a contributor runs; CONTRIBUTING.md says when.
.PHONY: setup check test test-slow bench

setup:
	pip install -c constraints.txt -e ".[test,dev]"

check:
	ruff check src tests
	ruff format --check src tests
	mypy --strict src
	lint-imports

test:
	pytest

test-slow:
	OMP_NUM_THREADS=1 pytest -m "slow and not gpu" -rs --timeout 1800 \
		--ignore tests/benchmarks/test_sweep_overhead.py  # needs a quiet machine: make bench

bench:
	OMP_NUM_THREADS=1 pytest tests/benchmarks -m "slow or not slow" -rs --timeout 1800
