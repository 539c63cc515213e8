"""Every name of TensorRT that the code uses exists in TensorRT: real bindings of four versions, and TensorRT-RTX.

The bindings of PyPI import with empty libraries instead of TensorRT's. TensorRT does not run here, so only the
existence of names is tested.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

import fer_edge
from fer_edge._utils.files import cache_folder, whole_folder

SCRIPT = Path(__file__).parents[1] / "support" / "api_names.py"
PACKAGE = Path(fer_edge.__file__).parent
SOURCES = [
    *sorted((PACKAGE / "engines").rglob("*.py")),
    *sorted((PACKAGE / "cuda").glob("*.py")),
    *sorted((PACKAGE / "backends").glob("tensorrt*.py")),
]
#: Package and version → where that TensorRT is found.
BINDINGS = {
    "tensorrt-cu12-bindings==10.3.0": "JetPack 6",
    "tensorrt-cu13-bindings==10.13.3.9": "JetPack 7.0 and 7.1",
    "tensorrt-cu13-bindings==10.16.1.11": "JetPack 7.2",
    "tensorrt-cu13-bindings==11.4.0.106": "the newest",
}
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
)
RTX = "tensorrt_rtx"


class Bindings:
    """One version of the bindings, in a subprocess."""

    def __init__(self, module: str, paths: dict[str, str]) -> None:
        self.module, self.paths = module, paths

    def analyse(self, files: list[Path], hints: dict[str, Any]) -> dict[str, Any]:
        result = subprocess.run(
            [sys.executable, str(SCRIPT), self.module, json.dumps(hints), *map(str, files)],
            env={**os.environ, **self.paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


def obtain(requirement: str, folder: Path) -> Path | str:
    """Return the folder of the unpacked wheel, or the reason if there is none."""
    target = folder / requirement
    if (target / "tensorrt_bindings").is_dir():
        return target
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", downloads, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        wheels = list(Path(downloads).glob("*.whl"))
        if result.returncode or not wheels:
            return (result.stderr.strip().splitlines() or ["pip download failed"])[-1]
        with whole_folder(target) as part, zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(part)
    return target


def make_libraries(folder: Path, major: str) -> Path:
    """Make empty libraries with the names that the bindings load."""
    folder.mkdir(parents=True)
    source = folder / "empty.c"
    source.write_text("\n".join(f"int {name};" for name in SYMBOLS))
    for name in LIBRARIES:
        library = f"{name}.so.{major}"
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            str(source),
            f"-Wl,-soname,{library}",
            "-o",
            str(folder / library),
        ]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def bindings(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Bindings | str]:
    """Requirement → bindings, or the reason if there are none."""
    found: dict[str, Bindings | str] = {}
    if importlib.util.find_spec(RTX) is None:
        found[RTX] = "needs TensorRT-RTX: pip install 'fer-edge[rtx]'"
    else:
        found[RTX] = Bindings(RTX, {})
    folder = cache_folder() / "tests" / "tensorrt-bindings"
    for requirement in BINDINGS:
        if shutil.which("gcc") is None:
            found[requirement] = "needs gcc"
            continue
        place = obtain(requirement, folder)
        if isinstance(place, str):
            found[requirement] = f"{requirement} cannot be had: {place}"
            continue
        major = requirement.split("==")[1].split(".")[0]
        libraries = make_libraries(tmp_path_factory.mktemp("libraries") / major, major)
        paths = {"PYTHONPATH": str(place), "LD_LIBRARY_PATH": str(libraries)}
        found[requirement] = Bindings("tensorrt_bindings", paths)
    return found


@pytest.fixture(scope="module")
def answers(bindings: dict[str, Bindings | str]) -> dict[str, dict[str, Any]]:
    """Version → result of checking our sources against it."""
    ready = {name: one for name, one in bindings.items() if isinstance(one, Bindings)}
    hints: dict[str, dict[str, list[str]]] = {}
    for one in ready.values():
        for file, types in one.analyse(SOURCES, {})["types"].items():
            for key, classes in types.items():
                hints.setdefault(file, {}).setdefault(key, []).extend(classes)
    return {name: one.analyse(SOURCES, hints) for name, one in ready.items()}


def missing(answer: dict[str, Any]) -> list[str]:
    return [
        f"{use['file']}:{use['line']}: {use['owner']} has no {use['name']}"
        for use in answer["uses"]
        if use["active"] and not use["optional"] and not use["exists"]
    ]


@pytest.mark.parametrize("name", [RTX, *BINDINGS])
def test_every_name_exists(
    name: str, bindings: dict[str, Bindings | str], answers: dict[str, dict[str, Any]]
) -> None:
    if isinstance(reason := bindings[name], str):
        pytest.skip(reason)
    if name != RTX:
        assert answers[name]["version"] == name.split("==")[1]
    assert missing(answers[name]) == []


def test_what_may_be_absent_exists_somewhere(
    bindings: dict[str, Bindings | str], answers: dict[str, dict[str, Any]]
) -> None:
    """A name that no version has is a misspelling, behind hasattr too."""
    if len(answers) < len(bindings):
        pytest.skip("; ".join(reason for reason in bindings.values() if isinstance(reason, str)))
    uses = [use for answer in answers.values() for use in answer["uses"]]
    existing = {(use["file"], use["line"], use["name"]) for use in uses if use["exists"]}
    assert {(use["file"], use["line"], use["name"]) for use in uses} - existing == set()


def test_the_analysis_sees_the_code(answers: dict[str, dict[str, Any]]) -> None:
    """Plain text search finds the names of methods that are called on TensorRT's objects; so must the analysis."""
    if not answers:
        pytest.skip("no bindings can be had")
    worker = (PACKAGE / "engines" / "build" / "worker.py").read_text()
    written = {f"trt.{name}" for name in re.findall(r"\btrt\.([A-Za-z]\w*)", worker)}
    written |= {
        f".{name}" for name in re.findall(r"\b(?:builder|config|network|parser|profile)\.(\w+)", worker)
    }
    for answer in answers.values():
        uses = [use for use in answer["uses"] if use["file"] == "worker.py"]
        found = {f"trt.{use['name']}" for use in uses} | {f".{use['name']}" for use in uses}
        assert written - found == set()
        assert len(uses) > 50


