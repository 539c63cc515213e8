"""Authors' checkpoints: read into our networks, and written back in the same layout.

A file is untrusted: only numbers and plain values are read from it, and no code in it runs.
A layout maps the entry names of one network's authors; :data:`LAYOUTS` holds the known ones.
"""

from fer_edge.export.checkpoints.dan import load_dan, save_dan
from fer_edge.export.checkpoints.emotionaldan import AuthorInputs
from fer_edge.export.checkpoints.layouts import LAYOUTS
from fer_edge.export.checkpoints.loading import (
    load_any,
    load_checkpoint,
    load_found,
    random_network,
    save_checkpoint,
    to_author_state,
)

__all__ = [
    "LAYOUTS",
    "AuthorInputs",
    "load_any",
    "load_checkpoint",
    "load_dan",
    "load_found",
    "random_network",
    "save_checkpoint",
    "save_dan",
    "to_author_state",
]
