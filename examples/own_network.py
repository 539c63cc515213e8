"""Build an INT8 bundle of a network of your own and run it.

    python examples/own_network.py photo.jpg --output own.fer

Two registries take the network by its name: NETWORKS holds its constructor and input contract, and CATALOGUE its
description for commands. The weights file also holds the name of the network, its options and its ModelSpec. Here the
weights are random, in place of trained ones, so the answers are meaningless.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fer_edge import BuildOptions, ModelSpec, Runtime, build
from fer_edge.errors import FerEdgeError
from fer_edge.export.networks import NETWORKS, NetworkEntry
from fer_edge.export.weights import TrainedNetwork, save_weights
from fer_edge.models import CATALOGUE, CatalogueEntry

SPEC = ModelSpec(
    network="own-network",
    input_height=48,
    input_width=48,
    color="gray",
    channels=1,
    mean=(0.5,),
    std=(0.25,),
    class_names=("neutral", "happiness", "surprise"),
)


class OwnNetwork(nn.Module):
    """Three convolutions and a dense layer."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(64 * 6 * 6, num_classes)

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` of faces ``[B, 1, 48, 48]``."""
        logits: Tensor = self.classifier(self.features(faces).flatten(1))
        return logits


NETWORKS[SPEC.network] = NetworkEntry(build=OwnNetwork, spec=SPEC, paper="none")
CATALOGUE[SPEC.network] = CatalogueEntry(paper="none", parameters=30_211, macs=5_647_104, weights="your own")


def main() -> None:
    """Save weights, build, and classify the faces of a photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photograph")
    parser.add_argument("--output", type=Path, default=Path("own.fer"), help="folder of the bundle")
    parser.add_argument("--weights", type=Path, default=Path("own.safetensors"))
    args = parser.parse_args()
    torch.manual_seed(0)
    options = {"num_classes": len(SPEC.class_names)}
    provenance = {"network": SPEC.network, "weights": "own", "licence": "none"}
    save_weights(args.weights, TrainedNetwork(OwnNetwork(**options).eval(), SPEC, options, provenance))
    report = build(
        BuildOptions(model=SPEC.network, weights=str(args.weights), output=args.output, overwrite=True)
    )
    assert report.comparison is not None  # INT8 is compared with FP32
    print(f"{args.output}: {report.comparison.agreement:.1%} of the faces keep their class in INT8")
    with Runtime(args.output) as runtime:
        for face in runtime(args.photograph).faces:
            print(f"{face.label or face.reason}: {face.probability:.2f}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FerEdgeError as error:
        sys.exit(str(error))