PAGE_ROW = re.compile(r"^\| `([\w.]+)` \| ((?:yes|no)(?: \| (?:yes|no))+) \|$", re.MULTILINE)
LOOK_UP = """
import functools, importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def has(path):
    try:
        functools.reduce(getattr, path.split("."), trt)
    except AttributeError:
        return "no"
    return "yes"
print(json.dumps([has(path) for path in sys.argv[2:]]))
"""


@pytest.mark.parametrize("name", [*BINDINGS, RTX])
def test_the_page_on_versions_tells_the_truth(name: str, bindings: dict[str, Bindings | str]) -> None:
    one = bindings[name]
    if isinstance(one, str):
        pytest.skip(one)
    text = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    (header,) = [line for line in text.splitlines() if line.startswith("| Name | ")]
    versions = [RTX if v.startswith("RTX") else v for v in header.strip("| ").split(" | ")[1:]]
    column = versions.index(name.rpartition("==")[2])
    rows = {path: states.split(" | ") for path, states in PAGE_ROW.findall(text)}
    assert len(rows) > 10
    result = subprocess.run(
        [sys.executable, "-c", LOOK_UP, one.module, *rows],
        env={**os.environ, **one.paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert dict(zip(rows, json.loads(result.stdout), strict=True)) == {
        p: row[column] for p, row in rows.items()
    }


FALSE = '''
import importlib

def main(flavour, capability):
    trt = importlib.import_module(flavour)
    builder = trt.Builder(trt.Logger())
    builder.create_frobnicator()
    network = builder.create_network(0)
    trt.Frobnicator
    trt.DataType.INT7
    config = configure(builder)
    config.frobnication_level = 3
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        layer.get_output(0).frobnicated
    if hasattr(config, "sought_in_vain"):
        config.sought_in_vain = 1
    if not hasattr(config, "set_memory_pool_limit"):
        config.set_max_workspace_size(1)
        return
    config.frobnicated_memory = 1
    getattr(trt, "Absent", None)
    return config

def configure(builder):
    return builder.create_builder_config()

def make_log(trt):
    class Log(trt.ILogger):
        def logg(self, severity, msg):
            pass
'''  # fmt: skip


@pytest.mark.parametrize("name", [RTX, *BINDINGS])
def test_names_that_are_made_up_are_found(
    name: str, bindings: dict[str, Bindings | str], tmp_path: Path
) -> None:
    one = bindings[name]
    if isinstance(one, str):
        pytest.skip(one)
    (tmp_path / "false.py").write_text(FALSE)
    answer = one.analyse([tmp_path / "false.py"], {})
    module = one.module
    assert missing(answer) == [
        "false.py:7: Builder has no create_frobnicator",
        f"false.py:9: {module} has no Frobnicator",
        "false.py:10: DataType has no INT7",
        "false.py:12: IBuilderConfig has no frobnication_level",
        "false.py:15: ITensor has no frobnicated",
        "false.py:21: IBuilderConfig has no frobnicated_memory",
        "false.py:30: ILogger has no logg",
    ]
    never = {use["name"] for use in answer["uses"] if not (use["exists"] and use["active"])}
    assert {"sought_in_vain", "Absent", "set_max_workspace_size"} <= never
