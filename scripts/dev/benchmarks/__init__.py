"""What scripts/dev/benchmark.py measures, and how; docs/studies/speed.md is the contract."""
