"""handin.zip: the code, what was asked and found, and the report that keeps the limits."""

import io
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from triptych.errors import UserError
from triptych.report.check import Measured, check_pdf
from triptych.report.edition import Edition, edition_named
from triptych.report.group import COURSE_NUMBER, read_group
from triptych.report.load import Study, read_study
from triptych.report.made_of import DISCUSSION, changed_since, sources, unread
from triptych.report.wording import listed
from triptych.train.files import write_bytes

PACKAGE = Path(__file__).parents[1]
# What stands beside src/ in a checkout: all that the README and the Makefile name, but for the
# reference results, which are another's.
BESIDE = ("pyproject.toml", "constraints.txt", "Makefile", "LICENSE")
BESIDE += ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "tests", "bench")
LEFT_OUT = {"__pycache__"}
# How the names of features begin or end that are not the course's: features from a file are called
# by its name, and `train-features` writes .safetensors.
OURS, TRAINED = ("triptych-", "inception"), ".safetensors"
EPOCH = (1980, 1, 1, 0, 0, 0)


class HandIn(NamedTuple):
    """The archive, and what its report was measured to be."""

    path: Path
    report: Measured


def handin(study_folder: Path) -> HandIn:
    """Writes handin.zip into the study's folder; the same content gives the same bytes.

    Raises UserError when there is no report.pdf, it lacks what the group writes, or was made of
    something else than there is now, and LimitError when it breaks a limit.
    """
    study, report = read_study(study_folder), study_folder / "report.pdf"
    edition = edition_named(study.edition)
    if not report.is_file():
        raise UserError(f"{report} is missing; write it first: {_writing(report)}")
    measured = check_pdf(report, edition)
    _check_sources(report, edition)
    entries = dict([*_code(), *_study(study)])
    target, packed = study_folder / "handin.zip", io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries[name].read_bytes())
    write_bytes(target, packed.getvalue())
    return HandIn(target, measured)


def other_features(study_folder: Path) -> str:
    """Names of the features that FID is of, where the edition asks for those of the course's own
    classifier and they are others; else nothing."""
    study = read_study(study_folder)
    names = {str(s.protocol.get("features", "")) for s in study.scores if s.metric == "fid"}
    others = sorted(n for n in names if n.startswith(OURS) or n.endswith(TRAINED))
    return listed(others) if edition_named(study.edition).classifier else ""


def not_their_own(study: Study) -> list[str]:
    """A sentence for each text of the report that is not the group's, as no such file is read."""
    beside, edition = (study.folder, Path.cwd()), edition_named(study.edition)
    near = unread(sources(study.folder, beside, edition.own), beside)
    said = []
    for name in (*edition.own, DISCUSSION):
        if name not in near:
            continue
        text = "the discussion is the program's" if name == DISCUSSION else f"there is no {name}"
        others = [str(path) for path in near[name]]
        but = f"; {listed(others)} {'is' if len(others) == 1 else 'are'} not read" if others else ""
        said.append(f"{text}: yours goes into {study.folder / name}{but}")
    return said


def _writing(report: Path) -> str:
    """The command that writes it."""
    return shlex.join(["triptych", "report", str(report.parent)])


def _check_sources(report: Path, edition: Edition) -> None:
    """What the group writes is there, and the report was made of what there is now."""
    again = f"then write the report again: {_writing(report)}"
    found = sources(report.parent, (report.parent, Path.cwd()), edition.own)
    for name in edition.own:
        if found[name] is None:
            raise UserError(
                f"{report} lacks the group's own {name}; put that file beside it, {again}"
            )
    group = read_group((report.parent, Path.cwd()))
    if COURSE_NUMBER not in edition.title + group.course:
        raise UserError(
            f"{found['group.toml']} has course = {group.course!r} without {COURSE_NUMBER}, which "
            f"page 1 must carry; write it there, {again}"
        )
    if edition.declaration and not group.date:
        raise UserError(
            f"{found['group.toml']} has no date, which the {edition.name} edition requires; write "
            f'date = "..." in it, {again}'
        )
    if changed := changed_since(report, found):
        raise UserError(
            f"{listed(changed)} changed after {report} was written; check the content, {again}"
        )


def _code() -> Iterator[tuple[str, Path]]:
    source, root = PACKAGE.parent, PACKAGE.parents[1]
    yield from _below(PACKAGE, source, "code/src")
    # An installed package has no checkout around it, and then stands alone.
    if source.name == "src" and (root / "pyproject.toml").is_file():
        for name in BESIDE:
            yield from _below(root / name, root, "code")


def _below(path: Path, root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """The file, or all files of the folder, by their names from `root` on."""
    for file in [path, *path.rglob("*")]:
        if file.is_file() and not LEFT_OUT & set(file.parts):
            yield f"{prefix}/{file.relative_to(root).as_posix()}", file


def _study(study: Study) -> Iterator[tuple[str, Path]]:
    for name in ("report.pdf", "study.json", "results.json"):
        yield name, study.folder / name
    for path in (run / "config.json" for recipe in study.recipes for _, run in study.runs(recipe)):
        if path.is_file():
            yield f"configuration/{path.relative_to(study.folder).as_posix()}", path
