"""An app for MONAI Label: paint one frame in 3D Slicer, get all."""
