"""Losses, clips and the glue to MONAI's trainer."""
