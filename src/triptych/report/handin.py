"""handin.zip: the code, what was asked and found, and the report that keeps the limits."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from triptych.errors import UserError
from triptych.report.check import check_pdf
from triptych.report.edition import edition_named
from triptych.report.load import read_study

PACKAGE = Path(__file__).parents[1]
# What stands beside src/ in a checkout and is needed to install and run the code.
BESIDE = ("pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE")
LEFT_OUT = {"__pycache__"}
EPOCH = (1980, 1, 1, 0, 0, 0)


def handin(study_folder: Path) -> Path:
    """Writes handin.zip into the study's folder; the same content gives the same bytes.

    Raises UserError when there is no report.pdf, and LimitError when it breaks a limit.
    """
    report = study_folder / "report.pdf"
    if not report.is_file():
        raise UserError(f"{report} is missing; write it first: triptych report {report.parent}")
    check_pdf(report, edition_named(read_study(study_folder).edition))
    entries = dict([*_code(), *_study(study_folder)])
    target = study_folder / "handin.zip"
    draft = target.with_suffix(".zip.part")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries[name].read_bytes())
    draft.replace(target)
    return target


def _code() -> Iterator[tuple[str, Path]]:
    for path in PACKAGE.rglob("*"):
        if path.is_file() and not LEFT_OUT & set(path.parts):
            yield f"code/src/{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}", path
    root = PACKAGE.parents[1]
    # An installed package has no checkout around it, and then stands alone.
    if PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file():
        for name in BESIDE:
            if (root / name).is_file():
                yield f"code/{name}", root / name


def _study(folder: Path) -> Iterator[tuple[str, Path]]:
    for name in ("report.pdf", "study.json", "results.json"):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: the hand-in needs it; run the study again.")
        yield name, path
    for path in folder.glob("*/seed-*/config.json"):
        yield f"configuration/{path.relative_to(folder).as_posix()}", path
