"""Writes the bundles that ship anew, in the current format: the same model and ranges, with a self-test.

    python benchmarks/renew_bundles.py [NAME ...]

The faces of a self-test are chosen on the INT8 model that is built from the bundle, so that saturated INT8 arithmetic
shows on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

from fer_edge.builder import BuildOptions, build
from fer_edge.builder.self_test import add_self_test
from fer_edge.bundle import FP32_MODEL, RANGES, SELF_TEST, open_bundle, write_bundle
from fer_edge.catalogue import SHIPPED, shipped_bundle


def renew(name: str) -> None:
    """Write one bundle anew."""
    path = shipped_bundle(name)
    bundle = open_bundle(path)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        int8 = work / "int8.fer"
        build(BuildOptions(bundle.spec.network, name, backend="onnxruntime", output=int8))
        for source, file in ((path, FP32_MODEL), (path, RANGES), (int8, SELF_TEST)):
            shutil.copyfile(source / file, work / file)
        record = add_self_test(work, bundle.spec)
        manifest = dataclasses.replace(bundle.manifest, self_test=record)
        write_bundle(path, manifest, {file: work / file for file in (FP32_MODEL, RANGES, SELF_TEST)})


def main() -> None:
    """Write all, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=tuple(SHIPPED), metavar="NAME")
    for name in parser.parse_args().names:
        renew(name)


if __name__ == "__main__":
    main()
