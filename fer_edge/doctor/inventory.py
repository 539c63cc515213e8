"""Worker that probes one library, since a driver may hang and bindings may crash."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fer_edge.cuda.gpus import query_driver
from fer_edge.system.workers import serve


def ask_python() -> dict[str, Any]:
    """Return the version of Python and the kind of environment."""
    settings = Path(sys.prefix) / "pyvenv.cfg"
    text = settings.read_text(encoding="utf-8").lower() if settings.is_file() else ""
    return {
        "version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "environment": sys.prefix != sys.base_prefix,
        "system_packages": "include-system-site-packages = true" in text,
    }


def ask_cuda() -> dict[str, Any]:
    """Return status, version and devices of the driver."""
    try:
        return dataclasses.asdict(query_driver())
    except OSError as error:
        return {"error": str(error)}


def ask_module(name: str) -> dict[str, Any]:
    """Import a module and return its version and file."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # bindings raise any exception if a library is missing
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        return {"absent": absent, "error": str(error)}
    return {"version": str(module.__version__), "file": str(module.__file__)}


def ask_cuda_python() -> dict[str, Any]:
    """Return the version of cuda-python."""
    try:
        return {"version": importlib.metadata.version("cuda-bindings")}
    except importlib.metadata.PackageNotFoundError as error:
        return {"absent": True, "error": str(error)}


def ask_onnxruntime() -> dict[str, Any]:
    """Return version and execution providers of ONNX Runtime."""
    answer = ask_module("onnxruntime")
    if "version" in answer:
        answer["providers"] = importlib.import_module("onnxruntime").get_available_providers()
    return answer


def ask_kernels() -> dict[str, Any]:
    """Return the availability of the CUDA kernels."""
    from fer_edge.cuda.kernels import availability

    return dataclasses.asdict(availability())


def ask_plugin() -> dict[str, Any]:
    """Return the path of the TensorRT plugin."""
    from fer_edge.engines.plugin import require_plugin
    from fer_edge.errors import FerEdgeError

    try:
        return {"path": str(require_plugin())}
    except FerEdgeError as error:
        return {"error": str(error)}


QUESTIONS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "python": ask_python,
    "cuda": ask_cuda,
    "cuda-python": ask_cuda_python,
    "tensorrt": lambda: ask_module("tensorrt"),
    "tensorrt-rtx": lambda: ask_module("tensorrt_rtx"),
    "onnxruntime": ask_onnxruntime,
    "openvino": lambda: ask_module("openvino"),
    "kernels": ask_kernels,
    "plugin": ask_plugin,
}


if __name__ == "__main__":
    serve(lambda question, on_progress: QUESTIONS[question]())
