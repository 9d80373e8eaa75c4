"""The assignment's limits, measured on the finished PDF itself. A broken one has a name."""

from dataclasses import dataclass
from pathlib import Path

from triptych.errors import UserError
from triptych.report.edition import (
    DECLARATION_HEADING,
    EDITIONS,
    SNIPPETS_HEADING,
    Edition,
)
from triptych.report.pdf import UNKNOWN, Page, read_pdf

POINTS_PER_CM = 72 / 2.54
A4 = (21.0 * POINTS_PER_CM, 29.7 * POINTS_PER_CM)
MARGIN = 2.0 * POINTS_PER_CM
SMALLEST_FONT = 10.0
TOLERANCE = 0.5  # of the paper's size and its margins; all are in points
# Fonts are stated, not laid out: only rounding in the file may lie between.
FONT_TOLERANCE = 0.05
BOX = "\N{WHITE SQUARE}"
SHORTEN = "shorten that page, with a shorter text in discussion.md or fewer models"
ADVICE = {
    SNIPPETS_HEADING: "shorten the code that is shown",
    DECLARATION_HEADING: "shorten the text in ai.md",
}


class LimitError(UserError):
    """A limit of the assignment is broken: which one, on which page, and what was measured, in
    words after which the message has "on page N"."""

    def __init__(self, limit: str, page: int, measured: str, advice: str = SHORTEN) -> None:
        self.limit, self.page, self.measured = limit, page, measured
        super().__init__(
            f"The report breaks the limit '{limit}': {measured} on page {page}. "
            f"A report that breaks it is not evaluated; {advice}."
        )


class LetterError(UserError):
    """A letter that its font lacks, in whose place a box is printed; the message shows the line."""


@dataclass(frozen=True)
class Measured:
    """What a PDF that keeps every limit was found to be: pages, and those of each part, by its
    heading; font and margin in points."""

    pages: int
    parts: dict[str, int]
    smallest_font: float
    smallest_margin: float


def check_pdf(path: Path, edition: Edition = EDITIONS["2024"]) -> Measured:
    """Raises LimitError at the first limit that is broken: page size, parts, font size, margins;
    before any, LetterError where there are letters that no one can read.

    Every visible character counts for the font size, those of figures included: the report sets
    no superscripts or math scripts, so none needs an exception. Margins hold for the boxes of
    all characters, images and lines.
    """
    document = read_pdf(path)
    for page in document.pages:
        _check_letters(page)
    for page in document.pages:
        _check_size(page)
    parts = _check_parts(edition, document.headings, len(document.pages))
    fonts = [_check_fonts(page) for page in document.pages]
    margins = [_check_margins(page) for page in document.pages]
    return Measured(len(document.pages), parts, min(fonts), min(margins))


def _check_letters(page: Page) -> None:
    for line in page.lines:
        if UNKNOWN in line:
            raise LetterError(
                f"The report has letters for which neither it nor this machine has a font, in "
                f"'{line.replace(UNKNOWN, BOX)}'. Install a font that has them, or write them "
                f"otherwise."
            )


def _check_size(page: Page) -> None:
    size = (page.width, page.height)
    if any(abs(got - want) > TOLERANCE for got, want in zip(size, A4, strict=True)):
        width, height = (v / POINTS_PER_CM for v in size)
        raise LimitError("A4 paper", page.number, f"{width:.1f} cm x {height:.1f} cm")


def _check_parts(edition: Edition, starts: dict[str, int], pages: int) -> dict[str, int]:
    """Pages per part. `starts`: the page on which each part's heading stands."""
    for title, _ in edition.parts:
        if title not in starts:
            raise LimitError(f"the part '{title}'", pages, "no such heading in the outline")
    firsts = [starts[title] for title, _ in edition.parts]
    if firsts[0] != 1:
        raise LimitError("no front page", 1, f"'{edition.title}' starts on page {firsts[0]}, not")
    counts = {}
    ends = [*firsts[1:], pages + 1]
    for (title, most), first, end in zip(edition.parts, firsts, ends, strict=True):
        counts[title] = end - first
        if end <= first or (most is not None and end - first > most):
            name = "main text" if title == edition.title else title
            limit = f"{name}: {'one page' if most else 'a page of its own'}"
            advice = ADVICE.get(title, SHORTEN)
            raise LimitError(limit, first, f"{end - first} pages, starting", advice)
    return counts


def _check_fonts(page: Page) -> float:
    smallest = min(page.letters, key=lambda letter: letter.size, default=None)
    if smallest is None:
        return float("inf")
    if smallest.size < SMALLEST_FONT - FONT_TOLERANCE:
        measured = f"{smallest.size:.1f} pt (first at {smallest.what!r})"
        raise LimitError("at least 10 pt font", page.number, measured)
    return smallest.size


def _check_margins(page: Page) -> float:
    """The smallest distance from any mark to the paper's edge, in points."""
    smallest = float("inf")
    for mark in (*page.letters, *page.drawn):
        sides = {
            "left": mark.left,
            "right": page.width - mark.right,
            "top": page.height - mark.top,
            "bottom": mark.bottom,
        }
        side = min(sides, key=lambda s: sides[s])
        if sides[side] < MARGIN - TOLERANCE:
            measured = f"{side} margin of {sides[side] / POINTS_PER_CM:.2f} cm (at {mark.what!r})"
            advice = "shorten the title or the word that reaches there"
            raise LimitError("2 cm margins", page.number, measured, advice)
        smallest = min(smallest, sides[side])
    return smallest
