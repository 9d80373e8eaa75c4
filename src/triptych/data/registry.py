"""Which data sets there are, where they come from and how their files are recognised."""

from dataclasses import dataclass

from triptych.errors import UserError


@dataclass(frozen=True)
class File:
    """One IDX file: md5 of the published .gz, sha256 of its decompressed content where known."""

    name: str
    shape: tuple[int, ...]
    md5: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set.

    `files` are train images, train labels, test images, test labels, in this order; none for an
    embedded set, which has the sha256 of all its content instead. `folder` is torchvision's name
    for the set. `validation` and `test` are the numbers of images that are split off; `test` is 0
    where the set has an official test part. Pixels are integers 0 .. `levels` - 1.
    """

    name: str
    levels: int
    validation: int
    test: int = 0
    folder: str = ""
    mirrors: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    sha256: str | None = None


def _idx_files(md5: list[str], sha256: list[str] | None = None) -> tuple[File, ...]:
    """The four files of MNIST and of the sets made to replace it: same names, same shapes."""
    layout: list[tuple[str, tuple[int, ...]]] = [
        ("train-images-idx3-ubyte", (60_000, 28, 28)),
        ("train-labels-idx1-ubyte", (60_000,)),
        ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
        ("t10k-labels-idx1-ubyte", (10_000,)),
    ]
    contents = sha256 or [None] * len(layout)
    return tuple(
        File(name, shape, packed, content)
        for (name, shape), packed, content in zip(layout, md5, contents, strict=True)
    )


_ALL = (
    Source(
        name="digits",
        levels=17,
        validation=144,
        test=360,
        sha256="87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
    ),
    Source(
        name="mnist",
        levels=256,
        validation=5_000,
        folder="MNIST",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        files=_idx_files(
            md5=[
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ],
            sha256=[
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ],
        ),
    ),
    Source(
        name="fashion",
        levels=256,
        validation=5_000,
        folder="FashionMNIST",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        files=_idx_files(
            md5=[
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ]
        ),
    ),
    Source(
        name="kmnist",
        levels=256,
        validation=5_000,
        folder="KMNIST",
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
        files=_idx_files(
            md5=[
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ]
        ),
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def lookup(name: str) -> Source:
    """The source of this name.

    Raises:
        UserError: no data set has this name.
    """
    if name not in SOURCES:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[name]
