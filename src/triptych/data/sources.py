"""From a data set's name to tensors: find the files, check them, split off the validation part."""

import hashlib
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from triptych.data.download import cache_folder, embedded_folder, fetch
from triptych.data.idx import as_tensor, read_idx
from triptych.data.own import ARRAYS, OWN_NAME, read_own
from triptych.data.registry import SOURCES, File, Source, lookup
from triptych.data.splits import stratified_split
from triptych.errors import UserError

__all__ = ["SOURCES", "Dataset", "Source", "check_name", "fetch", "load", "verify"]

# Never to be changed: every published number holds for these splits.
SPLIT_SEED = 20240
N_CLASSES = 10  # of the sets that we know


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images as integers 0..levels-1 with their labels, in three disjoint parts.

    `train` is what is left of the training part when `validation` has been taken off; `test` is
    the official test part (for `digits`, which has none, a fixed stratified fifth). `sha256` is
    that of the content as it was read, before any split.
    """

    name: str
    levels: int
    train_images: UInt8[Tensor, "N 1 H W"]
    train_labels: Int64[Tensor, "N"]
    validation_images: UInt8[Tensor, "V 1 H W"]
    validation_labels: Int64[Tensor, "V"]
    test_images: UInt8[Tensor, "T 1 H W"]
    test_labels: Int64[Tensor, "T"]
    sha256: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, H, W)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many classes the labels count, from 0."""
        parts = (self.train_labels, self.validation_labels, self.test_labels)
        return 1 + max(int(labels.max()) for labels in parts)

    def to(self, device: str | torch.device) -> "Dataset":
        """The same data with every tensor on this device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def check_name(name: str) -> None:
    """UserError for what is no name of a data set, nor can be of one's own."""
    if name not in SOURCES and not re.fullmatch(OWN_NAME, name):
        raise UserError(
            f"there is no data set {name!r}; choose one of {', '.join(SOURCES)}, or a name of your "
            f"own of letters, digits, - and _, 64 at most"
        )


