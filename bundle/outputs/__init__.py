"""Writing one video's results; a module for each kind of file."""

from bundle.outputs.results import ResultWriter
from bundle.summary import blend

__all__ = ["ResultWriter", "blend"]
