"""Linux control groups, which limit memory and processors of containers and services."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

from fer_edge.system.machine import Machine

_MAX_GROUPS = 32


def find_control_groups(machine: Machine, controller: str) -> Iterator[tuple[str, int]]:
    """Yield the folder and the version, 1 or 2, of each group of this process with a controller.

    The innermost comes first. Paths relative to the root of a container are resolved within it.
    """
    text = machine.read("/proc/self/cgroup") or ""
    for place, pattern, version in (
        ("/sys/fs/cgroup", r"^0::(/.*)$", 2),
        (
            f"/sys/fs/cgroup/{controller}",
            rf"^\d+:(?:[^:\n]*,)?{re.escape(controller)}(?:,[^:\n]*)?:(/.*)$",
            1,
        ),
    ):
        found = re.search(pattern, text, re.MULTILINE)
        path = PurePosixPath(found[1] if found else "/")
        for group in islice((path, *path.parents), _MAX_GROUPS):
            if ".." not in group.parts:
                yield f"{place}{group}".rstrip("/"), version
