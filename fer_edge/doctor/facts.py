"""Facts that ``fer-edge doctor`` reads from a machine. All input may be missing, damaged or hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from fer_edge._utils.text import printable
from fer_edge.cuda.gpus import Gpu
from fer_edge.system.machine import Machine, read_number

_MAX_LINE_CHARS = 160
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"
_PACKAGES = ("nvidia-jetpack", "libnvinfer[0-9]*", "python3-libnvinfer")


class Facts:
    """Facts that several checks need.

    Attributes
    ----------
    machine : Machine
        Source of the facts.
    board : str
        Model of an embedded board; empty on other machines.
    l4t : (int, str) or None
        Major version and full L4T release, such as (36, "36.4.3").
    jetson, container : bool
        Whether this is a Jetson, and whether this is a container.
    packages : mapping
        Installed Debian packages of TensorRT and JetPack → version.
    cuda : mapping or None
        Answer of the driver; ``None`` if it hung or crashed.
    gpus : list of Gpu
        Usable GPUs.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.board = printable_line(machine.read("/proc/device-tree/model"))
        self.l4t = _parse_l4t(machine.read("/etc/nv_tegra_release"))
        compatible = machine.read("/proc/device-tree/compatible") or ""
        self.jetson = self.l4t is not None or "Jetson" in self.board or "nvidia,tegra" in compatible
        self.container = any(machine.read(path) is not None for path in ("/.dockerenv", "/run/.containerenv"))
        query = "-f=${Package}\t${Version}\t${db:Status-Status}\n"
        self.packages = _parse_packages(machine.run("dpkg-query", "-W", query, *_PACKAGES))
        self.cuda = machine.ask("cuda")
        self.gpus = _parse_gpus(self.cuda)

    def has_nvidia_card(self) -> bool:
        """Return whether there is an NVIDIA GPU on the PCI bus, with or without a driver."""
        for path in self.machine.find("/sys/bus/pci/devices/*/vendor"):
            vendor, kind = (self.machine.read(p) or "" for p in (path, path.replace("/vendor", "/class")))
            if vendor.strip() == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
                return True
        return False

    def processor(self) -> str:
        """Return the name of the processor; empty if unknown."""
        text = self.machine.read("/proc/cpuinfo") or ""
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        return printable_line(found[1]) if found else ""

    def tensorrt_library(self) -> str:
        """Return the version of libnvinfer from its package or file name; empty if not installed."""
        for name, version in self.packages.items():
            if re.fullmatch(r"libnvinfer\d+", name):
                return version.partition("-")[0]
        files = self.machine.find("/usr/lib/*/libnvinfer.so.*")
        return printable_line(max((path.rpartition(".so.")[2] for path in files), key=len, default=""))

    def tensorrt_pythons(self) -> list[str]:
        """Return the Python versions for which the system has the TensorRT module, such as "3.10"."""
        paths = self.machine.find("/usr/lib/python3*/dist-packages/tensorrt")
        return [found[1] for path in paths if (found := re.search(r"/python(3\.\d+)/", path))]

    def toolkit_version(self) -> str:
        """Return the version of the CUDA toolkit; empty if not installed."""
        try:
            return printable_line(
                json.loads(self.machine.read("/usr/local/cuda/version.json") or "")["cuda"]["version"]
            )
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""

    def power_modes(self) -> list[tuple[int, str]]:
        """Return number and name of the power modes of a Jetson."""
        text = self.machine.read("/etc/nvpmodel.conf") or ""
        found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d{1,3})\s+NAME=([\w.-]{1,40})", text, re.MULTILINE)
        return [(int(number), name) for number, name in found]

    def power_mode(self, modes: Sequence[tuple[int, str]]) -> str | None:
        """Return the name of the current power mode."""
        if current := re.search(r"NV Power Mode: *([\w.-]{1,40})", self.machine.run("nvpmodel", "-q") or ""):
            return current[1]
        stored = re.search(r"pmode:(\d{1,4})\b", self.machine.read("/var/lib/nvpmodel/status") or "")
        return dict(modes).get(int(stored[1])) if stored else None

    def gpu_clock_hz(self) -> tuple[int, int] | None:
        """Return the current lower and upper clock limit of the GPU of a Jetson."""
        # Thor's GPU has two clocks: gpu-gpc-0 for compute, gpu-nvd-0 for video.
        for place in self.machine.find("/sys/class/devfreq/*gpu*"):
            low, high = (read_number(self.machine, f"{place}/{name}_freq") for name in ("min", "max"))
            if "nvd" not in place and low is not None and high is not None:
                return low, high
        return None


def printable_line(value: Any) -> str:
    """Return a value as one printable line of bounded length."""
    text = str("" if value is None else value).replace("\0", " ")
    return printable(" ".join(text.split()), _MAX_LINE_CHARS)


def count(value: Any) -> int:
    """Return an integer of 64 bits, 0 for anything else."""
    return value if type(value) is int and abs(value) < 1 << 63 else 0


def items(value: Any) -> list[Any]:
    """Return a list, an empty one for anything else."""
    return value if isinstance(value, list) else []


def _parse_l4t(text: str | None) -> tuple[int, str] | None:
    found = re.search(r"#\s*R(\d{2,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3})*)", text or "")
    return (int(found[1]), f"{found[1]}.{found[2]}") if found else None


def _parse_packages(text: str | None) -> dict[str, str]:
    """Return installed package → version."""
    rows = (line.split("\t") for line in (text or "").splitlines())
    return {
        printable_line(row[0]): printable_line(row[1])
        for row in rows
        if len(row) == 3 and row[2] == "installed"
    }


def _parse_gpus(cuda: dict[str, Any] | None) -> list[Gpu]:
    found = []
    for device in items((cuda or {}).get("devices")):
        if isinstance(device, dict) and len(capability := items(device.get("compute_capability"))) == 2:
            major, minor = map(count, capability)
            found.append(
                Gpu(printable_line(device.get("name")), (major, minor), count(device.get("memory_bytes")))
            )
    return found
