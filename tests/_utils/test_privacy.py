"""Privacy: network access and home-folder files of a FER-Edge process, observed by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fer_edge._utils import privacy

STRACE = shutil.which("strace")
#: Of ONNX Runtime 1.31.1, counted from its import: the first attempt to send comes after 9 s.
FIRST_REPORT_S = 14
#: What looks a name up reads this file.
RESOLVER = "/etc/resolv.conf"
#: OpenVINO does not report from where this says that software is being tested.
OF_CI = ("CI", "TF_BUILD", "JENKINS_URL")

RUN = f"""
import cv2, sys, time
from fer_edge import Runtime
with Runtime(backend=sys.argv[2]) as runtime:
    print(len(runtime(cv2.imread(sys.argv[1])).faces))
time.sleep({FIRST_REPORT_S})
"""
CHILDREN = {
    "fer_edge alone, onnxruntime": ("", "onnxruntime"),
    "fer_edge alone, openvino": ("", "openvino"),
    "fer_edge first, onnxruntime": ("import fer_edge, onnxruntime", "onnxruntime"),
    "fer_edge first, openvino": ("import fer_edge, openvino", "openvino"),
    "host first with the variable, onnxruntime": ("import onnxruntime", "onnxruntime"),
    "host first, onnxruntime": ("import onnxruntime", "onnxruntime"),
    "host first, openvino": ("import openvino", "openvino"),
}
QUIET = [name for name in CHILDREN if name not in ("host first, onnxruntime", "host first, openvino")]


@dataclass(frozen=True)
class Account:
    """System calls of one process."""

    output: str
    errors: str
    calls: tuple[str, ...]  # that concern the network
    files: tuple[str, ...]  # in the home folder

    @property
    def internet(self) -> list[str]:
        """Return the calls that contacted other machines, or looked up their addresses."""
        return [call for call in self.calls if re.search(r"AF_INET|" + re.escape(RESOLVER), call)]


@dataclass(frozen=True)
class Child:
    """A process under strace."""

    process: subprocess.Popen[str]
    home: Path
    log: Path

    def wait(self) -> Account:
        output, errors = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, errors
        calls = [line for line in self.log.read_text().splitlines() if "open" not in line or RESOLVER in line]
        files = sorted(str(p.relative_to(self.home)) for p in self.home.rglob("*") if p.is_file())
        return Account(output.strip(), errors, tuple(calls), tuple(files))


def start(folder: Path, code: str, *arguments: str, **environment: str) -> Child:
    """Start Python under strace, with an empty home folder and without the opt-out variable."""
    if STRACE is None:
        pytest.skip("strace is not installed: apt-get install strace")
    home, log = folder / "home", folder / "strace.log"
    home.mkdir(parents=True)
    process = subprocess.Popen(
        [STRACE, "-f", "-qq", "-e", "trace=network,open,openat", "-o", str(log), sys.executable, "-c", code, *arguments],
        env=_environment(home=home, cache=folder / "cache") | environment,
        cwd=privacy.__file__.removesuffix("fer_edge/_utils/privacy.py"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    return Child(process, home, log)


def _environment(home: Path, cache: Path) -> dict[str, str]:
    removed = (privacy.VARIABLE, "XDG_CACHE_HOME", *OF_CI)
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return {**kept, "HOME": str(home), "FER_EDGE_CACHE": str(cache)}


@pytest.fixture(scope="module", autouse=True)
def _tracing_is_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    if STRACE is not None:
        folder = tmp_path_factory.mktemp("probe")
        probe = subprocess.run(
            [STRACE, "-f", "-o", str(folder / "log"), "true"], capture_output=True, text=True, check=False
        )
        if probe.returncode:
            pytest.skip(f"processes may not be traced here (ptrace): {probe.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory, astronaut_file: Path) -> Mapping[str, Account]:
    """System calls of each of :data:`CHILDREN`, run concurrently, since they mostly wait."""
    children = {}
    for name, (before, backend) in CHILDREN.items():
        variable = {privacy.VARIABLE: "1"} if "variable" in name else {}
        folder = tmp_path_factory.mktemp("child")
        children[name] = start(folder, f"{before}\n{RUN}", str(astronaut_file), backend, **variable)
    return {name: child.wait() for name, child in children.items()}


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect_ex(('::1', 9))",
        "threading.Thread(target=lambda: socket.socket().connect_ex(('127.0.0.1', 9))).start()",
        "subprocess.run([sys.executable, '-c', \"import socket; socket.socket().connect_ex(('127.0.0.1', 9))\"])",
    ],
)
def test_what_a_process_sends_is_seen(tmp_path: Path, code: str) -> None:
    """Without the opt-out, telemetry is observed, so the tests below can fail."""
    child = start(
        tmp_path,
        f"import pathlib, socket, subprocess, sys, threading; {code}; pathlib.Path.home().joinpath('x').touch()",
    )
    account = child.wait()
    assert any("AF_INET" in call and "9" in call for call in account.internet)
    assert account.files == ("x",)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUIET)
def test_no_report_leaves_the_process(accounts: Mapping[str, Account], name: str) -> None:
    account = accounts[name]
    assert account.output == "1"
    assert account.internet == []
    assert account.files == ()
    assert "Warning" not in account.errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_where_the_host_imports_first_a_warning_says_what_to_do(
    accounts: Mapping[str, Account], name: str
) -> None:
    """Also shows that both would report; otherwise no warning would be needed."""
    account = accounts[f"host first, {name}"]
    assert account.output == "1"
    if not account.files:
        pytest.skip(f"this {name} keeps no number in the home folder: it does not report")
    assert account.internet
    assert f"RuntimeWarning: {name} was imported before fer_edge" in account.errors
    assert {"onnxruntime": "Set ORT_DISABLE_TELEMETRY=1", "openvino": "opt_in_out --opt_out"}[
        name
    ] in account.errors


def run_plainly(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=_environment(home, tmp_path / "cache") | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("value", ["1", "true", "0", "false"])
def test_what_the_user_says_of_onnxruntime_is_kept(tmp_path: Path, value: str) -> None:
    code = "import onnxruntime, fer_edge, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    found = run_plainly(tmp_path, code, ORT_DISABLE_TELEMETRY=value)
    assert (found.stdout.strip(), found.stderr) == (value, "")


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    """ONNX Runtime treats an empty value as unset."""
    code = "import fer_edge, os; print(os.environ['ORT_DISABLE_TELEMETRY']); import onnxruntime"
    found = run_plainly(tmp_path, code, ORT_DISABLE_TELEMETRY="")
    assert (found.stdout.strip(), found.stderr) == ("1", "")
    assert list((tmp_path / "home").rglob("*")) == []


def test_processes_that_are_started_are_opted_out_too(tmp_path: Path) -> None:
    code = "import fer_edge, subprocess, sys; subprocess.run([sys.executable, '-c', 'import onnxruntime'], check=True)"
    assert run_plainly(tmp_path, code).returncode == 0
    assert list((tmp_path / "home").rglob("*")) == []


def test_openvino_does_not_report_where_the_user_has_declined(tmp_path: Path) -> None:
    consent = tmp_path / "home" / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True)
    consent.write_text("0")
    found = run_plainly(tmp_path, "import openvino, fer_edge")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("attribute", [{}, {"__version__": "1.28.2"}, {"__version__": "custom"}])
def test_older_versions_are_no_cause_for_warnings(
    attribute: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These versions do not report on Linux, and have no function to disable it."""
    monkeypatch.delenv(privacy.VARIABLE)
    monkeypatch.setitem(sys.modules, "onnxruntime", _module(**attribute))
    privacy.opt_out()
    assert os.environ[privacy.VARIABLE] == "1"


