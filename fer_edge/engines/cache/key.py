"""Cache key of an engine: everything that its content depends on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fer_edge.cuda.cuda_device import checked, import_runtime
from fer_edge.cuda.gpus import ComputeCapability
from fer_edge.errors import UsageError
from fer_edge.system.machine import LocalMachine, read_driver_version

#: Incremented when the meaning of a field or the use of the compilers changes; it invalidates every digest.
FORMAT_VERSION = 2
_MAX_OPTIONS = 32
_MAX_NUMBER = 1 << 53  # beyond it JSON numbers are not exact everywhere
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Keys are read from disk and printed: no control characters, bounded length.
_MAX_TEXT_CHARS = 80
_CHARACTERS = r"\w.,:+/() -"
_TEXT = re.compile(rf"[{_CHARACTERS}]{{1,{_MAX_TEXT_CHARS}}}", re.ASCII)

_FIX = "Fix: report this with the output of fer-edge doctor"

Option = str | int | float | bool | None


@dataclass(frozen=True)
class GpuKey:
    """Target device of an engine.

    Attributes
    ----------
    compute_capability : (int, int)
        Such as (8, 7).
    name : str or None
        Name and size, such as ``Orin, 8 multiprocessors, 7 GiB``; ``None`` for any device of the capability.
    driver : str or None
        Version of the driver and the newest CUDA that it supports, such as ``540.4.0, CUDA 12.6``; ``None`` for any.
    """

    compute_capability: ComputeCapability
    name: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class PluginKey:
    """The plugin library that an engine needs."""

    name: str
    version: str
    sha256: str

    def __post_init__(self) -> None:
        _require_text("plugin name", self.name)
        _require_text("plugin version", self.version)
        require_sha256("plugin", self.sha256)


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on: two engines with equal keys are interchangeable.

    Attributes
    ----------
    onnx_sha256 : str
        Hash of the compiled file, which includes the activation ranges of an INT8 network as Q/DQ scales.
    precision : str
        "fp32", "fp16" or "int8".
    batches : (int, int, int)
        Minimum, optimum and maximum batch of the profile.
    flavour, flavour_version : str
        The compiler and its version, such as "tensorrt" and "10.3.0".
    compute_capability : (int, int)
        Compute capability of the target device.
    gpu, driver : str or None
        Name, and driver and CUDA version of the target device, as in :class:`GpuKey`: the fastest kernels differ
        between devices of one capability. ``None`` for an engine that was compiled ahead of time.
    plugin : PluginKey or None
        The plugin library, if the network needs it.
    options : mapping
        Builder options that change the engine, such as the limit of scratch memory and the level.
    """

    onnx_sha256: str
    precision: str
    batches: tuple[int, int, int]
    flavour: str
    flavour_version: str
    compute_capability: ComputeCapability
    gpu: str | None = None
    driver: str | None = None
    plugin: PluginKey | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_sha256("onnx", self.onnx_sha256)
        for name in ("precision", "flavour", "flavour_version"):
            _require_text(name, getattr(self, name))
        for name in ("gpu", "driver"):
            if getattr(self, name) is not None:
                _require_text(name, getattr(self, name))
        for name, length in (("batches", 3), ("compute_capability", 2)):
            values = getattr(self, name)
            if not (isinstance(values, tuple) and len(values) == length and all(map(is_count, values))):
                raise UsageError(
                    f"{name} must be {length} non-negative integers, found {values!r:.80}. {_FIX}"
                )
        if not (isinstance(self.options, Mapping) and len(self.options) <= _MAX_OPTIONS):
            raise UsageError(
                f"options must be a mapping of at most {_MAX_OPTIONS} names, found {self.options!r:.80}. {_FIX}"
            )
        for name, value in self.options.items():
            _require_text("the name of an option", name)
            if isinstance(value, str):
                _require_text(name, value)
            elif not (value is None or (isinstance(value, int | float) and abs(value) < _MAX_NUMBER)):
                raise UsageError(f"option {name} must be text, a number or None, found {value!r:.80}. {_FIX}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, value: Any) -> EngineKey:
        """Return the key that :meth:`to_dict` wrote.

        Raises
        ------
        UsageError
            If ``value`` is not such a key.
        """
        names = {f.name for f in fields(cls)}
        if not (isinstance(value, dict) and value.keys() == names):
            raise UsageError(
                f"an engine key must have the fields {', '.join(sorted(names))}, found {value!r:.80}. {_FIX}"
            )
        parts = dict(value)
        try:
            parts |= {name: tuple(value[name]) for name in ("batches", "compute_capability")}
            if value["plugin"] is not None:
                parts["plugin"] = PluginKey(**value["plugin"])
        except TypeError as error:
            raise UsageError(f"an engine key has fields of the wrong type ({error}). {_FIX}") from error
        return cls(**parts)

    def digest(self) -> str:
        """Return 64 hex digits that are equal only for equal keys."""
        text = json.dumps([FORMAT_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def parts(self) -> dict[str, str]:
        """Return every part as text; the first names compiler and device."""
        major, minor = self.compute_capability
        parts = {
            "device": f"{self.flavour_version} sm{major}{minor}",
            "flavour": self.flavour,
            "gpu": f"on {self.gpu or 'any GPU'}",
            "driver": f"driver {self.driver or 'none'}",
            "precision": self.precision,
            "batches": "batches {}/{}/{}".format(*self.batches),
            "onnx": f"model {self.onnx_sha256[:8]}",
            "plugin": "no plugin",
        }
        if self.plugin is not None:
            parts["plugin"] = f"plugin {self.plugin.name} {self.plugin.version} ({self.plugin.sha256[:8]})"
        return parts | {f"option {name}": f"{name}={value}" for name, value in self.options.items()}


def identify_gpu(index: int = 0) -> GpuKey:
    """Return the key of this GPU.

    Every Jetson Orin has the name ``Orin``: multiprocessors and memory distinguish a Nano from an AGX.

    Raises
    ------
    BackendError
        As :class:`fer_edge.cuda.cuda_device.CudaDevice`.
    """
    cuda = import_runtime(index)
    found = checked(cuda, cuda.cudaGetDeviceProperties(index))
    name = f"{found.name.decode(errors='replace')}, {found.multiProcessorCount} multiprocessors, {round(found.totalGlobalMem / 2**30)} GiB"
    version = int(checked(cuda, cuda.cudaDriverGetVersion()))
    driver = (read_driver_version(LocalMachine()), f"CUDA {version // 1000}.{version % 1000 // 10}")
    return GpuKey((int(found.major), int(found.minor)), _key_text(name), ", ".join(filter(None, driver)))


def describe_difference(old: EngineKey, new: EngineKey) -> str:
    """Return text such as "built for 10.3.0 sm87, here 10.13.3 sm87": the device and all other differences."""
    before, after = old.parts(), new.parts()
    differing = [n for n in {**before, **after} if n == "device" or before.get(n) != after.get(n)]
    words = [" ".join(parts.get(n, f"{n} not set") for n in differing) for parts in (before, after)]
    return f"built for {words[0]}, here {words[1]}"


def count_differences(old: EngineKey, new: EngineKey) -> int:
    """Return the number of parts that differ."""
    before, after = old.parts(), new.parts()
    return sum(before.get(name) != after.get(name) for name in {**before, **after})


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _key_text(text: str) -> str:
    """Return ``text`` as valid key text: invalid characters become ``-``, and it is truncated."""
    return re.sub(rf"[^{_CHARACTERS}]", "-", text, flags=re.ASCII)[:_MAX_TEXT_CHARS] or "-"


def _require_text(name: str, value: Any) -> None:
    if not (isinstance(value, str) and _TEXT.fullmatch(value)):
        raise UsageError(
            f"{name} must be up to {_MAX_TEXT_CHARS} letters, digits and .,:+/()-_, found {value!r:.100}. {_FIX}"
        )


def require_sha256(name: str, value: Any) -> None:
    if not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise UsageError(f"the sha256 of {name} must be 64 hex digits, found {value!r:.100}. {_FIX}")
