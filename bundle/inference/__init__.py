"""One video with its masks: sessions, propagation, corrections, results."""
