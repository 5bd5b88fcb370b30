"""Segment one video: settings, prompts, propagation, corrections, checkpoints and saving of results."""
