"""What data sets hold, one module a layout: records of paths, never pixels."""
