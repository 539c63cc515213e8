"""Optional packages: the error names the missing ones, and the command installs exactly these."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from fer_edge.errors import MissingExtraError
from fer_edge.system.extras import EXTRAS, install_command, missing_modules, require_extra
from fer_edge.system.shell import python_command

PYPROJECT = ROOT / "pyproject.toml"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that are not installed, for this test."""
    hidden: set[str] = set()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest)
    )
    return hidden


def test_extras_are_those_of_the_package() -> None:
    # tomllib is not in Python 3.10.
    lines = dict(re.findall(r"^(\w+) = \[(.*)\]$", PYPROJECT.read_text(), re.MULTILINE))
    for extra, modules in EXTRAS.items():
        declared = re.findall(r'"([^"]+)"', lines[extra])
        names = {re.split(r"[>=<;\[ ]", text)[0] for text in declared}
        nested = {e for text in declared for e in re.findall(r"fer-edge\[(.*)\]", text)}
        names |= {n for e in nested for n in EXTRAS[e].values()}
        assert names - {"fer-edge"} == set(modules.values()), extra


def test_what_is_missing_is_named_with_its_version(missing: set[str]) -> None:
    missing.update(("onnxscript", "safetensors"))
    assert missing_modules("export") == ("onnxscript", "safetensors")
    command = f"{python_command()} -m pip install 'onnxscript>=0.5' 'safetensors>=0.4'"
    assert install_command("export") == command
    with pytest.raises(MissingExtraError, match="exporting weights needs onnxscript, safetensors") as raised:
        require_extra("export", "exporting weights")
    assert str(raised.value).endswith(f"Fix: {command}")


def test_pytorch_is_not_named_where_it_is_there(missing: set[str]) -> None:
    """On a Jetson it comes from NVIDIA, and pip would replace it."""
    missing.add("tensorboard")
    assert "torch" not in install_command("export")


def test_a_package_without_its_parent_is_missing(missing: set[str]) -> None:
    missing.add("google.protobuf")
    assert missing_modules("tensorflow") == ("google.protobuf",)


def test_an_installed_extra_is_accepted() -> None:
    require_extra("demo", "the demo")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("onnxscript", ["export", "--weights", "random", "--output", "m.onnx"]),
        ("safetensors", ["build", "--weights", "random", "--fp32"]),
        ("tensorboard", ["train", "--data", ".", "--output", "o"]),
        ("matplotlib", ["eval", "default", "--data", ".", "--output", "o"]),
        ("skimage", ["demo"]),
    ],
)
def test_a_command_without_a_part_of_its_extra_fails_by_one_code(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    program = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *r: None if n == {module!r} else find(n, *r)\n"
        f"sys.modules[{module!r}] = None\n"
        "from fer_edge.cli import main\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
