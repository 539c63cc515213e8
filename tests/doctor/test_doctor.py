"""Doctor on recorded machines, with damaged records, and on this machine."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import random
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from rich.console import Console

from fer_edge.commands.doctor import make_advice_table, make_check_table
from fer_edge.doctor.check import Check
from fer_edge.doctor.checks import diagnose
from fer_edge.doctor.inventory import QUESTIONS
from fer_edge.system.extras import install_command
from fer_edge.system.machine import LocalMachine
from fer_edge.system.shell import pip_command

RECORDED = Path(__file__).parent / "recorded"
MACHINES = sorted(path.parent.name for path in RECORDED.glob("*/machine.json"))
ENVIRONMENT = (
    "/usr/bin/python3 -m venv --system-site-packages ~/fer-edge",
    "~/fer-edge/bin/python -m pip install .",
)
COMPILE = (f"FER_EDGE_KERNELS=1 {pip_command('install', '.')}",)


class RecordedMachine:
    """Machine recorded in a folder of :data:`RECORDED`."""

    def __init__(self, name: str) -> None:
        folder = RECORDED / name
        value = json.loads((folder / "machine.json").read_text())
        self.architecture: str = value["architecture"]
        self.commands: dict[str, str | None] = value["commands"]
        self.answers: dict[str, Any] = value["answers"]
        root = folder / "files"
        self.files: dict[str, bytes] = {
            f"/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()
        }
        self.paths: list[str] = value["paths"]

    def read(self, path: str) -> str | None:
        return self.files[path].decode(errors="replace") if path in self.files else None

    def find(self, pattern: str) -> list[str]:
        known = {*self.paths, *self.files}
        known |= {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        return sorted(path for path in known if PurePosixPath(path).match(pattern))

    def run(self, *command: str) -> str | None:
        return self.commands.get(command[0] if command[0] == "dpkg-query" else " ".join(command))

    def ask(self, question: str) -> dict[str, Any] | None:
        assert question in QUESTIONS
        return self.answers.get(question)


def checks_of(machine: RecordedMachine) -> dict[str, Check]:
    checks = diagnose(machine)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_orin_nano_with_jetpack_6_in_a_closed_environment() -> None:
    checks = checks_of(RecordedMachine("orin-nano-jetpack-6.2"))
    board = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (aarch64)"
    assert checks["board"] == Check("board", "ok", board)
    assert checks["JetPack"] == Check("JetPack", "ok", "JetPack 6.2 (L4T R36.4.3)")
    assert checks["driver"] == Check("driver", "ok", "driver 540.4.0, CUDA 12.6")
    assert checks["GPU"] == Check("GPU", "ok", "Orin, sm87, 8.0 GB")
    assert checks["CUDA"] == Check(
        "CUDA",
        "missing",
        "no cuda-python, toolkit 12.6.11",
        "needed to run TensorRT",
        (pip_command("install", "cuda-python<13"),),
    )
    assert checks["TensorRT"] == Check(
        "TensorRT",
        "missing",
        "libnvinfer 10.3.0.30, but this environment excludes system packages",
        "make an environment with system packages",
        ENVIRONMENT,
    )
    assert "TensorRT-RTX" not in checks
    assert checks["CUDA kernels"].commands == checks["TensorRT plugin"].commands == COMPILE
    assert checks["power mode"] == Check(
        "power mode",
        "warn",
        "15W",
        "MAXN_SUPER is the fastest, if power supply and cooling allow it",
        ("sudo nvpmodel -m 2",),
    )
    assert checks["clocks"].found == "GPU varies between 306 and 612 MHz"
    assert checks["clocks"].commands == ("sudo jetson_clocks",)
    # 1893212 kB are 1.94 GB; FP32 weights are 137,796,423 × 4 bytes, of which a build may need 4 times and 512 MiB.
    assert checks["memory"] == Check(
        "memory",
        "warn",
        "1.9 GB free, swap 0.0 GB free",
        "building resmasking in FP32 may need 2.7 GB: end programs, or add swap",
        (
            "sudo fallocate -l 2G /swapfile",
            "sudo chmod 600 /swapfile",
            "sudo mkswap /swapfile",
            "sudo swapon /swapfile",
        ),
    )
    assert checks["ONNX Runtime"] == Check("ONNX Runtime", "ok", "1.23.2 CPU")
    assert checks["OpenVINO"].commands == (install_command("openvino"),)


def test_agx_orin_where_all_is_well() -> None:
    checks = checks_of(RecordedMachine("agx-orin-jetpack-6"))
    assert {name for name, check in checks.items() if check.state != "ok"} == {"OpenVINO"}
    assert checks["JetPack"].found == "JetPack 6.2.1 (L4T R36.4.4)"
    assert checks["TensorRT"].found == "10.3.0"
    assert checks["CUDA"].found == "cuda-python 12.9.4, toolkit 12.6.11"
    assert checks["CUDA kernels"].found == "CUDA 12.6, sm_87"
    assert checks["TensorRT plugin"].found.endswith("libfer_edge_plugin.so")
    assert checks["power mode"].found == "MAXN"
    assert checks["clocks"] == Check("clocks", "ok", "GPU fixed at 1300 MHz")


def test_thor_with_a_tensorrt_from_pip() -> None:
    checks = checks_of(RecordedMachine("thor-jetpack-7"))
    assert checks["JetPack"].found == "JetPack 7.0 (L4T R38.2.0)"
    assert checks["driver"].found == "driver 580.00, CUDA 13.0"
    assert checks["GPU"].found == "NVIDIA Thor, sm110, 131.9 GB"
    assert checks["TensorRT"] == Check(
        "TensorRT",
        "warn",
        "10.13.3.9 from pip, expected the TensorRT of JetPack",
        "remove it and use that of JetPack",
        (pip_command("uninstall", "tensorrt"), *ENVIRONMENT),
    )
    assert checks["power mode"].commands == ("sudo nvpmodel -m 0",)
    assert checks["clocks"].found == "GPU varies between 315 and 1575 MHz"


def test_a_container_on_orin_without_the_gpu() -> None:
    checks = checks_of(RecordedMachine("container-on-orin"))
    run = ("docker run --runtime nvidia IMAGE fer-edge doctor",)
    assert checks["board"].found == "unknown (aarch64), in a container"
    assert checks["JetPack"].found == "JetPack 6 (L4T R36.4.3)"
    assert checks["driver"].found == "no kernel module, no libcuda.so.1"
    assert checks["driver"].commands == checks["TensorRT"].commands == run
    assert "libnvdla_compiler.so: cannot open" in checks["TensorRT"].found
    assert checks["memory"].found == "2.0 GB free, swap 0.0 GB free"  # the limit of the container
    assert checks["memory"].commands == ()  # swap is added outside


def test_x86_with_an_rtx_card() -> None:
    checks = checks_of(RecordedMachine("x86-with-rtx"))
    assert checks["board"].found == "13th Gen Intel(R) Core(TM) i7-13700K (x86_64)"
    assert checks["driver"].found == "driver 580.95.05, CUDA 13.0"
    assert checks["GPU"].found == "NVIDIA GeForce RTX 4070, sm89, 12.5 GB"
    assert checks["TensorRT"].commands == (install_command("tensorrt"),)
    assert checks["TensorRT-RTX"].state == "ok"
    assert checks["CUDA"].commands == (pip_command("install", "cuda-python<14"),)
    assert not {"JetPack", "power mode", "clocks"} & set(checks)


def test_x86_without_a_gpu() -> None:
    checks = checks_of(RecordedMachine("x86-without-gpu"))
    assert checks["driver"] == Check("driver", "missing", "no NVIDIA GPU, which the CPU backends do not need")
    assert checks["TensorRT"] == Check(
        "TensorRT", "missing", "not installed, not needed without an NVIDIA GPU"
    )
    assert checks["TensorRT-RTX"].commands == (install_command("rtx"),)
    assert checks["memory"].commands[0] == "sudo fallocate -l 3G /swapfile"
    assert not {"GPU", "CUDA", "JetPack"} & set(checks)


def test_x86_with_a_card_and_no_driver() -> None:
    checks = checks_of(RecordedMachine("x86-with-a-card-and-no-driver"))
    assert checks["driver"].found == "no kernel module, no libcuda.so.1"
    assert checks["driver"].commands == ("sudo ubuntu-drivers install",)
    assert checks["TensorRT-RTX"].state == "warn"
    assert "libtensorrt_rtx.so.1" in checks["TensorRT-RTX"].found


def without_library(machine: RecordedMachine) -> None:
    machine.commands["dpkg-query"] = "nvidia-l4t-core\t36.4.3-20250107174145\tinstalled\n"


def without_dpkg(machine: RecordedMachine) -> None:
    """Without dpkg, the library is found by its file."""
    machine.commands.pop("dpkg-query")
    machine.paths += [
        "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10",
        "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0",
    ]


def without_module(machine: RecordedMachine) -> None:
    machine.paths.clear()


def other_python(machine: RecordedMachine) -> None:
    machine.answers["python"] = {"version": "3.11", "environment": True, "system_packages": True}


def crashing(machine: RecordedMachine) -> None:
    machine.answers["tensorrt"] = None


def old(machine: RecordedMachine) -> None:
    machine.answers["tensorrt"] = {
        "version": "8.5.2.2",
        "file": "/usr/lib/python3.8/dist-packages/tensorrt/__init__.py",
    }


@pytest.mark.parametrize(
    ("change", "found", "commands"),
    [
        (
            without_library,
            "not installed",
            ("sudo apt update", "sudo apt install nvidia-jetpack", *ENVIRONMENT),
        ),
        (
            without_dpkg,
            "libnvinfer 10.3.0, but this environment excludes system packages",
            ENVIRONMENT,
        ),
        (
            without_module,
            "libnvinfer 10.3.0.30, no Python module",
            ("sudo apt update", "sudo apt install python3-libnvinfer", *ENVIRONMENT),
        ),
        (other_python, "libnvinfer 10.3.0.30 with a module for Python 3.10, this is 3.11", ENVIRONMENT),
        (crashing, "crashes or hangs on import", ("python -c 'import tensorrt'",)),
        (old, "8.5.2.2, expected 10.3 or later", ()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_why_a_jetson_has_no_tensorrt(change: Any, found: str, commands: tuple[str, ...]) -> None:
    machine = RecordedMachine("orin-nano-jetpack-6.2")
    change(machine)
    check = checks_of(machine)["TensorRT"]
    assert (check.found, check.commands) == (found, commands)


@pytest.mark.parametrize("name", MACHINES)
def test_tensorrt_is_never_installed_by_pip_on_arm(name: str) -> None:
    machine = RecordedMachine(name)
    if machine.architecture != "aarch64":
        return
    for change in (lambda m: None, without_library, without_module, other_python, crashing, old):
        for answer in (None, {"absent": True, "error": ""}, {"absent": False, "error": "x"}):
            changed = copy.deepcopy(machine)
            changed.answers["tensorrt"] = answer
            change(changed)
            commands = [command for check in diagnose(changed) for command in check.commands]
            assert not [c for c in commands if "pip install" in c and "tensorrt" in c]


@pytest.mark.parametrize(
    ("text", "state", "found"),
    [
        ("# R36 (release), REVISION: 5.2, GCID: 1\n", "ok", "JetPack 6 (L4T R36.5.2)"),
        ("# R39 (release), REVISION: 2.0, GCID: 1\n", "ok", "JetPack 7 (L4T R39.2.0)"),
        ("# R44 (release), REVISION: 1.0, GCID: 1\n", "ok", "JetPack of an unknown version (L4T R44.1.0)"),
        ("# R35 (release), REVISION: 4.1, GCID: 1\n", "missing", "JetPack 5 (L4T R35.4.1)"),
        ("# R32 (release), REVISION: 7.1, GCID: 1\n", "missing", "JetPack 4 (L4T R32.7.1)"),
        ("", "warn", "this is a Jetson, but /etc/nv_tegra_release does not name its release"),
        (
            "# R99999 (release)",
            "warn",
            "this is a Jetson, but /etc/nv_tegra_release does not name its release",
        ),
    ],
)
def test_releases(text: str, state: str, found: str) -> None:
    machine = RecordedMachine("orin-nano-jetpack-6.2")
    machine.commands["dpkg-query"] = None
    machine.files["/etc/nv_tegra_release"] = text.encode()
    check = checks_of(machine)["JetPack"]
    assert (check.state, check.found) == (state, found)


@pytest.mark.parametrize(
    ("answer", "found", "commands"),
    [
        (None, "driver 580.95.05; the driver does not respond", ("sudo dmesg | tail -n 50",)),
        (
            {"status": 803, "version": 13000, "devices": []},
            "driver 580.95.05; CUDA error 803: libcuda.so.1 and the kernel module are of different versions",
            ("sudo reboot",),
        ),
        (
            {"status": 12345, "version": 13000, "devices": []},
            "driver 580.95.05; CUDA error 12345: see CUresult in the driver API",
            ("sudo reboot",),
        ),
    ],
)
def test_drivers_that_do_not_work(answer: Any, found: str, commands: tuple[str, ...]) -> None:
    machine = RecordedMachine("x86-with-rtx")
    machine.answers["cuda"] = answer
    checks = checks_of(machine)
    assert (checks["driver"].state, checks["driver"].found) == ("warn", found)
    assert checks["driver"].commands == commands
    assert "GPU" not in checks
    machine.files["/.dockerenv"] = b""
    if answer is not None:
        assert checks_of(machine)["driver"].commands == ("docker run --gpus all IMAGE fer-edge doctor",)


def test_an_old_gpu_and_an_old_l4t_driver() -> None:
    machine = RecordedMachine("x86-with-rtx")
    machine.answers["cuda"]["devices"][0]["compute_capability"] = [6, 1]
    assert checks_of(machine)["GPU"].state == "warn"
    jetson = RecordedMachine("agx-orin-jetpack-6")
    jetson.answers["cuda"] = {"error": "libcuda.so.1"}
    assert checks_of(jetson)["driver"].commands == ("dpkg -l 'nvidia-l4t-*'",)


def test_the_power_mode_is_read_from_its_file_where_nvpmodel_says_nothing() -> None:
    machine = RecordedMachine("orin-nano-jetpack-6.2")
    machine.files["/var/lib/nvpmodel/status"] = b"pmode:0002 fmode:fan_mode_quiet"
    for said in (None, "", "NVPM ERROR: failed to read PARAM CPU_ONLINE\n"):
        machine.commands["nvpmodel -q"] = said
        assert checks_of(machine)["power mode"] == Check("power mode", "ok", "MAXN_SUPER")
    machine.files["/var/lib/nvpmodel/status"] = b"pmode:0099"
    assert checks_of(machine)["power mode"].state == "warn"


VALUES = [
    None,
    True,
    -1,
    1 << 70,
    1e308,
    "",
    "\x1b[31mred[/red]\0" * 50,
    [],
    [[[]]],
    {},
    {"version": None},
    "9" * 9000,
]


def damage(machine: RecordedMachine, chance: random.Random) -> None:
    """Corrupt, truncate, empty or inflate the records of a machine."""
    for path in machine.files:
        data, kind = machine.files[path], chance.randrange(6)
        if kind == 0:
            machine.files[path] = chance.randbytes(200)
        elif kind == 1:
            machine.files[path] = data[: chance.randrange(len(data) + 1)]
        elif kind == 2:
            machine.files[path] = data * (65536 // max(1, len(data)))
        elif kind == 3 and data:
            broken = bytearray(data)
            for _ in range(8):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            machine.files[path] = bytes(broken)
    for name, text in machine.commands.items():
        machine.commands[name] = chance.choice(
            [text, None, "", "\t\t\n" * 100, (text or "")[::-1], "\x1b[2J" * 999]
        )
    for question in QUESTIONS:
        answer = machine.answers.get(question)
        if chance.random() < 0.5 or not isinstance(answer, dict):
            continue
        keys = [
            "status",
            "version",
            "devices",
            "error",
            "absent",
            "providers",
            "file",
            "path",
            "ok",
            "reason",
        ]
        machine.answers[question] = {**answer, chance.choice(keys): chance.choice(VALUES)}
        if question == "cuda" and chance.random() < 0.5:
            machine.answers[question]["devices"] = [chance.choice(VALUES), {"compute_capability": [8, None]}]


@pytest.mark.parametrize("name", MACHINES)
def test_damaged_machines_are_described_all_the_same(name: str) -> None:
    chance = random.Random(name)
    for _ in range(100):
        machine = RecordedMachine(name)
        damage(machine, chance)
        for check in diagnose(machine):
            assert check.state in ("ok", "warn", "missing")
            assert check.found
            for text in (check.name, check.found, check.advice, *check.commands):
                assert text.isprintable() or not text
                assert len(text) < 400
        json.dumps([check.to_dict() for check in diagnose(machine)], allow_nan=False)


@pytest.mark.parametrize("name", MACHINES)
def test_the_text_fits_80_columns_and_commands_stay_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )  # an activated environment
    checks = diagnose(RecordedMachine(name))
    console = Console(width=80, record=True, file=io.StringIO(), highlight=False)
    console.print(make_check_table(checks))
    console.print(make_advice_table(checks))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    for check in checks:
        for command in check.commands:
            assert f"  {command}" in [line.rstrip() for line in lines]


def test_markup_in_what_is_found_is_shown_as_it_is() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    check = Check("TensorRT", "missing", "[red]x[/nonsense]", "a [b]", ("pip install 'fer-edge[rtx]'",))
    console.print(make_check_table([check]))
    console.print(make_advice_table([check]))
    text = console.export_text()
    for part in ("[red]x[/nonsense]", "a [b]", "pip install 'fer-edge[rtx]'"):
        assert part in text


def test_checks_are_plain_values() -> None:
    check = Check("GPU", "ok", "x", commands=("a", "b"))
    assert check.to_dict() == {
        "name": "GPU",
        "state": "ok",
        "found": "x",
        "advice": "",
        "commands": ["a", "b"],
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        check.state = "warn"  # type: ignore[misc]


def test_this_machine() -> None:
    checks = {check.name: check for check in diagnose()}
    assert {"board", "driver", "TensorRT", "memory", "ONNX Runtime"} <= set(checks)
    import onnxruntime

    assert checks["ONNX Runtime"].found.startswith(onnxruntime.__version__)
    kib = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
    )
    free_gb = float(checks["memory"].found.split()[0])
    assert free_gb <= int(kib.split()[1]) * 1024 / 1e9 * 1.5 + 1


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered_by_a_process(question: str) -> None:
    answer = LocalMachine(limit_s=60).ask(question)
    assert answer
    if question == "python":
        assert answer["version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
        assert answer["environment"] == (sys.prefix != sys.base_prefix)
