"""A folder of videos on its way to a reviewed data set: state on disk, review, export; no page."""
