"""The assignment's limits, measured on the finished PDF itself. A broken one has a name."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pdfplumber
from pdfminer.pdftypes import resolve1
from pdfplumber.page import Page
from pdfplumber.pdf import PDF

from triptych.errors import UserError
from triptych.report.edition import EDITIONS, Edition

POINTS_PER_CM = 72 / 2.54
A4 = (21.0 * POINTS_PER_CM, 29.7 * POINTS_PER_CM)
MARGIN = 2.0 * POINTS_PER_CM
SMALLEST_FONT = 10.0
TOLERANCE = 0.5
# Fonts are stated, not laid out: only rounding in the file may lie between.
FONT_TOLERANCE = 0.05
BOX = "(cid:0)"  # glyph 0 of every font, as pdfplumber reads it


class LimitError(UserError):
    """A limit of the assignment is broken: which one, on which page, and what was measured."""

    def __init__(self, limit: str, page: int, measured: str) -> None:
        self.limit, self.page, self.measured = limit, page, measured
        super().__init__(
            f"The report breaks the limit '{limit}': {measured} on page {page}. "
            "It is not evaluated so; shorten or mend that page, with a discussion.md of your own "
            "or fewer models."
        )


class LetterError(UserError):
    """A letter that its font lacks, in whose place a box is printed; the message shows the line."""


@dataclass(frozen=True)
class Measured:
    """What a PDF that keeps every limit was found to be."""

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
    try:
        document = pdfplumber.open(path)
    except Exception as error:
        raise UserError(f"{path} is not a PDF that can be checked ({error}).") from error
    with document as pdf:
        for page in pdf.pages:
            _check_letters(page)
        for page in pdf.pages:
            _check_size(page)
        parts = _check_parts(edition, _heading_pages(pdf), len(pdf.pages))
        fonts = [_check_fonts(page) for page in pdf.pages]
        margins = [_check_margins(page) for page in pdf.pages]
    return Measured(len(fonts), parts, min(fonts), min(margins))


def _check_letters(page: Page) -> None:
    if any(char["text"] == BOX for char in page.chars):
        line = next(line for line in page.extract_text().splitlines() if BOX in line)
        raise LetterError(
            f"The report has letters for which neither it nor this machine has a font, in "
            f"'{line.replace(BOX, chr(0x25A1))}'. Install a font that has them, or write them "
            f"otherwise."
        )


def _check_size(page: Page) -> None:
    size = (float(page.width), float(page.height))
    if any(abs(got - want) > TOLERANCE for got, want in zip(size, A4, strict=True)):
        width, height = (v / POINTS_PER_CM for v in size)
        raise LimitError("A4 paper", page.page_number, f"{width:.1f} cm x {height:.1f} cm")


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
            name = "main text" if title == edition.title else title.lower()
            allowed = "one page" if most else "a page of its own"
            raise LimitError(f"{name}: {allowed}", first, f"{end - first} pages, starting")
    return counts


def _heading_pages(pdf: PDF) -> dict[str, int]:
    """Page of each part's heading, from the outline: text in the body cannot pass for one."""
    numbers = {page.page_obj.pageid: page.page_number for page in pdf.pages}
    starts: dict[str, int] = {}
    try:
        outline = list(pdf.doc.get_outlines())
    except Exception:  # a PDF without an outline; pdfminer's own error type moved between releases
        return starts
    for _, title, destination, action, _ in outline:
        target = resolve1(destination) or resolve1(resolve1(action or {}).get("D"))
        if isinstance(target, bytes):
            target = resolve1(pdf.doc.get_dest(target))
        if isinstance(target, dict):
            target = resolve1(target["D"])
        page = getattr(target[0], "objid", None) if target else None
        if page in numbers:
            starts.setdefault(title, numbers[page])
    return starts


def _check_fonts(page: Page) -> float:
    sizes = {}
    for char in _visible(page):
        sizes.setdefault(round(_font_size(char), 2), char["text"])
    if not sizes:
        return float("inf")
    smallest = min(sizes)
    if smallest < SMALLEST_FONT - FONT_TOLERANCE:
        measured = f"{smallest:.1f} pt (first at {sizes[smallest]!r})"
        raise LimitError("at least 10 pt font", page.page_number, measured)
    return smallest


def _font_size(char: dict[str, Any]) -> float:
    """Size on the paper, however the text is turned or scaled.

    A character's box is its advance times its size, carried to the paper by (a, b, c, d); the
    larger of the two equations for the size is the one that can be divided by.
    """
    a, b, c, d = (abs(float(v)) for v in char["matrix"][:4])
    width, height, advance = (float(char[key]) for key in ("width", "height", "adv"))
    size = (height - b * advance) / d if d >= c else (width - a * advance) / c
    return size * math.hypot(c, d)


def _check_margins(page: Page) -> float:
    """The smallest distance from any mark to the paper's edge, in points."""
    width, height = float(page.width), float(page.height)
    smallest = float("inf")
    for mark in _marks(page):
        sides = {
            "left": float(mark["x0"]),
            "right": width - float(mark["x1"]),
            "top": float(mark["top"]),
            "bottom": height - float(mark["bottom"]),
        }
        side = min(sides, key=lambda s: sides[s])
        if sides[side] < MARGIN - TOLERANCE:
            what = mark.get("text") or mark["object_type"]
            measured = f"{side} margin of {sides[side] / POINTS_PER_CM:.2f} cm (at {what!r})"
            raise LimitError("2 cm margins", page.page_number, measured)
        smallest = min(smallest, sides[side])
    return smallest


def _visible(page: Page) -> Iterator[dict[str, Any]]:
    return (char for char in page.chars if char["text"].strip())


def _marks(page: Page) -> Iterator[dict[str, Any]]:
    yield from _visible(page)
    for kind in ("images", "rects", "curves", "lines"):
        yield from getattr(page, kind)
