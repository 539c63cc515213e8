"""Catalogue of weights files published by the networks' authors: URLs, licence and origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """One weights file of a network's authors.

    Attributes
    ----------
    name : str
        The authors' file name.
    network : str
        Network that it belongs to, a key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    confirmed : bool
        ``True`` if the authors' own code downloads it from these URLs. Otherwise they are tried nevertheless.
    known : str
        Evidence for ``confirmed``, or other knowledge about the file.
    remark : str
        Description of the weights.
    owner, repository, release : str
        Owner and repository on Hugging Face and GitHub, and the GitHub release that holds the file.
    licence : str
        Licence of the weights, if stated.
    """

    name: str
    network: str
    confirmed: bool
    known: str
    remark: str
    owner: str = "phamquiluan"
    repository: str = "ResidualMaskingNetwork"
    release: str = "v0.0.1"
    licence: str = (
        "not stated for the weights; the authors' code is MIT (github.com/phamquiluan/ResidualMaskingNetwork)"
    )

    @property
    def addresses(self) -> tuple[str, str]:
        """URLs that are tried, in order."""
        place = f"{self.owner}/{self.repository}"
        return (
            f"https://huggingface.co/{place}/resolve/main/{self.name}",
            f"https://github.com/{place}/releases/download/{self.release}/{self.name}",
        )

    @property
    def mirror_path(self) -> str:
        """Path of the file on a mirror."""
        return f"/{self.owner}/{self.repository}/{self.name}"


_TRAINED_ON_FER2013 = (
    "trained on FER2013, by its name and the authors' scripts; member of their ensemble of seven"
)
_ON_DRIVE = (
    "the authors' README links a Google Drive for it, of which they said in 2023 that it is closed (issue 46)"
)
_LOST = "the authors said in 2023 that they have lost it (issue 46)"
_NOT_LISTED = "no text of the authors gives an address for it"


def _member(name: str, network: str, known: str) -> PublishedFile:
    return PublishedFile(name, network, confirmed=False, known=known, remark=_TRAINED_ON_FER2013)


_FILES = (
    PublishedFile(
        name="Z_resmasking_dropout1_rot30_2019Nov30_13.32",
        network="resmasking",
        confirmed=True,
        known="the authors' package rmn downloads it from both addresses",
        remark=(
            "very likely trained on VEMO, since only its trainer writes the prefix Z_ and uses BGR input; it is not the "
            "FER2013 model of the paper and does not have its accuracy. FER-Edge feeds it gray, repeated to three "
            "channels, as the authors' own package rmn does"
        ),
    ),
    _member("resnet18_rot30_2019Nov05_17.44", "resnet18", _LOST),
    _member("resnet50_pretrained_vgg_rot30_2019Nov13_08.20", "resnet50-vggface", _LOST),
    _member("resnet101_rot30_2019Nov14_18.12", "resnet101", _NOT_LISTED),
    _member("cbam_resnet50_rot30_2019Nov15_12.40", "cbam-resnet50", _ON_DRIVE),
    _member("efficientnet_b2b_rot30_2019Nov15_20.02", "efficientnet-b2b", _ON_DRIVE),
    _member("resmasking_dropout1_rot30_2019Nov17_14.33", "resmasking", _ON_DRIVE),
    _member("resmasking_rot30_2019Nov14_04.38", "resmasking-nodropout", _NOT_LISTED),
)
#: Files by the authors' file name.
PUBLISHED_FILES: Mapping[str, PublishedFile] = {file.name: file for file in _FILES}

#: Network → the files that ``--weights auto`` downloads, for an ensemble one per member. The least likely to exist
#: come first, so that a missing member is noticed before large files are downloaded.
PUBLISHED: Mapping[str, tuple[PublishedFile, ...]] = {
    **{file.network: (file,) for file in reversed(_FILES)},
    "resmasking-ensemble": tuple(file for file in _FILES if not file.name.startswith("Z_")),
}


def weights_text(network: str) -> str | None:
    """Return a description of the files downloaded for ``network``, ``None`` if no URL is known."""
    files = PUBLISHED.get(network)
    if files is None:
        return None
    if all(file.confirmed for file in files):
        return "the authors' file, downloaded on first use"
    what = f"{len(files)} files of the authors" if len(files) > 1 else "the authors' file"
    return f"{what}, tried at their addresses but not known to exist; otherwise give --weights"
