"""Checks of NVIDIA software: driver, CUDA, TensorRT, and the kernels and the plugin of FER-Edge."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fer_edge.doctor.check import MISSING, OK, WARN, Check, answer_line
from fer_edge.doctor.facts import Facts, count, printable_line
from fer_edge.system.extras import install_command
from fer_edge.system.machine import read_driver_version
from fer_edge.system.shell import pip_command

_MIN_TENSORRT = (10, 3)
_MIN_GPU = (7, 5)
_NEW_ENVIRONMENT = (
    "/usr/bin/python3 -m venv --system-site-packages ~/fer-edge",
    "~/fer-edge/bin/python -m pip install .",
)
_INSTALL_MODULE = ("sudo apt update", "sudo apt install python3-libnvinfer")
#: CUresult → its meaning.
_STATUS_MEANINGS = {
    34: "libcuda.so.1 is the stub of the toolkit, not the driver",
    100: "no device",
    802: "the system is not ready",
    803: "libcuda.so.1 and the kernel module are of different versions",
}


def look_at_driver(facts: Facts) -> Iterable[Check]:
    module, cuda = read_driver_version(facts.machine), facts.cuda
    found = f"driver {module}" if module else "no kernel module"
    if cuda is None:
        found += "; the driver does not respond"
        yield Check("driver", WARN, found, "check its errors, then reboot", ("sudo dmesg | tail -n 50",))
    elif "error" in cuda:
        yield _explain_missing_driver(facts, f"{found}, no libcuda.so.1")
    elif status := count(cuda.get("status")):
        found += f"; CUDA error {status}: {_STATUS_MEANINGS.get(status, 'see CUresult in the driver API')}"
        if facts.container:
            yield Check("driver", WARN, found, *_gpu_in_container(facts))
        else:
            yield Check("driver", WARN, found, "reboot, so that driver and library match", ("sudo reboot",))
    else:
        number = count(cuda.get("version"))
        yield Check("driver", OK, f"{found}, CUDA {number // 1000}.{number % 1000 // 10}")


def _explain_missing_driver(facts: Facts, found: str) -> Check:
    if not (read_driver_version(facts.machine) or facts.jetson or facts.has_nvidia_card()):
        return Check("driver", MISSING, "no NVIDIA GPU, which the CPU backends do not need")
    if facts.container:
        return Check("driver", MISSING, found, *_gpu_in_container(facts))
    if facts.jetson:
        advice = "check that all packages of L4T are installed"
        return Check("driver", MISSING, found, advice, ("dpkg -l 'nvidia-l4t-*'",))
    advice = "install the GPU driver (the command is for Ubuntu), then reboot"
    return Check("driver", MISSING, found, advice, ("sudo ubuntu-drivers install",))


def look_at_gpu(facts: Facts) -> Iterable[Check]:
    for gpu in facts.gpus:
        major, minor = gpu.compute_capability
        found = f"{gpu.name}, sm{major}{minor}, {gpu.memory_bytes / 1e9:.1f} GB"
        if gpu.compute_capability < _MIN_GPU:
            yield Check("GPU", WARN, found, "TensorRT 10 and later need compute capability 7.5 or higher")
        else:
            yield Check("GPU", OK, found)


def look_at_cuda(facts: Facts) -> Iterable[Check]:
    if not facts.gpus:
        return
    answer, toolkit = facts.machine.ask("cuda-python") or {}, facts.toolkit_version()
    installed = f"toolkit {toolkit}" if toolkit else "no toolkit"
    if "version" in answer:
        yield Check("CUDA", OK, f"cuda-python {answer_line(answer['version'])}, {installed}")
    else:
        major = count((facts.cuda or {}).get("version")) // 1000
        commands = (pip_command("install", f"cuda-python<{major + 1}"),)
        yield Check("CUDA", MISSING, f"no cuda-python, {installed}", "needed to run TensorRT", commands)


def look_at_tensorrt(facts: Facts) -> Iterable[Check]:
    answer = facts.machine.ask("tensorrt")
    if answer is None:
        found = "crashes or hangs on import"
        yield Check("TensorRT", WARN, found, "find the reason", ("python -c 'import tensorrt'",))
    elif "version" in answer:
        yield _judge_tensorrt(facts, answer_line(answer["version"]), str(answer.get("file")))
    elif answer.get("absent"):
        yield _explain_missing_tensorrt(facts)
    else:
        found = f"cannot be imported: {answer_line(answer.get('error'))}"
        advice = (
            _gpu_in_container(facts) if facts.container else ("install it again", _install_tensorrt(facts))
        )
        yield Check("TensorRT", WARN, found, *advice)


def _judge_tensorrt(facts: Facts, version: str, file: str) -> Check:
    if facts.jetson and not facts.container and not file.startswith("/usr/lib/python3"):
        found = f"{version} from pip, expected the TensorRT of JetPack"
        commands = (pip_command("uninstall", "tensorrt"), *_NEW_ENVIRONMENT)
        return Check("TensorRT", WARN, found, "remove it and use that of JetPack", commands)
    if tuple(map(int, re.findall(r"\d{1,9}", version)[:2])) < _MIN_TENSORRT:
        advice = "flash JetPack 6 or later" if facts.jetson else "install 10.3 or later"
        return Check("TensorRT", WARN, f"{version}, expected 10.3 or later", advice)
    return Check("TensorRT", OK, version)


def _explain_missing_tensorrt(facts: Facts) -> Check:
    library = facts.tensorrt_library()
    if not facts.jetson:
        if not facts.gpus:
            return Check("TensorRT", MISSING, "not installed, not needed without an NVIDIA GPU")
        found = f"libnvinfer {library}, no module for this Python" if library else "not installed"
        return Check("TensorRT", MISSING, found, "install it", _install_tensorrt(facts))
    if not library:
        if facts.container:
            return Check("TensorRT", MISSING, "not in this container", *_gpu_in_container(facts))
        return Check("TensorRT", MISSING, "not installed", "install JetPack", _install_tensorrt(facts))
    pythons, python = facts.tensorrt_pythons(), facts.machine.ask("python") or {}
    if not pythons:
        commands = (*_INSTALL_MODULE, *_NEW_ENVIRONMENT)
        return Check("TensorRT", MISSING, f"libnvinfer {library}, no Python module", "install it", commands)
    if python.get("version") not in pythons:
        here = printable_line(python.get("version")) or "another"
        found = f"libnvinfer {library} with a module for Python {', '.join(pythons)}, this is {here}"
    else:
        found = f"libnvinfer {library}, but this environment excludes system packages"
    return Check("TensorRT", MISSING, found, "make an environment with system packages", _NEW_ENVIRONMENT)


def look_at_rtx(facts: Facts) -> Iterable[Check]:
    if facts.machine.architecture != "x86_64":
        return
    answer = facts.machine.ask("tensorrt-rtx") or {"error": "crashes or hangs on import"}
    if "version" in answer:
        yield Check(
            "TensorRT-RTX", OK, f"{answer_line(answer['version'])}, compiles for RTX cards without a GPU"
        )
    elif answer.get("absent"):
        advice = "install it to compile for RTX cards, with or without a GPU here"
        yield Check("TensorRT-RTX", MISSING, "not installed", advice, (install_command("rtx"),))
    else:
        commands = (pip_command("install", "--force-reinstall", "tensorrt-rtx-cu13"),)
        yield Check("TensorRT-RTX", WARN, answer_line(answer.get("error")), "install it again", commands)


def look_at_own_parts(facts: Facts) -> Iterable[Check]:
    commands = (f"FER_EDGE_KERNELS=1 {pip_command('install', '.')}",)
    for name, question, needs in (
        ("CUDA kernels", "kernels", "nvcc"),
        ("TensorRT plugin", "plugin", "nvcc and TensorRT's headers"),
    ):
        answer = facts.machine.ask(question)
        advice = f"compile it in the source folder, with {needs}"
        if not facts.gpus:
            yield Check(name, MISSING, "not needed without an NVIDIA GPU")
        elif answer is None:
            yield Check(name, WARN, "crashes or hangs when loaded", advice, commands)
        elif answer.get("ok") or answer.get("path"):
            yield Check(name, OK, answer_line(answer.get("path") or answer.get("version")))
        else:
            reason = answer_line(answer.get("reason") or answer.get("error"))
            reason = reason.partition(". Fix")[0].partition(":")[0]
            yield Check(name, MISSING, reason, advice, commands)


def _install_tensorrt(facts: Facts) -> tuple[str, ...]:
    """Return the commands that install TensorRT: by pip only on x86-64, because a Jetson has that of its JetPack."""
    if facts.jetson:
        return ("sudo apt update", "sudo apt install nvidia-jetpack", *_NEW_ENVIRONMENT)
    if facts.machine.architecture == "x86_64":
        return (install_command("tensorrt"),)
    return (*_INSTALL_MODULE, *_NEW_ENVIRONMENT)


def _gpu_in_container(facts: Facts) -> tuple[str, tuple[str, ...]]:
    """Return advice and command for a container without access to the GPU."""
    if facts.machine.architecture == "aarch64":
        advice = "give the container the GPU, and start from an image of JetPack or TensorRT"
        return advice, ("docker run --runtime nvidia IMAGE fer-edge doctor",)
    return "give the container the GPU", ("docker run --gpus all IMAGE fer-edge doctor",)
