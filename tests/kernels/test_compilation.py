"""The kernels compile for every GPU without a warning or a spill, within the limits kept in resources.json."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

KERNELS = ROOT / "kernels"


def load_resources() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_resources", KERNELS / "resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


resources = load_resources()
RECORD = json.loads(resources.LIMITS.read_text())
LIMITS = RECORD["kernels"]
ATTENTION = {name for name in LIMITS if not name.startswith("crop")}
TARGETS = list(resources.MULTIPROCESSORS)
needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="needs nvcc: install the CUDA toolkit 13 and put it on the PATH"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvcc")


@pytest.fixture(scope="module")
def compiled(folder: Path) -> dict:
    """Target → kernel → resources; spills and warnings are errors of the compiler."""
    return resources.compile_all(folder)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_resources_are_within_their_limits(compiled: dict, target: str) -> None:
    """The compiler of the record may not need more registers; another one may, within the occupancy."""
    same_compiler = resources.compiler_version() == RECORD["compiler"]
    assert compiled[target].keys() == LIMITS.keys()
    for name, used in compiled[target].items():
        limit = LIMITS[name]
        size = resources.LaunchSize(limit["threads"], limit["shared_bytes"])
        warps = resources.occupancy(target, used.registers, size, used.static_shared_bytes)
        assert used.spilled_bytes == 0, name
        assert warps >= limit["warps"][target], f"{name}: {used.registers} registers"
        assert used.registers <= limit["registers"][target] or not same_compiler, name


@needs_nvcc
def test_launch_sizes_are_as_recorded(folder: Path) -> None:
    sizes = resources.launch_sizes(folder)
    recorded = {name: (limit["threads"], limit["shared_bytes"]) for name, limit in LIMITS.items()}
    assert {name: (size.threads, size.shared_bytes) for name, size in sizes.items()} == recorded


def test_the_kernel_of_the_paper_leaves_room_for_four_blocks() -> None:
    """As the header comment of self_attention.cuh derives: all registers, four blocks of four warps."""
    paper = LIMITS["self_attention<half,128>"]
    assert paper["shared_bytes"] == 20 * 1024
    assert paper["warps"] == {target: 12 if target == "75" else 16 for target in TARGETS}
    assert all(registers <= 128 for target, registers in paper["registers"].items() if target != "75")
    assert all(limit["shared_bytes"] <= 48 * 1024 for limit in LIMITS.values())


@needs_nvcc
def test_occupancy_agrees_with_the_toolkit(folder: Path) -> None:
    """Against NVIDIA's own calculation in cuda_occupancy.h."""
    source = folder / "occupancy.cu"
    source.write_text(r"""
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
  int major, minor, warps, shared, reserved, registers, threads;
  size_t dynamic;
  while (scanf("%d %d %d %d %d %d %d %zu", &major, &minor, &warps, &shared, &reserved, &registers, &threads,
               &dynamic) == 8) {
    cudaOccDeviceProp device;
    device.computeMajor = major, device.computeMinor = minor, device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = warps * 32, device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32, device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = shared;
    device.numSms = 8, device.sharedMemPerBlockOptin = shared - reserved, device.reservedSharedMemPerBlock = reserved;
    cudaOccFuncAttributes function;
    function.maxThreadsPerBlock = 1024, function.numRegs = registers;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    const auto error =
        cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &function, &state, threads, dynamic);
    printf("%d\n", error ? -error : result.activeBlocksPerMultiprocessor * (threads / 32));
  }
}
""")
    program = folder / "occupancy"
    subprocess.run(["nvcc", "-o", program, source], check=True, capture_output=True)
    cases = [
        (target, registers, resources.LaunchSize(threads, shared))
        for target in TARGETS
        for registers in (24, 64, 128, 150, 168, 255)
        for threads in (64, 128, 256)
        for shared in (0, 3200, 20480, 40960, 48 * 1024)
    ]
    lines = []
    for target, registers, size in cases:
        limits = resources.MULTIPROCESSORS[target]
        numbers = (
            *(int(target[:-1]), int(target[-1]), limits.warps, limits.shared_bytes, limits.reserved_bytes),
            *(registers, size.threads, size.shared_bytes),
        )
        lines.append(" ".join(map(str, numbers)))
    output = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True)
    expected = [int(line) for line in output.stdout.split()]
    assert [resources.occupancy(*case) for case in cases] == expected


