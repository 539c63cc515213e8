"""CONTRIBUTING.md: its additions work as they are written there, and its commands are those of CI and the README."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT

from fer_edge import __version__
from fer_edge.cli import COMMANDS
from fer_edge.detection import DETECTORS

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
REGISTRIES = {
    "fer_edge/models/catalogue.py": "CATALOGUE",
    "fer_edge/backends/__init__.py": "BACKENDS",
    "fer_edge/sources/open.py": "SOURCES",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the checkout's package."""
    shutil.copytree(ROOT / "fer_edge", tmp_path / "fer_edge", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add(package: Path, section: str) -> None:
    """Write the one file of a section, and its line into the registry."""
    text = GUIDE.split(f"## Add a {section}\n")[1].split("\n## ")[0]
    (new, content), (registry, lines) = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    path = (
        package / new.replace("export/", "fer_edge/export/", 1)
        if new.startswith("export/")
        else package / new
    )
    assert not path.exists()
    path.write_text(content)
    imports = [line for line in lines.splitlines() if line.startswith("from ")]
    (entry,) = [line for line in lines.splitlines() if line not in imports]
    source = (package / registry).read_text()
    if imports:
        source = source.replace("from fer_edge.", f"{imports[0]}\nfrom fer_edge.", 1)
    source, count = re.subn(rf"(?m)^{REGISTRIES[registry]}: .*[{{(]$", rf"\g<0>\n{entry}", source)
    assert count == 1
    (package / registry).write_text(source)


def run(package: Path, *arguments: str) -> dict[str, object]:
    """Run a command of the copy: without ``site``, which would find the checkout first."""
    result = subprocess.run(
        [sys.executable, "-S", "-m", "fer_edge.cli", *arguments, "--json"],
        cwd=package,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(package), *filter(None, sys.path)]),
            "FER_EDGE_CACHE": str(package / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def test_a_network_is_one_file_and_one_line(package: Path) -> None:
    add(package, "network")
    entry = run(package, "models")["networks"]["tiny"]  # type: ignore[index]
    run(package, "build", "--model", "tiny", "--weights", "random", "--fp32", "--output", "tiny.fer")
    code = (
        "from complexity import complexity; from fer_edge.export.networks import NETWORKS, build_network;"
        "print(complexity(build_network('tiny').eval(), NETWORKS['tiny'].spec))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), *filter(None, sys.path)])}
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"parameters={entry['parameters']}, macs={entry['macs']}" in found.stdout


def test_a_backend_is_one_file_and_one_line(package: Path, astronaut_file: Path) -> None:
    add(package, "backend")
    arguments = ("run", "visual-attention", "--backend", "reference", "--source", str(astronaut_file))
    value = run(package, *arguments)
    (face,) = value["results"][0]["faces"]  # type: ignore[index]
    assert face["label"] == "happy"


def test_a_source_is_one_file_and_one_line(package: Path, astronaut: np.ndarray) -> None:
    add(package, "source")
    np.save(package / "frames.npy", np.stack([astronaut, np.zeros_like(astronaut)]))
    value = run(package, "run", "--no-tune", "--no-tracking", "--source", "frames.npy")
    assert [len(result["faces"]) for result in value["results"]] == [1, 0]  # type: ignore[attr-defined]


def test_set_up_and_tests_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().split("<!-- test command -->\n```\n")[1].split("\n")[0]
    install, test = readme.rsplit(" && ", 1)
    assert f"```\n{install} && .venv/bin/pre-commit install\n```" in GUIDE
    assert f"| `{test}` |" in GUIDE
    for script in (".ci/full", ".ci/lint"):
        assert f"`{script}`" in GUIDE
        assert os.access(ROOT / script, os.X_OK)
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / link).exists(), link


def test_hooks_are_the_checks_of_ci_and_their_programs_are_installed() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (checks,) = re.findall(r"(?m)^for check in (.*); do$", (ROOT / ".ci/lint").read_text())
    hooked = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    # A hook gets the files, and formats them where CI refuses.
    assert hooked == [re.sub(r" --check| \.", "", check) for check in re.findall(r'"([^"]+)"', checks)]
    scripts = Path(sys.executable).parent
    assert [entry for entry in hooked if shutil.which(entry.split()[0], path=str(scripts)) is None] == []


def test_issue_forms_and_their_commands() -> None:
    forms = {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()
    }
    assert set(forms) == {"bug", "feature", "config"}
    for name in ("bug", "feature"):
        asked = [part for part in forms[name]["body"] if part["type"] == "textarea"]
        assert forms[name]["name"], forms[name]["description"]
        assert len({part["id"] for part in asked}) == len(asked) == 3
        assert any(part["validations"]["required"] for part in asked if "validations" in part)
    text = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text() + (ROOT / "SECURITY.md").read_text()
    commands = re.findall(r"fer-edge (\w+)", text)
    assert {"doctor", "inspect"} == set(commands) <= set(COMMANDS)


def test_changelog_names_every_command_and_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert __version__ in text
    assert text.index("## [Unreleased]") < text.index("### Added")
    assert [name for name in (*COMMANDS, *DETECTORS) if name.casefold() not in text.casefold()] == []
