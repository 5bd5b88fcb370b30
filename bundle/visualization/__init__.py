"""Pictures of results: palette, overlays, curves."""
