"""``python -m bundle.cli``: ``tcmn``, also where its script is not on the path."""

from bundle.cli import run

run()
