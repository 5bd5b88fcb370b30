"""Write the results of one video; one module for each format."""

from bundle.io.writing.results import ResultWriter
from bundle.visualization.overlay import blend

__all__ = ["ResultWriter", "blend"]
