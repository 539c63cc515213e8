"""Griffe extension: Sphinx roles in docstrings, such as ``:class:`fer_edge.Face```, become code on the page."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|data|func|meth|mod|attr|exc|obj):`~?([^`]+)`")


class CrossReferences(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
