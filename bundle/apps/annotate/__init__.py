"""A page to annotate videos in: paint one frame, propagate the mask, correct it (``tcmn annotate``)."""
