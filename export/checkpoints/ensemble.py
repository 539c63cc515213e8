"""The Residual Masking ensemble from a folder with its members' files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from fer_edge._utils.files import combined_sha256
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.layouts import LAYOUTS
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.baselines import MEMBERS, ResmaskingEnsemble
from fer_edge.export.weights import TrainedNetwork

ENSEMBLE = "resmasking-ensemble"


def combine(folder: Path, trained: Mapping[Path, TrainedNetwork]) -> TrainedNetwork:
    """Return the ensemble of seven loaded members.

    Parameters
    ----------
    folder : Path
        Names the source.
    trained : mapping
        File → member.

    Raises
    ------
    WeightsError
        If a member is missing, repeated or unknown, or the classes differ.
    """
    files: dict[str, Path] = {}
    for path, member in trained.items():
        layout = LAYOUTS.get(member.spec.network)
        if layout is None or layout.arch not in MEMBERS:
            raise WeightsError(
                f"{path} holds {member.spec.network}, which is not a member of {ENSEMBLE} ({', '.join(MEMBERS)}). Fix: move it out of the folder."
            )
        if layout.arch in files:
            raise WeightsError(
                f"{folder} holds {member.spec.network} twice ({files[layout.arch].name} and {path.name}). Fix: keep one of the files."
            )
        files[layout.arch] = path
    missing = [arch for arch in MEMBERS if arch not in files]
    if missing:
        raise WeightsError(
            f"{folder} lacks {len(missing)} of {len(MEMBERS)} members: {', '.join(f'{arch} (published as {MEMBERS[arch].checkpoint})' for arch in missing)}. Fix: add their files."
        )
    first = trained[files["resmasking"]].spec
    for path, member in trained.items():
        if member.spec.class_names != first.class_names:
            raise WeightsError(
                f"{path} has the classes {', '.join(member.spec.class_names[:8])}, other members have {', '.join(first.class_names[:8])}. Fix: give members trained on the same classes."
            )
    members: dict[str, nn.Module] = {arch: trained[files[arch]].module for arch in MEMBERS}
    digests = {path.name: str(member.provenance["weights_sha256"]) for path, member in trained.items()}
    provenance = {
        "network": ENSEMBLE,
        "paper": NETWORKS[ENSEMBLE].paper,
        "file": folder.resolve().name,
        "weights_sha256": combined_sha256(digests),
        "layout": ENSEMBLE,
        "container": f"folder of {len(files)} files",
        "licence": LAYOUTS["resmasking"].licence,
        "claims": {},
        "members": {arch: dict(trained[files[arch]].provenance) for arch in MEMBERS},
    }
    fields = first.to_dict() | {"network": ENSEMBLE}
    options = {"num_classes": len(first.class_names)}
    return TrainedNetwork(
        ResmaskingEnsemble(members).eval(), type(first).from_dict(fields), options, provenance
    )
