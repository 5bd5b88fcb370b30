"""Programs that people look at: the annotation page and the MONAI Label app."""
