"""Score methods on whole videos: metrics, baselines, perturbed input, clinical values, reports."""
