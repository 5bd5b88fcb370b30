"""What scripts/dev/benchmark.py measures, and how; docs/benchmarks.md is the contract."""
