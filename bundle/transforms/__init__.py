"""Augmentation and preprocessing of frames and masks."""
