"""Resources of the kernels on each GPU: registers, shared memory, spills, resident warps.

``python kernels/resources.py`` compiles the kernels for every target, warnings as errors, and prints the table;
``--write`` makes it the limits of ``resources.json``, with which the tests compare later compilations.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIMITS = FOLDER / "resources.json"
SOURCES = ("self_attention.cu", "crop_resize_normalize.cu")


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one streaming multiprocessor.

    Blocks and shared memory as in the toolkit's ``cuda_occupancy.h`` (13.0); warps from "Technical
    Specifications per Compute Capability" of the CUDA Programming Guide. All have 65,536 registers in four
    parts, given out in units of 256 per warp.
    """

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024  # of shared memory, per block, by the system
    shared_unit: int = 128


KIB = 1024
MULTIPROCESSORS = {
    "75": Multiprocessor(32, 16, 64 * KIB, reserved_bytes=0, shared_unit=256),  # Turing
    "80": Multiprocessor(64, 32, 164 * KIB),  # A100
    "86": Multiprocessor(48, 16, 100 * KIB),  # RTX 30
    "87": Multiprocessor(48, 16, 164 * KIB),  # Jetson Orin
    "89": Multiprocessor(48, 24, 100 * KIB),  # RTX 40
    "90": Multiprocessor(64, 32, 228 * KIB),  # H100
    "100": Multiprocessor(64, 32, 228 * KIB),  # B200
    "110": Multiprocessor(48, 24, 228 * KIB),  # Jetson Thor
    "120": Multiprocessor(48, 24, 100 * KIB),  # RTX 50
    "121": Multiprocessor(48, 24, 100 * KIB),  # GB10
}


@dataclass(frozen=True)
class LaunchSize:
    threads: int
    shared_bytes: int  # dynamic


@dataclass(frozen=True)
class Resources:
    """Of one kernel on one target."""

    registers: int
    spilled_bytes: int
    static_shared_bytes: int


def occupancy(target: str, registers: int, size: LaunchSize, static_shared_bytes: int = 0) -> int:
    """Return how many warps of a kernel reside on one multiprocessor."""
    limits = MULTIPROCESSORS[target]
    warps = -(-size.threads // 32)
    registers_per_warp = -(-registers * 32 // 256) * 256
    by_registers = 65536 // 4 // registers_per_warp * 4 // warps
    shared = size.shared_bytes + static_shared_bytes + limits.reserved_bytes
    shared = -(-shared // limits.shared_unit) * limits.shared_unit
    by_shared = limits.shared_bytes // shared if shared else limits.blocks
    return warps * min(by_registers, by_shared, limits.warps // warps, limits.blocks)


def compile_cubin(source: str, target: str, folder: Path) -> tuple[Path, dict[str, Resources]]:
    """Compile for one target, with spills and all warnings as errors; return the file and the report of ptxas.

    Raises
    ------
    RuntimeError
        With the compiler's own words.
    """
    output = folder / f"{Path(source).stem}.sm_{target}.cubin"
    report = _run(
        [
            *("nvcc", "-std=c++17", "-O3", f"-arch=sm_{target}", "-cubin", "-o", str(output)),
            *("-Werror", "all-warnings", "-I", str(FOLDER), str(FOLDER / source), "-Xptxas"),
            "-v,--warn-on-spills,--warn-on-local-memory-usage,--warning-as-error",
        ]
    )
    return output, parse_report(report)


def parse_report(report: str) -> dict[str, Resources]:
    """Read the output of ``ptxas -v``: kernel name → resources."""
    found = {}
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)"
    for name, stores, loads, registers, rest in re.findall(pattern, report, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[short_name(name)] = Resources(
            registers=int(registers),
            spilled_bytes=int(stores) + int(loads),
            static_shared_bytes=int(shared[1]) if shared else 0,
        )
    return found


def short_name(mangled: str) -> str:
    """Return ``self_attention<half,128>`` for the mangled name of a kernel with a type and constants."""
    base = re.search(r"\d+([a-z_]+)_kernel", mangled)
    kind = "half" if "6__half" in mangled else "float"
    constants = re.findall(r"L(?:[a-z]|NS_\d+[A-Za-z]+E)(\d+)E", mangled)
    return f"{base[1]}<{','.join([kind, *constants])}>" if base else mangled


def launch_sizes(folder: Path) -> dict[str, LaunchSize]:
    """Return kernel name → launch configuration, as the sources compute it."""
    program = folder / "launch_sizes"
    _run(["nvcc", "-std=c++17", "-o", str(program), str(FOLDER / "launch_sizes.cu"), "-I", str(FOLDER)])
    lines = [line.split() for line in _run([str(program)]).splitlines()]
    return {name: LaunchSize(int(threads), int(shared)) for name, threads, shared in lines}


def compile_all(folder: Path) -> dict[str, dict[str, Resources]]:
    """Compile every source for every target: target → kernel name → resources."""
    jobs = [(source, target) for target in MULTIPROCESSORS for source in SOURCES]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        reports = list(pool.map(lambda job: compile_cubin(*job, folder)[1], jobs))
    table: dict[str, dict[str, Resources]] = {target: {} for target in MULTIPROCESSORS}
    for (_, target), report in zip(jobs, reports, strict=True):
        table[target].update(report)
    return table


def limits_of(table: dict[str, dict[str, Resources]], sizes: dict[str, LaunchSize]) -> dict:
    """Return the content of ``resources.json``: per kernel its launch, the most registers, the fewest warps."""
    kernels = {}
    for name, size in sorted(sizes.items()):
        per_target = {target: table[target][name] for target in table}
        kernels[name] = {
            "threads": size.threads,
            "shared_bytes": size.shared_bytes,
            "registers": {target: each.registers for target, each in per_target.items()},
            "warps": {
                target: occupancy(target, each.registers, size, each.static_shared_bytes)
                for target, each in per_target.items()
            },
        }
    return {"compiler": compiler_version(), "kernels": kernels}


def compiler_version() -> str:
    """Return nvcc's version, such as ``13.0.88``."""
    match = re.search(r"V(\d+\.\d+\.\d+)", _run(["nvcc", "--version"]))
    return match[1] if match else "unknown"


def markdown_table(limits: dict) -> str:
    """One row per kernel and target group: registers and resident warps, side by side."""
    header = ["kernel", "threads", "shared bytes", *(f"sm_{target}" for target in MULTIPROCESSORS)]
    rows = [header, ["---"] * len(header)]
    for name, kernel in limits["kernels"].items():
        cells = [
            f"{kernel['registers'][target]} / {kernel['warps'][target]}"
            f" ({kernel['warps'][target] / MULTIPROCESSORS[target].warps:.0%})"
            for target in MULTIPROCESSORS
        ]
        rows.append([f"`{name}`", str(kernel["threads"]), str(kernel["shared_bytes"]), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _run(command: Sequence[str]) -> str:
    """Standard output and error of a program that must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def main() -> int:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"make it the limits in {LIMITS.name}")
    arguments = parser.parse_args()
    if shutil.which("nvcc") is None:
        print(
            "nvcc was not found: install the CUDA toolkit 13 and put its bin folder on the PATH",
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory() as folder:
        limits = limits_of(compile_all(Path(folder)), launch_sizes(Path(folder)))
    print(f"nvcc {limits['compiler']}; registers per thread / resident warps (occupancy); nothing spilled\n")
    print(markdown_table(limits))
    if arguments.write:
        LIMITS.write_text(json.dumps(limits, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
