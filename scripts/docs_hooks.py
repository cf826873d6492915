"""What MkDocs calls while it builds the documentation: docstrings have Sphinx's roles, which Markdown does not know."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """A page without the names of roles; what they mark stays marked as code."""
    return ROLE.sub("", html)
