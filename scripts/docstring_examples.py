"""Sections `Example:` of docstrings as code on the site: `mkdocs.yml` names this file as an extension of griffe.

griffe knows `Examples:`, and takes the other for a remark, whose `>>>` would become quotations.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class DocstringExamples(Extension):
    """Renames the section, for this reader only."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called for every object that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
