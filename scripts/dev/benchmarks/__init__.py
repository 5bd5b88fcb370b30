"""The measurements of scripts/dev/benchmark.py. Their rules are in docs/benchmarks.md."""