def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set of this name, checked and split.

    Files are looked for in `root`, else in the folder that TRIPTYCH_DATA names, else in the cache,
    to which they are downloaded. `digits` is embedded and ignores all three. Any other name is that
    of a file of one's own in the first two, NAME.npz (`own.py`); of its training images a tenth,
    5,000 at most, becomes the validation part.

    Raises:
        UserError: unknown name; a file missing, damaged or not what it should be; no download.
    """
    if name not in SOURCES:
        return _split_off_validation(*_own(name, root))
    source = lookup(name)
    if not source.files:
        return _split_off_validation(source, *_digits(source))
    folder = _chosen_folder(root) or fetch(name)
    content = hashlib.sha256()
    arrays = []
    for file, path in zip(source.files, _locate(source, folder), strict=True):
        data, _ = _read(source, file, path)
        content.update(data)
        arrays.append(as_tensor(data, file.shape))
    images, labels, test_images, test_labels = arrays
    return _split_off_validation(
        source, images, labels, test_images, test_labels, content.hexdigest()
    )


def verify(name: str, root: str | os.PathLike[str] | None = None) -> list[str]:
    """Check every file of a data set as `load` does, without downloading; a line for each.

    Raises:
        UserError: as `load`; also when the files were never downloaded.
    """
    if name not in SOURCES:
        source, images, _, test_images, _, sha256 = _own(name, root)
        n, m = len(images), len(test_images)
        height, width = images.shape[1:]
        told = f"{n} + {m} images of {height}x{width}, {source.levels} levels"
        return [f"{_own_file(name, root)}: {told}, sha256 {sha256}"]
    source = lookup(name)
    if not source.files:
        sha256 = _digits(source)[-1]
        return [f"{embedded_folder() / 'digits.csv.gz'}: official content, sha256 {sha256}"]
    folder = _chosen_folder(root) or cache_folder(name)
    lines = []
    for file, path in zip(source.files, _locate(source, folder), strict=True):
        data, official = _read(source, file, path)
        verdict = "official" if official else "well-formed, not known whether official"
        lines.append(f"{path}: {verdict} content, sha256 {hashlib.sha256(data).hexdigest()}")
    return lines


def _chosen_folder(root: str | os.PathLike[str] | None) -> Path | None:
    chosen = root or os.environ.get("TRIPTYCH_DATA")
    return Path(os.path.expanduser(chosen)) if chosen else None


def _own(
    name: str, root: str | os.PathLike[str] | None
) -> tuple[Source, Tensor, Tensor, Tensor, Tensor, str]:
    """A file of one's own: its source, train images, train labels, test images, test labels,
    sha256."""
    levels, (images, labels, test_images, test_labels), sha256 = read_own(_own_file(name, root))
    source = Source(name, levels, validation=min(5_000, len(images) // 10))
    return source, images, labels, test_images, test_labels, sha256


def _own_file(name: str, root: str | os.PathLike[str] | None) -> Path:
    check_name(name)
    folder = _chosen_folder(root)
    if folder is None or not os.path.isfile(folder / f"{name}.npz"):
        where = f", in which there is none: {folder}" if folder else ""
        raise UserError(
            f"there is no data set {name!r}; choose one of {', '.join(SOURCES)}, or put images of "
            f"your own, {name}.npz with {', '.join(ARRAYS)}, into the folder that --data or "
            f"TRIPTYCH_DATA names{where}"
        )
    return folder / f"{name}.npz"


def _locate(source: Source, root: Path) -> list[Path]:
    """The paths of a source's files, all from one folder: torchvision's if it is there, else flat.

    Never some from each: the sets share their file names, and a mixture would be another set.
    """
    folders = [root / source.folder / "raw", root]
    for folder in folders:
        found = [_packed_or_not(folder / file.name) for file in source.files]
        if all(found):
            return [path for path in found if path]
        if any(found):
            missing = source.files[found.index(None)].name
            raise UserError(f"{missing}[.gz] is missing from {folder}: put it beside the others")
    raise UserError(
        f"no {source.files[0].name}[.gz] of {source.name} in {folders[0]} or {folders[1]}: give "
        f"the folder that has it with --data or in TRIPTYCH_DATA, or download it: triptych data "
        f"fetch {source.name}"
    )


def _packed_or_not(path: Path) -> Path | None:
    # os.path.isfile, because Path.is_file raises on names that the system refuses.
    candidates = (path, path.with_name(f"{path.name}.gz"))
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _read(source: Source, file: File, path: Path) -> tuple[bytearray, bool]:
    """The checked content of one file, and whether it is known to be the official one."""
    data = read_idx(path, file.shape)
    sha256 = hashlib.sha256(data).hexdigest()
    if file.sha256 not in (None, sha256):
        raise UserError(
            f"{path} is not the official file of {source.name} (sha256 of its content: {sha256}, "
            f"expected: {file.sha256}): download it with triptych data fetch {source.name}"
        )
    owner = source.name if file.sha256 else _owner(path, sha256)
    if owner not in (None, source.name):
        raise UserError(f"{path} belongs to {owner}, not to {source.name}: give another --data")
    is_labels = len(file.shape) == 1
    if is_labels and (top := int(as_tensor(data, file.shape).max())) >= N_CLASSES:
        raise UserError(
            f"{path} has a label {top}, where labels are 0 to {N_CLASSES - 1}: replace it"
        )
    return data, owner is not None


def _owner(path: Path, sha256: str) -> str | None:
    """The data set that publishes this very archive or content, if any does."""
    with path.open("rb") as stream:
        marks = {sha256, hashlib.file_digest(stream, "md5").hexdigest()}
    known = ((source.name, file) for source in SOURCES.values() for file in source.files)
    return next((name for name, file in known if marks & {file.sha256, file.md5}), None)


def _digits(source: Source) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """scikit-learn's digits: train images, train labels, test images, test labels, sha256."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    images = torch.from_numpy(data.astype(np.uint8)).reshape(-1, 8, 8)
    labels = torch.from_numpy(target.astype(np.uint8))
    content = images.numpy().tobytes() + labels.numpy().tobytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != source.sha256:
        raise UserError(
            f"scikit-learn's digits have changed (sha256: {sha256}, expected: {source.sha256}): "
            "install a release of scikit-learn that has the original ones, such as 1.4"
        )
    rest, test = stratified_split(labels, source.test, SPLIT_SEED)
    return images[rest], labels[rest], images[test], labels[test], sha256


def _split_off_validation(
    source: Source,
    images: UInt8[Tensor, "A H W"],
    labels: UInt8[Tensor, "A"],
    test_images: UInt8[Tensor, "T H W"],
    test_labels: UInt8[Tensor, "T"],
    sha256: str,
) -> Dataset:
    train, validation = stratified_split(labels, source.validation, SPLIT_SEED)
    images, test_images = images.unsqueeze(1), test_images.unsqueeze(1)
    labels, test_labels = labels.long(), test_labels.long()
    return Dataset(
        name=source.name,
        levels=source.levels,
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        test_images=test_images,
        test_labels=test_labels,
        sha256=sha256,
    )