def test_reports_about_models_are_stopped_where_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    late = _module(__version__="1.31.1", disable_telemetry_events=lambda: stopped.append(True))
    monkeypatch.delenv(privacy.VARIABLE)
    monkeypatch.setitem(sys.modules, "onnxruntime", late)
    with pytest.warns(RuntimeWarning, match="import fer_edge first"):
        privacy.opt_out()
    assert stopped == [True]


def test_a_host_program_keeps_its_own_telemetry_of_openvino(tmp_path: Path) -> None:
    """The host has imported the telemetry package, and FER-Edge imports OpenVINO."""
    code = (
        "import openvino_telemetry, fer_edge, sys; from fer_edge.backends.openvino import OpenVinoSession; "
        "from fer_edge._utils.privacy import without_openvino_telemetry as without\n"
        "with without(): import openvino\n"
        "print(sys.modules['openvino_telemetry'] is openvino_telemetry, 'openvino_telemetry.main' in sys.modules)"
    )
    found = run_plainly(tmp_path, code)
    assert (found.stdout.strip(), found.stderr) == ("True True", "")
    assert list((tmp_path / "home").rglob("*")) == []


def _module(**attributes: object) -> object:
    make: Callable[..., object] = type(sys)
    module = make("onnxruntime")
    for name, value in attributes.items():
        setattr(module, name, value)
    return module
