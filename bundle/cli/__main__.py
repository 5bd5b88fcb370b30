"""Run ``tcmn`` as ``python -m bundle.cli``, for when the script is not on the PATH."""

from bundle.cli import run

run()
