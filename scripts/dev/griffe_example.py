"""Let the reference show ``Example:`` sections as code, which it does with ``Examples:`` alone."""

import re
from typing import Any

import griffe


class SingularExample(griffe.Extension):
    """An extension of Griffe, which reads docstrings for the site."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
