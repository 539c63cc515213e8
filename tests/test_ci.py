"""Commands of .ci/run and .ci/full, and the tests that a command chooses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import fer_edge

#: Programs that the scripts use, from the machine; all others are absent.
PROGRAMS = ("bash", "dirname", "env", "rm", "sed")
PACKAGES = {"chromium": "chromium", "qemu-x86_64": "qemu-user", "strace": "strace"}
TESTS = """
import pytest

def test_quick():
    pass

@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_slow(number):
    pass
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose test command prints its arguments, and a PATH with few programs."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / ".ci" / "wheel").write_text("#!/usr/bin/env bash\necho the wheel is tested\n")
    (folder / ".ci" / "lint").write_text("#!/usr/bin/env bash\necho the checkout is linted\n")
    (folder / ".venv").mkdir()
    command = "python3 -c 'print(\"installed\")' && python3 -c 'import sys; print(sys.argv[1:])' -n auto"
    (folder / "README.md").write_text(
        f"```\npython3 not this\n```\n<!-- test command -->\n```\n{command}\n```\n"
    )
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    add_program(folder, "python3", f'exec "{sys.executable}" "$@"')
    return folder


def add_program(checkout: Path, name: str, text: str) -> None:
    path = checkout.parent / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / ".ci" / script, *arguments],
        env={**os.environ, "PATH": str(checkout.parent / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_run_passes_its_arguments_on(checkout: Path) -> None:
    result = run(checkout, "run", "-k", "two words")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        "installed",
        "the checkout is linted",
        "['-n', 'auto', '-k', 'two words']",
    ]
    assert not (checkout / ".venv").exists()
    assert run(checkout, "run").stdout.splitlines()[-2:] == ["['-n', 'auto']", "the wheel is tested"]


def test_full_runs_slow_tests_too(checkout: Path) -> None:
    result = run(checkout, "full", "-x")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "['-n', 'auto', '-m', 'slow or not slow', '-x']"


def test_failing_tests_and_checks_fail_the_script(checkout: Path) -> None:
    readme = checkout / "README.md"
    readme.write_text(readme.read_text().replace("print(sys.argv[1:])", "sys.exit(3)"))
    assert run(checkout, "full").returncode == 3
    (checkout / ".ci" / "lint").write_text("#!/usr/bin/env bash\nexit 4\n")
    assert run(checkout, "run").returncode == 4
    readme.write_text("nothing")
    result = run(checkout, "run")
    assert (result.returncode, result.stderr) == (1, "README.md has no test command\n")


@pytest.mark.parametrize("present", [(), ("strace",), tuple(PACKAGES)])
def test_missing_programs_are_installed_one_by_one(checkout: Path, present: tuple[str, ...]) -> None:
    """One that cannot be had, here strace, keeps no other from being installed, and is named."""
    log = checkout.parent / "log"
    log.touch()
    add_program(checkout, "apt-get", f'echo "$1 ${{!#}}" >> {log}; [ "${{!#}}" != strace ]')
    add_program(checkout, "id", "echo 0")
    for name in present:
        add_program(checkout, name, "")
    result = run(checkout, "run")
    assert result.returncode == 0, result.stderr
    missing = {package for name, package in PACKAGES.items() if name not in present}
    expected = {"update -qq", *(f"install {package}" for package in missing)} if missing else set()
    assert set(log.read_text().splitlines()) == expected
    warning = "strace could not be installed: the tests that need it are skipped\n"
    assert result.stderr == (warning if "strace" in missing else "")


def test_without_root_nothing_is_installed(checkout: Path) -> None:
    add_program(checkout, "apt-get", "exit 1")
    add_program(checkout, "id", "echo 1000")
    result = run(checkout, "run")
    assert (result.returncode, result.stderr) == (0, "")


def test_another_copy_of_the_package_is_not_tested_in_its_place(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(ROOT / "tests" / "test_ci.py")]
    result = subprocess.run(
        command,
        env={**os.environ, "FER_EDGE_TESTED": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert f"tests of the package in {tmp_path} would run on {Path(fer_edge.__file__).parent}" in (
        result.stdout + result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "passed", "left_out"),
    [
        ((), 1, 2),
        (("-n", "1"), 1, 2),
        (("-k", "quick"), 1, 0),
        (("-m", "slow"), 2, 0),
        (("-m", "slow or not slow"), 3, 0),
        (("test_some.py::test_slow[1]",), 1, 0),
    ],
)
def test_slow_tests_run_where_they_are_asked_for(
    tmp_path: Path, arguments: tuple[str, ...], passed: int, left_out: int
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["-p", "conftest", "-p", "no:cacheprovider", *arguments]
    command += [] if any("::" in a for a in arguments) else ["test_some.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    for name in [name for name in environment if name.startswith("PYTEST_")]:  # of the run of this test
        del environment[name]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{passed} passed" in result.stdout
    assert (f"{left_out} slow tests were not run" in result.stdout) == bool(left_out)
    assert ("slow tests were not run" in result.stdout) == bool(left_out)
