#!/usr/bin/env bash
# Installs this checkout on an emulated aarch64 Debian as a user would, and compares it with x86-64.
#
#   bash tests/aarch64/run.sh [WORKDIR]          exit code 0 only if both find the same faces and probabilities
#   bash tests/aarch64/run.sh --clean [WORKDIR]  deletes what it made
#
# Needs root, x86-64 Linux, network, 2 GB of disk. A root that was made is used again. ONNX Runtime warns that it
# cannot read the processor: QEMU shows the host's /proc/cpuinfo. It learns of dot products from the kernel's
# capabilities all the same. Times under emulation mean nothing.
#   PYTHON          a Python of x86-64 that has the same releases of the dependencies (python3)
#   DEBIAN_MIRROR   where the root comes from (mmdebstrap's own choice)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
release=bookworm

# The cores of Jetson Orin are Cortex-A78AE. Of the processors that QEMU 7.2 emulates this is the nearest: Armv8.2
# with FP16 and dot products, without SVE, BF16 and I8MM, with which ONNX Runtime takes kernels that Orin lacks.
processor=cortex-a76

clean=false
if [ "${1:-}" = --clean ]; then clean=true; shift; fi
work=${1:-${FER_EDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fer-edge}/aarch64}
made=(root root.part wheels views x86 x86.json x86-int8.json aarch64.json aarch64-int8.json versions.txt)

fail() { echo "$1" >&2; exit 1; }

if $clean; then
  for name in "${made[@]}"; do rm -rf --one-file-system "${work:?}/$name"; done
  [ ! -d "$work" ] || rmdir --ignore-fail-on-non-empty "$work"
  exit 0
fi

[ "$(uname -m)" = x86_64 ] || fail "this compares aarch64 with x86-64, and runs on x86-64: here is $(uname -m)"
[ "$(id -u)" = 0 ] || fail "chroot and mounts need root: run it with sudo"
command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt-get install mmdebstrap qemu-user-static binfmt-support"
grep -qs ^enabled /proc/sys/fs/binfmt_misc/qemu-aarch64 || fail "programs of aarch64 do not run here:
  apt-get install qemu-user-static binfmt-support
  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  update-binfmts --enable qemu-aarch64"

mkdir -p "$work"
work=$(cd "$work" && pwd)
root=$work/root
title=
step() {
  [ -z "$title" ] || echo "   $((SECONDS - began)) s"
  title=$1
  began=$SECONDS
  [ -z "$title" ] || echo "== $title"
}

# The mounts live in a namespace of their own and end with the command.
in_root() {
  local pass=() name
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_EXTRA_INDEX_URL; do
    [ -z "${!name:-}" ] || pass+=("$name=${!name}")
  done
  [ -z "$index" ] || pass+=("PIP_INDEX_URL=$index")
  # shellcheck disable=SC2016 # expanded by the inner shell
  nice -n 10 unshare --mount --propagation private sh -ec '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    exec chroot "$@"' sh "$root" \
    /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 QEMU_CPU=$processor \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_DEFAULT_TIMEOUT=180 \
    "${pass[@]}" "$@"
}

index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}

if [ ! -d "$root" ]; then
  step "Debian $release for arm64"
  rm -rf --one-file-system "$root.part"
  nice -n 10 mmdebstrap --quiet --mode=root --variant=minbase --architectures=arm64 \
    --include=python3-venv,ca-certificates $release "$root.part" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  mv "$root.part" "$root"
fi
# Names and certificates as here, for mirrors and proxies that this machine trusts.
cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"

step "the wheel of this checkout"
rm -rf "$work/wheels" "$root/root/wheels"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$checkout"
cp -r "$work/wheels" "$root/root/wheels"
wheel=$(basename "$work"/wheels/fer_edge-*-py3-none-any.whl)

step "aarch64: python3 -m venv, pip install $wheel"
in_root python3 -m venv --clear /root/venv
in_root /root/venv/bin/pip install --quiet "/root/wheels/$wheel"
in_root /root/venv/bin/pip freeze --exclude fer-edge >"$work/versions.txt"
cat "$work/versions.txt"

step "x86-64: the same releases, and the photograph (the astronaut of scikit-image)"
"$python" -m venv --clear "$work/x86"
"$work/x86/bin/pip" install --quiet --disable-pip-version-check -c "$work/versions.txt" "$work/wheels/${wheel}[demo]"
photograph=$(cd / && "$work/x86/bin/python" -c 'from fer_edge.commands.demo import sample_photograph as f; print(f())')
rm -rf "$work/views" "$root/root/views"
"$work/x86/bin/python" "$here/make_views.py" "$photograph" "$work/views"
cp -r "$work/views" "$root/root/views"
cp "$here/find_faces.py" "$root/root"

step "aarch64: fer-edge doctor"
in_root /root/venv/bin/fer-edge doctor --json >"$root/root/doctor.json"
"$python" - "$root/root/doctor.json" <<'END'
import json, sys
doctor = json.load(open(sys.argv[1]))
print(doctor["machine"]["system"], "| ONNX Runtime", doctor["backends"]["onnxruntime"], "| yunet", doctor["detectors"]["yunet"])
assert doctor["machine"]["system"].endswith("aarch64")
assert doctor["backends"]["onnxruntime"]["ok"] and doctor["detectors"]["yunet"] == "ready"
END

step "aarch64: faces in FP32"
in_root /root/venv/bin/python /root/find_faces.py /root/views >"$work/aarch64.json"

step "aarch64: fer-edge build --int8, on few images"
in_root /root/venv/bin/fer-edge build --int8 --calibration-images 16 --comparison-images 8 --output /root/int8.fer

step "aarch64: faces in INT8"
in_root /root/venv/bin/python /root/find_faces.py /root/views /root/int8.fer >"$work/aarch64-int8.json"

step "x86-64: faces in FP32, and in INT8 with the bundle that aarch64 built"
"$work/x86/bin/python" "$here/find_faces.py" "$work/views" >"$work/x86.json"
"$work/x86/bin/python" "$here/find_faces.py" "$work/views" "$root/root/int8.fer" >"$work/x86-int8.json"

step "comparison"
agree=true
"$python" "$here/compare.py" "$work/x86.json" "$work/aarch64.json" || agree=false
"$python" "$here/compare.py" "$work/x86-int8.json" "$work/aarch64-int8.json" || agree=false
step ""
echo "$SECONDS s in all"
$agree || fail "aarch64 and x86-64 disagree"
