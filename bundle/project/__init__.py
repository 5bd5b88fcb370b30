"""Projects: annotate a folder of videos to a reviewed data set; state on disk, review, export."""
