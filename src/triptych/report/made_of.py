"""What a report was made of, noted in the PDF's own keywords: a hand-in can tell that it was made
of what is there now."""

import hashlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from triptych.report.pdf import read_pdf

DISCUSSION = "discussion.md"  # of one study, so beside it alone
TEXTS = {"", ".md", ".markdown", ".txt", ".tex", ".toml", ".docx"}


def sources(study: Path, beside: Sequence[Path], own: Sequence[str]) -> dict[str, Path | None]:
    """The files that a report is made of, by name; None where there is none. `own`: those that the
    edition has the group write, which may stand in any of the folders `beside`."""
    of_study = ("study.json", "results.json", DISCUSSION)
    places = {name: [study] for name in of_study} | dict.fromkeys(own, beside)
    return {name: own_file(name, folders) for name, folders in places.items()}


def unread(found: dict[str, Path | None], beside: Sequence[Path]) -> dict[str, list[Path]]:
    """For each file of the group that is not there, those in these folders that may be meant: of
    another ending or case, or a discussion.md that is not beside the study."""
    near: dict[str, list[Path]] = {name: [] for name, path in found.items() if path is None}
    wanted = {Path(name).stem: name for name in near}
    for folder in {folder.resolve(): folder for folder in beside}.values():
        with suppress(OSError):  # what may not be looked at is no reason to fail
            for path in sorted(folder.iterdir()):
                name = wanted.get(path.stem.casefold())
                if name and path.suffix.casefold() in TEXTS and path.is_file() and _words(path):
                    near[name].append(path)
    return near


def own_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file of this name in these folders that has any words, as they are read."""
    found = (path for folder in folders if (path := folder / name).is_file())
    return next(filter(_words, found), None)


def _words(path: Path) -> bytes:
    """What a file holds beside spaces and the mark of an encoding."""
    return path.read_bytes().removeprefix(BOM_UTF8).strip()


def keywords(found: dict[str, Path | None]) -> list[str]:
    """ "study.json 0123456789abcdef" for each that there is."""
    digests = {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in found.items() if p}
    return [f"{name} {digest[:16]}" for name, digest in digests.items()]


def changed_since(report: Path, found: dict[str, Path | None]) -> list[str]:
    """Names of those that are not what they were when the report was written."""
    differs = set(read_pdf(report).keywords) ^ set(keywords(found))
    return [name for name in found if any(word.startswith(f"{name} ") for word in differs)]
