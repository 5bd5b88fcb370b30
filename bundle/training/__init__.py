"""Training: losses, clips, simulated prompts, unlabelled regions, and handlers of MONAI's trainer."""
