"""Helpers: devices, processes, threads, options of the command line, paths, atomic file writing."""
