"""Errors: one base class, and suggestions for unknown names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from fer_edge import errors
from fer_edge.errors import FerEdgeError, UsageError, closest, lookup


def test_every_error_has_the_base() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, FerEdgeError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("onnxruntme", " (did you mean 'onnxruntime'?)"), ("zzz", ""), ("", "")],
)
def test_closest(name: str, expected: str) -> None:
    assert closest(name, ["openvino", "onnxruntime"]) == expected


def test_lookup() -> None:
    assert lookup({"a": 1}, "a", "thing") == 1
    with pytest.raises(
        UsageError, match=r"unknown thing 'mtccn'. Fix: choose from haar, mtcnn \(did you mean 'mtcnn'"
    ):
        lookup({"mtcnn": 1, "haar": 2}, "mtccn", "thing")


#: Functions whose messages get their remedy elsewhere → where.
COMPLETED = {
    "fer_edge/_utils/images.py:file_inside": "rows of a data set: BadRows.row adds it",
    "fer_edge/datasets/affectnet.py": "rows: BadRows.row adds it",
    "fer_edge/datasets/ckplus.py": "rows: BadRows.row adds it",
    "fer_edge/datasets/dataset.py": "rows: FaceDataset.__getitem__ raises BadRowError",
    "fer_edge/datasets/fer2013.py": "rows: BadRows.row adds it",
    "fer_edge/datasets/folders.py:_class_name": "rows: BadRows.row adds it",
    "fer_edge/datasets/folders.py:_subject": "rows: BadRows.row adds it",
    "fer_edge/datasets/rafdb.py": "rows: BadRows.row adds it",
    "fer_edge/datasets/rows.py": "rows: BadRows.row adds it",
    "fer_edge/datasets/numbered.py:parse_class_order": "that of fer_edge.labels.canonical",
    "fer_edge/weights/download.py": "attempts: fer_edge.weights.cache names the remedy of all of them",
    "fer_edge/weights/http.py": "attempts: fer_edge.weights.cache names the remedy of all of them",
    "fer_edge/weights/cache.py:_addresses": "that of check_address",
    "fer_edge/_utils/checks.py": "_refusal",
    "fer_edge/backends/int8_probe.py": "_probe",
    "fer_edge/backends/onnxruntime.py:OnnxRuntimeGpuBackend.open": "that of fer_edge._utils.onnx_files",
    "fer_edge/backends/onnxruntime.py:OnnxRuntimeSession.__init__": "a hint or _REBUILD",
    "fer_edge/backends/tensorrt.py:TensorRtBackend.open": "that of the engine's error",
    "fer_edge/builder/report.py:refuse": "next_steps",
    "fer_edge/engines/build/builder.py": "_explain",
    "fer_edge/engines/build/worker.py": "_build_failure, and each branch of the parser's message",
    "fer_edge/engines/run/device_thread.py": "that of the first failure",
    "fer_edge/sources/capture.py": "the text of the caller",
    "export/checkpoints/loading.py": "that of the inner error, and each branch of looks",
    "calibration/algorithms/mixed_precision.py": "_cannot",
    "calibration/comparison/peak_memory.py": "that of the worker's error",
    "calibration/int8.py": "_collapsed, _collapsed_dialect, and that of the inner error",
}
KINDS = {n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FerEdgeError)}


def _modules() -> dict[str, ast.Module]:
    files = (
        path
        for root in ("fer_edge", "export", "calibration")
        for path in sorted((ROOT / root).rglob("*.py"))
        if not any(part.is_symlink() for part in path.parents)
    )
    return {path.relative_to(ROOT).as_posix(): ast.parse(Path(path).read_text("utf-8")) for path in files}


def _names_remedy(node: ast.AST, constants: set[str]) -> bool:
    return any(
        (isinstance(part, ast.Constant) and isinstance(part.value, str) and "Fix: " in part.value)
        or (isinstance(part, ast.Name) and part.id in constants)
        for part in ast.walk(node)
    )


def _raised_without_remedy(node: ast.AST, constants: set[str], place: str = "") -> Iterator[str]:
    """Yield the qualified names of functions that make an error without a remedy."""
    for child in ast.iter_child_nodes(node):
        inside = place
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = f"{place}.{child.name}".lstrip(".")
        if isinstance(child, ast.Call) and child.args:
            name = getattr(child.func, "id", getattr(child.func, "attr", ""))
            if name in KINDS and not _names_remedy(child.args[0], constants):
                yield place
        yield from _raised_without_remedy(child, constants, inside)


def test_every_message_names_a_remedy() -> None:
    """In its text, by a constant, or where it is completed."""
    modules = _modules()
    constants = {
        target.id
        for module in modules.values()
        for line in module.body
        if isinstance(line, ast.Assign) and _names_remedy(line.value, set())
        for target in line.targets
        if isinstance(target, ast.Name)
    }
    found = {
        f"{path}:{place}"
        for path, module in modules.items()
        for place in _raised_without_remedy(module, constants)
    }
    known = {place for place in found if place in COMPLETED or place.partition(":")[0] in COMPLETED}
    assert found - known == set()
    used = {place if place in COMPLETED else place.partition(":")[0] for place in known}
    assert set(COMPLETED) - used == set()  # every exception is needed
