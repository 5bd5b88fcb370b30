"""Programs with a user interface or a server: the annotation page and the MONAI Label app."""
