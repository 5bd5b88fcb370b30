"""The annotation page (``tcmn annotate``): paint or point in one frame, propagate, correct, export."""
