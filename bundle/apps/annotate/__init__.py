"""A page to annotate videos in: paint one frame, carry the mask, correct it (``tcmn annotate``)."""
