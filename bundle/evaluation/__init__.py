"""Comparing methods on whole videos: baselines, perturbed input, clinical values, tables."""
