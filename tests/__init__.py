"""The test suite; modules without ``test_`` are what tests share."""
