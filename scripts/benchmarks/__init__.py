"""What scripts/benchmark.py measures, and how; docs/benchmarks.md is the contract."""