def ptx_of(target: str, folder: Path) -> dict[str, str]:
    """Kernel → its PTX."""
    output = folder / f"{target}.ptx"
    command = ["nvcc", "-std=c++17", "-O3", f"-arch=compute_{target}", "-ptx", "-I", KERNELS, "-o", output]
    subprocess.run([*command, KERNELS / "self_attention.cu"], check=True, capture_output=True)
    parts = re.split(r"^\.visible \.entry ", output.read_text(), flags=re.MULTILINE)[1:]
    return {resources.short_name(part.split("(")[0]): part for part in parts}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("target", ["75", "80"])
def test_ptx_has_the_instructions_it_should(folder: Path, target: str) -> None:
    kernels = ptx_of(target, folder)
    assert kernels.keys() == ATTENTION
    mma = "mma.sync.aligned.m16n8k16" if target == "80" else "mma.sync.aligned.m16n8k8"
    wide_load = "cp.async.cg.shared.global" if target == "80" else "ld.global.nc.v4.u32"
    for name, text in kernels.items():
        half, attention = "half" in name, name.startswith("self_attention")
        assert wide_load in text, name
        assert (f"{mma}.row.col.f32.f16.f16.f32" in text) == half, name
        assert ("ldmatrix.sync.aligned.m8n8.x4" in text) == half, name
        assert ("st.global.v4" in text) == attention, name
        assert "ex2.approx.ftz.f32" in text, name
        assert ".local " not in text, f"{name} has arrays in local memory"
    # 2 n-tiles of scores per 16 deep, 16 of channels per 16 keys; twice as many on sm_75, of half the depth.
    count = kernels["self_attention<half,128>"].count(mma)
    assert count == (4 + 2 * 16) * (1 if target == "80" else 2)


def find_cuobjdump() -> str | None:
    """On the PATH with the toolkit, or from the wheel nvidia-cuda-cuobjdump."""
    wheel = [Path(entry) / "nvidia" / "cu13" / "bin" / "cuobjdump" for entry in sys.path if entry]
    return shutil.which("cuobjdump") or next((str(path) for path in wheel if path.exists()), None)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.skipif(find_cuobjdump() is None, reason="needs cuobjdump: pip install nvidia-cuda-cuobjdump")
@pytest.mark.parametrize("target", ["75", "87", "110"])
def test_machine_code_has_the_instructions_it_should(compiled: dict, folder: Path, target: str) -> None:
    cuobjdump = find_cuobjdump()
    assert cuobjdump is not None
    cubin = folder / f"self_attention.sm_{target}.cubin"
    output = subprocess.run([cuobjdump, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*Function : ", output, flags=re.MULTILINE)[1:]
    kernels = {resources.short_name(part.split()[0]): part for part in parts}
    assert kernels.keys() == ATTENTION
    for name, text in kernels.items():
        half = "half" in name
        assert ("HMMA." in text) == ("LDSM." in text) == half, name
        assert bool(
            re.search(r"LDG\.E(\.\w+)*\.128" if target == "75" else r"LDGSTS\.E(\.\w+)*\.128", text)
        ), name
        assert not re.search(r"\b(LDL|STL)\b", text), f"{name} uses local memory"


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("source", resources.SOURCES)
def test_the_host_side_has_no_warnings(folder: Path, source: str) -> None:
    command = ["nvcc", "-std=c++17", "-arch=sm_87", "-c", "-o", folder / "host.o", "-I", KERNELS]
    warnings = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    result = subprocess.run(
        [*command, *warnings, KERNELS / source], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@needs_nvcc
def test_a_spill_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few registers the compilation fails and names the function."""
    greedy = folder / "greedy.cu"
    greedy.write_text("""
__global__ void __launch_bounds__(1024) greedy_kernel(const float* in, float* out) {
  float values[64];
  #pragma unroll
  for (int i = 0; i < 64; ++i) values[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
  float product = 1.0f;
  #pragma unroll
  for (int i = 63; i >= 0; --i) product = product * values[i] + values[(i * 29) % 64];
  out[threadIdx.x] = product;
}
""")
    monkeypatch.setattr(resources, "FOLDER", folder)
    with pytest.raises(RuntimeError, match=r"spilled to local memory in function '\w*greedy_kernel"):
        resources.compile_cubin("greedy.cu", "87", folder)
