"""Text from files, on its way to terminals, pages and artefacts."""

from __future__ import annotations

import unicodedata


def plain_text(text: str) -> str:
    r"""The text without what no reader would see: control characters, as of terminals, and lone surrogates are `?`.

    Example:
        >>> plain_text("grip\x1b[31mper\n")
        'grip?[31mper '
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if c in "\t\n\r" else "?" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
