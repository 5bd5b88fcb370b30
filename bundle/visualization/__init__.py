"""Draw pictures of results: palette, overlays, curves."""
