"""Griffe extension: show ``Example:`` sections of docstrings as code in the API reference.

Griffe, which reads the docstrings for MkDocs, knows the plural ``Examples:`` only.
"""

import re
from typing import Any

import griffe


class SingularExample(griffe.Extension):
    """Renames ``Example:`` to ``Examples:`` before Griffe parses a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
