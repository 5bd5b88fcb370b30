"""Writing one video's results; a module for each kind of file."""

from bundle.io.writing.results import ResultWriter
from bundle.visualization.overlay import blend

__all__ = ["ResultWriter", "blend"]
