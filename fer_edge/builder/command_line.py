"""The ``fer-edge build`` command that asks for given options."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from fer_edge.builder.options import BuildOptions


def _value(flag: str) -> Callable[[Any], list[str]]:
    return lambda value: [flag, str(value)]


def _switch(flag: str) -> Callable[[Any], list[str]]:
    return lambda value: [flag]


#: Options whose flag is not their name.
_FLAGS: Mapping[str, Callable[[Any], list[str]]] = {
    "precision": lambda value: [f"--{value}"],
    "sensitivity": _switch("--sensitivity"),
    "attention": _switch("--attention"),
    "skip_bad": _switch("--skip-bad"),
    "compute_capabilities": lambda value: ["--compute-capability", *value],
    "plugin": lambda value: ["--plugin" if value == "required" else "--no-plugin"],
}


def build_command(options: BuildOptions, **changes: Any) -> str:
    """Return the command for ``options`` with ``changes``, to be pasted into a shell.

    The precision is always named, since that is what a reader looks for first.
    """
    options = dataclasses.replace(options, **changes)
    words = ["fer-edge", "build"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default or field.name == "precision":
            words += _FLAGS.get(field.name, _value("--" + field.name.replace("_", "-")))(value)
    return shlex.join(words)
