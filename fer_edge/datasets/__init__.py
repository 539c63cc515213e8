"""Labelled face images for calibration, evaluation and training.

:func:`load_dataset` recognises the format of the data from the files at a path:

==============  =====================================================================================
FER2013, FER+   a CSV file, plain, ``.gz`` or in a ``.zip``, with the columns emotion,pixels,Usage, such
                as ``fer2013.csv``, ``icml_face_data.csv``, or Kaggle's ``train.csv`` (no splits) and
                ``test.csv`` (no labels), with ``fer2013new.csv`` beside it for the votes; or the folder
                that holds it, or the folder above
RAF-DB          ``EmoLabel/list_patition_label.txt`` with ``Image/aligned`` or ``Image/original``
AffectNet       ``training.csv``, ``validation.csv`` with the images; or ``annotations/*_exp.npy``
                with ``images``, also below ``train_set`` and ``val_set``
CK+             ``cohn-kanade-images``, ``Emotion`` and, optionally, ``Landmarks``
legend          ``legend.csv`` or another CSV file with a column image, file, filename or path, and a
                column emotion, label, class or expression; the images beside it or in ``images``
folder          a subfolder per class, also below ``train``, ``test`` and ``val``, which are then splits;
                or images without subfolders, which have no labels
==============  =====================================================================================

Columns of CSV files are found by name, in any order and case, with spaces around them and other columns between them;
the delimiter is that of the header: comma, ``;`` or tab. Files and folders whose name begins with a dot, ``__MACOSX``,
``@eaDir``, ``Thumbs.db`` and ``desktop.ini`` are ignored. If several files match, or classes are numbered, nothing is
guessed: the error names the candidates and the argument that selects one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.checks import MAX_IMAGES, require_flag, require_path, require_whole
from fer_edge._utils.listing import describe
from fer_edge.datasets import affectnet, ckplus, fer2013, folders, legends, rafdb
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.fer2013 import FERPLUS_FILE
from fer_edge.datasets.loading import Request
from fer_edge.datasets.numbered import parse_class_order
from fer_edge.datasets.rows import BadRows, Skipped
from fer_edge.datasets.subjects import Fold, leave_subjects_out, subject_folds
from fer_edge.datasets.tables import describe_tables
from fer_edge.errors import DataError, UsageError

__all__ = [
    "FERPLUS_FILE",
    "FORMATS",
    "FaceDataset",
    "Fold",
    "Skipped",
    "leave_subjects_out",
    "load_dataset",
    "subject_folds",
    "training_split",
]


@dataclass(frozen=True)
class Format:
    """One data format.

    Attributes
    ----------
    find : callable
        Returns the path that ``load`` reads, or ``None`` if the given path has another format.
    load : callable
        Loads the data set.
    training_split : callable
        Returns the authors' training split, or ``None`` if the data has no splits.
    """

    find: Callable[[Path], Path | None]
    load: Callable[[Path, Request], FaceDataset]
    training_split: Callable[[Path], str | None] = lambda found: None


#: In order of recognition, the most specific first.
FORMATS: Mapping[str, Format] = {
    "raf-db": Format(rafdb.find, rafdb.load, lambda found: "train"),
    "ck+": Format(ckplus.find, ckplus.load),
    "affectnet": Format(affectnet.find_csv, affectnet.load_csv, affectnet.training_csv),
    "affectnet-arrays": Format(affectnet.find_arrays, affectnet.load_arrays, affectnet.training_arrays),
    "fer2013": Format(fer2013.find, fer2013.load, fer2013.training_split),
    "legend": Format(legends.find, legends.load),
    "folder": Format(folders.find, folders.load, folders.training_split),
}


def load_dataset(
    path: str | Path,
    split: str | None = None,
    labels: str = "auto",
    *,
    on_bad_row: str = "error",
    peak_frames: int = 1,
    subjects_from_names: bool = False,
    class_order: str | None = None,
) -> FaceDataset:
    """Load faces from a label file or a folder, whose format is recognised.

    Parameters
    ----------
    path : str or Path
        File or folder in one of the formats of :mod:`fer_edge.datasets`.
    split : str, optional
        FER2013: ``Training``, ``PublicTest``, ``PrivateTest``. RAF-DB: ``train``, ``test``. AffectNet:
        ``training``, ``validation``. A folder: ``train``, ``test``, ``val``, if it has folders of that name. The
        others have no splits.
    labels : {"auto", "ferplus", "fer2013"}
        For FER2013: source of the labels. ``auto`` uses FER+ if its file lies beside the CSV.
    on_bad_row : {"error", "skip"}
        ``error`` stops at the first bad row; an image that cannot be decoded raises when it is read.
        ``skip`` leaves bad rows out, decodes every image once to find unreadable ones, and lists both in
        ``FaceDataset.skipped``.
    peak_frames : int
        For CK+: number of last frames of a sequence that carry its label.
    subjects_from_names : bool
        For a folder: take the subjects from file names of the form ``SUBJECT_anything.png``.
    class_order : str, optional
        For a folder or a legend with numbered classes: their names in the order of the numbers, separated by commas.

    Raises
    ------
    DataError
        If nothing usable is found or a row is bad; the message names the file and the line.
    UsageError
        If an option does not apply to the format of the data.
    """
    require_path("path", path, optional=False)
    require_whole("peak_frames", peak_frames, 1, MAX_IMAGES)
    require_flag("subjects_from_names", subjects_from_names)
    named = {"split": split, "labels": labels, "on_bad_row": on_bad_row, "class_order": class_order}
    for option, value in named.items():
        if not isinstance(value, str) and not (option in ("split", "class_order") and value is None):
            raise UsageError(f"{option} must be a name, found {value!r:.60}. Fix: change {option}")
    order = parse_class_order(class_order)
    path = Path(path)
    if path.name in ("", ".."):  # such as ".", which would name nothing in messages and results
        path = path.resolve()
    name, found = _recognised(path)
    if peak_frames != 1 and name != "ck+":
        raise UsageError(f"peak_frames is for the CK+ layout, {path} is {name}. Fix: leave it out")
    if subjects_from_names and name != "folder":
        raise UsageError(f"subjects_from_names is for image folders, {path} is {name}. Fix: leave it out")
    if class_order is not None and name not in ("folder", "legend"):
        raise UsageError(f"class_order is for folders and legends, {path} is {name}. Fix: leave it out")
    request = Request(split, labels, BadRows(on_bad_row), peak_frames, subjects_from_names, order)
    return FORMATS[name].load(found, request)


def training_split(path: str | Path) -> str | None:
    """Return the name of the split to train on; ``None`` if the data has no splits.

    Raises
    ------
    DataError
        If ``path`` does not exist or has an unrecognised format.
    """
    name, found = _recognised(Path(path))
    return FORMATS[name].training_split(found)


def _recognised(path: Path) -> tuple[str, Path]:
    """Return the key of the format of ``path``, and the path that its loader reads."""
    accepted = (
        "a CSV file with the columns emotion,pixels,Usage (FER2013) or image,emotion (legend), a folder with one, a "
        "folder of images, or the folder of RAF-DB, AffectNet or CK+"
    )
    if not _exists(path):
        raise DataError(f"{path} does not exist. Fix: give {accepted}")
    for name, form in FORMATS.items():
        found = form.find(path)
        if found is not None:
            if name == "fer2013" and path.is_dir() and folders.holds_folders_of_pictures(path):
                raise DataError(
                    f"{path} holds {found.relative_to(path)} and folders of pictures ({describe(path)}). Fix: name one of them"
                )
            return name, found
    raise DataError(
        f"unrecognised data format at {path}, found {describe_tables(path)}. Fix: give {accepted}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or a folder is not accessible
        return False
