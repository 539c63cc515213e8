#!/usr/bin/env bash
# Runs the tests of the CUDA kernels under NVIDIA's compute-sanitizer, on a machine with a GPU:
#
#     bash tests/gpu/sanitize.sh [memcheck racecheck initcheck synccheck]
#
# memcheck finds accesses out of bounds and leaks, racecheck races in shared memory, initcheck reads of device memory
# that nothing has written, synccheck barriers that not all threads reach. Exits with 1 at the first finding.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v compute-sanitizer >/dev/null || {
  echo "compute-sanitizer is not on PATH: it comes with the CUDA toolkit (on a Jetson: /usr/local/cuda/bin)" >&2
  exit 2
}
python=${PYTHON:-python3}
"$python" -c 'import fer_edge._kernels' 2>/dev/null || {
  echo "the CUDA kernels are not compiled: run FER_EDGE_KERNELS=1 pip install ." >&2
  exit 2
}
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck synccheck)
for tool in "${tools[@]}"; do
  options=(--tool "$tool" --error-exitcode 1 --target-processes all)
  [ "$tool" = memcheck ] && options+=(--leak-check full)
  echo "+ compute-sanitizer ${options[*]}"
  compute-sanitizer "${options[@]}" "$python" -m pytest -q -p no:cacheprovider tests/gpu/test_kernels_gpu.py
done
