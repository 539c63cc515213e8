"""Write golden crops and probabilities of a bundle, for programs that run bundles without FER-Edge.

    python examples/cpp/golden.py default examples/cpp/golden

crops.bin holds uint8 [N, H, W, C]: faces of the bundle's self-test, in the colour of the network and resized to its
input; the remaining step is (pixel / 255 - mean) / std. probabilities.bin holds float32 [N, K] of the FP32
model, with the temperature and the default prior of the manifest. Sizes and classes are those of manifest.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from fer_edge import open_bundle
from fer_edge.backends import BACKENDS, load_session
from fer_edge.backends.self_test_data import read_self_test
from fer_edge.bundle import SELF_TEST
from fer_edge.errors import FerEdgeError
from fer_edge.models import find_bundle
from fer_edge.preprocess import normalise, resize_image
from fer_edge.probabilities import make_rule

FACES = 8


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    bundle = open_bundle(find_bundle(args.bundle))
    faces = read_self_test(bundle.read(SELF_TEST), bundle.spec).crops[:FACES]
    crops = np.stack([resize_image(face, bundle.spec) for face in faces])
    session = load_session(bundle, BACKENDS["onnxruntime"], "fp32")
    logits = session.run(normalise(crops, bundle.spec))["logits"]
    session.close()
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "crops.bin").write_bytes(crops.tobytes())
    probabilities = make_rule(bundle.manifest)(logits)
    (args.folder / "probabilities.bin").write_bytes(probabilities.astype("<f4").tobytes())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
