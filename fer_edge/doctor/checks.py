"""Checks of board, power mode, memory and CPU backends, and the list of all checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from fer_edge.doctor import gpu_checks
from fer_edge.doctor.check import MISSING, OK, WARN, Check, answer_line
from fer_edge.doctor.facts import Facts, items
from fer_edge.engines.build.options import estimate_memory_bytes
from fer_edge.models.catalogue import CATALOGUE
from fer_edge.system.extras import install_command
from fer_edge.system.machine import LocalMachine, Machine
from fer_edge.system.memory import add_swap, measure_free_memory
from fer_edge.system.shell import pip_command

_MAX_MODEL = "resmasking"
#: First part of the L4T release → JetPack.
_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
_MIN_L4T = 36
_FASTEST_MODES = ("MAXN_SUPER", "MAXN")


def diagnose(machine: Machine | None = None) -> tuple[Check, ...]:
    """Check a machine, by default this one, within one minute."""
    facts = Facts(LocalMachine() if machine is None else machine)
    return tuple(check for look in _LOOKS for check in look(facts))


def _look_at_board(facts: Facts) -> Iterable[Check]:
    place = ", in a container" if facts.container else ""
    name = facts.board or facts.processor() or "unknown"
    yield Check("board", OK, f"{name} ({facts.machine.architecture}){place}")


def _look_at_jetpack(facts: Facts) -> Iterable[Check]:
    if not facts.jetson:
        return
    flash = "flash the board with JetPack 6 or later, which includes TensorRT 10.3 or later"
    if facts.l4t is None:
        found = "this is a Jetson, but /etc/nv_tegra_release does not name its release"
        yield Check(
            "JetPack", WARN, found, "mount this file into the container" if facts.container else flash
        )
        return
    major, release = facts.l4t
    package = re.match(r"\d+(\.\d+)*", facts.packages.get("nvidia-jetpack", ""))
    found = (
        f"JetPack {package[0] if package else _JETPACK.get(major, 'of an unknown version')} (L4T R{release})"
    )
    if major < _MIN_L4T:
        yield Check("JetPack", MISSING, found, flash)
    else:
        yield Check("JetPack", OK, found)


def _look_at_power(facts: Facts) -> Iterable[Check]:
    if not facts.jetson:
        return
    modes = facts.power_modes()
    mode = facts.power_mode(modes)
    best = next((m for name in _FASTEST_MODES for m in modes if m[1] == name), None)
    if mode is None:
        yield Check("power mode", WARN, "unknown", "query it", ("sudo nvpmodel -q",))
    elif best is not None and mode != best[1]:
        advice = f"{best[1]} is the fastest, if power supply and cooling allow it"
        yield Check("power mode", WARN, mode, advice, (f"sudo nvpmodel -m {best[0]}",))
    else:
        yield Check("power mode", OK, mode)
    clock = facts.gpu_clock_hz()
    if clock is not None and clock[0] == clock[1]:
        yield Check("clocks", OK, f"GPU fixed at {clock[1] / 1e6:.0f} MHz")
    elif clock is not None:
        found = f"GPU varies between {clock[0] / 1e6:.0f} and {clock[1] / 1e6:.0f} MHz"
        yield Check("clocks", OK, found, "fix the clocks before measuring", ("sudo jetson_clocks",))


def _look_at_memory(facts: Facts) -> Iterable[Check]:
    free = measure_free_memory(facts.machine)
    if free is None:
        yield Check("memory", WARN, "unknown", "check the free memory", ("free -h",))
        return
    needed = estimate_memory_bytes(4 * CATALOGUE[_MAX_MODEL].parameters)
    found = f"{free.memory_bytes / 1e9:.1f} GB free, swap {free.swap_bytes / 1e9:.1f} GB free"
    lacking = needed - free.total_bytes
    if lacking <= 0:
        yield Check("memory", OK, found)
    else:
        advice = f"building {_MAX_MODEL} in FP32 may need {needed / 1e9:.1f} GB: end programs, or add swap"
        inside = facts.container or free.limited  # swap must be added on the host
        yield Check("memory", WARN, found, advice, () if inside else add_swap(lacking))


def _look_at_cpu_backends(facts: Facts) -> Iterable[Check]:
    for name, question, command in (
        ("ONNX Runtime", "onnxruntime", pip_command("install", "onnxruntime")),
        ("OpenVINO", "openvino", install_command("openvino")),
    ):
        answer = facts.machine.ask(question) or {"error": "crashes or hangs on import"}
        if "version" in answer:
            providers = [str(p).removesuffix("ExecutionProvider") for p in items(answer.get("providers"))]
            yield Check(name, OK, answer_line(f"{answer['version']} {', '.join(providers)}"))
        else:
            found = "not installed" if answer.get("absent") else answer_line(answer.get("error"))
            yield Check(name, MISSING, found, "install it", (command,))


_LOOKS: Sequence[Callable[[Facts], Iterable[Check]]] = (
    _look_at_board,
    _look_at_jetpack,
    gpu_checks.look_at_driver,
    gpu_checks.look_at_gpu,
    gpu_checks.look_at_cuda,
    gpu_checks.look_at_tensorrt,
    gpu_checks.look_at_rtx,
    gpu_checks.look_at_own_parts,
    _look_at_power,
    _look_at_memory,
    _look_at_cpu_backends,
)
