"""The MONAI Label app: segment a video in 3D Slicer from a painted frame or from points."""
