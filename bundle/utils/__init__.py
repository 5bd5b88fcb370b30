"""Devices, processes, options, files that appear whole."""
