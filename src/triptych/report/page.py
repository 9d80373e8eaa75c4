"""report.pdf: what the study stored, laid out by Typst, measured, and only then given its name."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typst

from triptych.errors import UserError
from triptych.report import figures
from triptych.report.check import POINTS_PER_CM, LetterError, LimitError, check_pdf
from triptych.report.content import build, citations, declaration
from triptych.report.discussion import discuss
from triptych.report.edition import Edition, edition_named
from triptych.report.group import read_group
from triptych.report.latent_figure import place_panels, prior_posterior
from triptych.report.load import Study
from triptych.report.made_of import keywords, sources
from triptych.report.press import Press
from triptych.report.snippets import Ask, Snippet, cut
from triptych.train.files import write_bytes

TEXT_WIDTH, TEXT_HEIGHT = 17.0 * POINTS_PER_CM, 25.7 * POINTS_PER_CM
BOTTOM = 27.7 * POINTS_PER_CM  # of the text, from the page's top
FIGURES = ("prior-posterior", "samples")  # of page 1, in order
MOST_GAP = 16.0  # points at most that are added between two parts of page 1 where there is room


@dataclass(frozen=True)
class Look:
    """One way to set page 1: how large its panels are (cm), its leading (pt), and what it says, as
    `build` and `discuss` are told."""

    panel: float
    leading: float
    brief: bool = False
    details: bool = True
    terse: bool = False


@dataclass(frozen=True)
class CodeLook:
    """One way to set the snippets, in points."""

    leading: float
    inset: float
    gap: float


# From the most generous look to the tightest; the first that fits is taken.
LOOKS = (
    Look(5.0, 2.6),
    Look(4.5, 2.4),
    Look(4.1, 2.2),
    Look(3.7, 2.0),
    Look(4.0, 2.0, brief=True),
    Look(3.6, 2.0, brief=True),
    Look(3.2, 1.6, brief=True),
    Look(2.8, 1.2, brief=True, details=False),
    Look(2.5, 1.0, brief=True, details=False),
    Look(2.3, 1.0, brief=True, details=False),
    Look(2.0, 1.0, brief=True, details=False),
    Look(2.5, 1.0, brief=True, details=False, terse=True),
    Look(2.0, 0.6, brief=True, details=False, terse=True),
    Look(2.0, 0.3, brief=True, details=False, terse=True),
    Look(1.7, 0.2, brief=True, details=False, terse=True),
    Look(1.5, 0.2, brief=True, details=False, terse=True),
)
CODE_LOOKS = (
    CodeLook(4.2, 5.0, 9.0),
    CodeLook(3.2, 4.5, 8.0),
    CodeLook(2.4, 4.0, 7.0),
    CodeLook(1.6, 3.0, 5.0),
    CodeLook(1.0, 2.5, 4.0),
    CodeLook(0.5, 2.0, 2.0),
)
CODE_ADVANCE = 6.021  # of one character of 10 pt DejaVu Sans Mono
CODE_MARGINS = 16.0  # of the background, and between numbers and code
TIGHTEST_TRACKING = -0.6
# Tracking holds inside a token of the highlighted code, not from one token to the next.
TRACKED_SHARE = 0.6


def write_page(study: Study, snippets: Sequence[Ask] | None = None) -> Path:
    """Writes report.pdf, with the edition's snippets or others, and returns its path. Until
    then the one before stays.

    Raises LimitError when no look keeps the assignment's limits; report.draft.pdf then shows the
    tightest that was tried, and there is no report.pdf.
    """
    edition = edition_named(study.edition)
    final, draft = study.folder / "report.pdf", study.folder / "report.draft.pdf"
    asked = edition.snippets if snippets is None else snippets
    with tempfile.TemporaryDirectory() as folder:
        pdf = Path(folder) / "report.pdf"
        try:
            _set_and_check(study, edition, asked, pdf)
        except LimitError as error:
            write_bytes(draft, pdf.read_bytes())
            final.unlink(missing_ok=True)
            error.args = (f"{error} {draft} is the tightest layout that was tried.",)
            raise
        write_bytes(final, pdf.read_bytes())
    draft.unlink(missing_ok=True)
    return final


def _set_and_check(study: Study, edition: Edition, snippets: Sequence[Ask], pdf: Path) -> None:
    """In the report's own fonts or, where those lack a letter, in the machine's too."""
    try:
        _set(Press(pdf.parent, machine_fonts=False), study, edition, snippets, pdf)
        check_pdf(pdf, edition)
    except LetterError:
        _set(Press(pdf.parent, machine_fonts=True), study, edition, snippets, pdf)
        check_pdf(pdf, edition)


def _set(press: Press, study: Study, edition: Edition, snippets: Sequence[Ask], pdf: Path) -> None:
    """The whole report in the most generous look that fits, or the tightest."""
    try:
        _fit_main(press, study, edition)
        _fit_code(press, snippets)
        press.compile(pdf)
    except typst.TypstError as error:
        raise UserError(f"The report cannot be set: {error.message}.") from error


def _fit_main(press: Press, study: Study, edition: Edition) -> None:
    """Leaves the first look whose main text ends on page 1, or the tightest, as the content."""
    folders = (study.folder, Path.cwd())
    group = read_group(folders)
    made_of = keywords(sources(study.folder, folders, edition.own))
    press.update(declaration=declaration(edition, folders), made_of=made_of)
    press.update(code=asdict(CODE_LOOKS[0]), snippets=[])  # which are fitted after the main text
    heights: dict[str, float | None] = {}
    samples = figures.samples(study)
    if samples is not None:
        shutil.copy(samples, press.folder)
        heights["samples"] = None
    look = LOOKS[0]
    for look in LOOKS:
        panels = place_panels(study, look.panel)
        if panels is not None:
            heights["prior-posterior"] = panels.height
        shown = [name for name in FIGURES if name in heights]
        text = discuss(study, citations(), look.brief, look.terse, shown)
        content = build(study, edition, group, heights, text, look.details, look.brief, look.terse)
        press.update(leading=look.leading, gap=0.0, **content)
        if _fit_columns(press):
            _spread_out(press)
            break
    else:
        _level(press, TEXT_HEIGHT)
    _draw_panels(press, study, look.panel)


def _draw_panels(press: Press, study: Study, panel: float) -> None:
    """Puts the drawn figure where room was kept for it."""
    if prior_posterior(study, panel, press.folder) is not None:
        first, *rest = press.data["wide"]
        press.update(wide=[first | {"height": None}, *rest])


def _fit_columns(press: Press) -> bool:
    """Whether page 1 holds the two columns, which then end level."""
    press.update(columns_height=1.0)
    end = press.marks()["page-end"]
    room = BOTTOM - end.y
    if end.page > 1 or not _holds(press, room):
        return False
    _level(press, room)
    return press.marks()["page-end"].page == 1


def _level(press: Press, most: float) -> None:
    """Gives the columns the least height up to this one that holds their text."""
    low = 0.0
    while most - low > 1.0:
        middle = (low + most) / 2
        low, most = (low, middle) if _holds(press, middle) else (middle, most)
    press.update(columns_height=most)


def _holds(press: Press, height: float) -> bool:
    """Whether columns of this height hold their text."""
    press.update(columns_height=height)
    marks = press.marks()
    return marks["main-end"].y <= marks["columns-end"].y


def _spread_out(press: Press) -> None:
    """Gives what is left of page 1 to the gaps between its parts."""
    left = BOTTOM - press.marks()["page-end"].y - 1.0  # a point for rounding
    gaps = len(press.data["wide"]) + (press.data["last"] is not None)
    press.update(gap=max(0.0, min(MOST_GAP, left / (gaps + 1))))


def _fit_code(press: Press, snippets: Sequence[Ask]) -> None:
    """The optional pieces that the page still holds in the tightest look; then the first look
    whose snippets end on the page on which they start, or the tightest."""
    pieces = {name: cut(name) for ask in snippets for name in (*ask.names, *ask.optional)}
    turns = zip_longest(*(ask.optional for ask in snippets))
    extras: list[str] = []
    for name in (name for turn in turns for name in turn if name is not None):
        if _code_fits(press, _chosen(snippets, pieces, [*extras, name]), CODE_LOOKS[-1]):
            extras.append(name)
    chosen = _chosen(snippets, pieces, extras)
    for look in CODE_LOOKS:
        if _code_fits(press, chosen, look):
            return


def _chosen(
    snippets: Sequence[Ask], pieces: dict[str, Snippet], extras: Sequence[str]
) -> list[tuple[Ask, list[Snippet]]]:
    """What stands under each heading: what must, and these of its optional pieces."""
    optional = [[name for name in ask.optional if name in extras] for ask in snippets]
    return [
        (ask, [pieces[name] for name in (*ask.names, *more)])
        for ask, more in zip(snippets, optional, strict=True)
    ]


def _code_fits(press: Press, chosen: list[tuple[Ask, list[Snippet]]], look: CodeLook) -> bool:
    """Sets the snippets in this look; whether they keep to one page."""
    code = asdict(look) | _columns([snippet for _, found in chosen for snippet in found])
    press.update(code=code, snippets=[_listing(ask, found) for ask, found in chosen])
    marks = press.marks()
    return marks["code-end"].page == marks["code-start"].page


def _listing(ask: Ask, pieces: list[Snippet]) -> dict[str, Any]:
    return {
        "title": ask.title,
        "pieces": [
            {
                "file": p.file,
                "owner": p.name.rpartition(".")[0],
                "numbers": p.numbers,
                "code": "\n".join(p.lines),
            }
            for p in pieces
        ],
    }


def _columns(shown: Sequence[Snippet]) -> dict[str, float]:
    """Width of the line numbers, and the tracking with which the longest line just fits."""
    digits = max((len(str(s.numbers[-1])) for s in shown), default=1)
    room = TEXT_WIDTH - digits * CODE_ADVANCE - CODE_MARGINS
    # A line that is too long at the tightest tracking wraps, and need not squeeze the others.
    lengths = [len(line) for s in shown for line in s.lines]
    least = CODE_ADVANCE + TRACKED_SHARE * TIGHTEST_TRACKING
    longest = max((n for n in lengths if n * least <= room), default=1)
    tracking = min(0.0, (room / longest - CODE_ADVANCE) / TRACKED_SHARE)
    return {"number_width": digits * CODE_ADVANCE, "tracking": tracking}
