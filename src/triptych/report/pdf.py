"""What stands on the pages of a PDF, and where, as PDFium reads it."""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as c

from triptych.errors import UserError

UNKNOWN = "\0"
LEAN = 0.25  # of its size that a letter may lean out of its place, an italic f a fifth


@dataclass(frozen=True)
class Mark:
    """A letter, an image or a drawn line, and its box: points from the page's lower left corner."""

    what: str
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Letter(Mark):
    """A mark with the size of its font on the paper, in points, however the text is turned or
    scaled; its box begins where the line puts it and ends where the next letter would begin, though
    a J's ink hangs over the one and an f's over the other. Of a letter that its font lacks `what`
    is UNKNOWN."""

    size: float


@dataclass(frozen=True)
class Page:
    """A page's number, from 1, its size in points, and all that can be seen on it; its `lines` are
    its text with the spaces, which `letters` leave out."""

    number: int
    width: float
    height: float
    letters: list[Letter]
    drawn: list[Mark]
    lines: list[str]


@dataclass(frozen=True)
class Document:
    """All pages; the number of the page on which each heading of the outline stands; and the
    keywords of the file."""

    pages: list[Page]
    headings: dict[str, int]
    keywords: list[str]


def read_pdf(path: Path) -> Document:
    """UserError where the file is no PDF."""
    try:
        with pdfium.PdfDocument(path) as pdf:
            pages = [_page(pdf[i], i + 1) for i in range(len(pdf))]
            return Document(pages, _headings(pdf), pdf.get_metadata_value("Keywords").split(", "))
    except (OSError, pdfium.PdfiumError) as error:
        raise UserError(f"{path} is not a PDF that can be checked ({error}).") from error


def _page(page: pdfium.PdfPage, number: int) -> Page:
    text = page.get_textpage()
    written = [(chr(c.FPDFText_GetUnicode(text, i)), i) for i in range(text.count_chars())]
    letters = [
        _letter(text, i, char)
        for char, i in written
        if not char.isspace() and c.FPDFText_IsGenerated(text, i) == 0
    ]
    lines = "".join(char for char, _ in written).splitlines()
    return Page(number, *page.get_size(), letters, list(_drawn(page)), lines)


def _letter(text: pdfium.PdfTextPage, i: int, char: str) -> Letter:
    onto = c.FS_MATRIX()
    c.FPDFText_GetMatrix(text, i, onto)
    size = c.FPDFText_GetFontSize(text, i) * math.hypot(onto.c, onto.d)
    left, bottom, right, top = text.get_charbox(i)
    if onto.b == 0:
        begin, end = _place(text, i, size)
        left = begin if 0 < begin - left < LEAN * size else left
        right = end if 0 < right - end < LEAN * size else right
    return Letter(char, left, bottom, right, top, size)


def _place(text: pdfium.PdfTextPage, i: int, size: float) -> tuple[float, float]:
    """Where the line puts this letter, and where the letter after it would begin."""
    x, y, advance = ctypes.c_double(), ctypes.c_double(), ctypes.c_float()
    font = c.FPDFTextObj_GetFont(c.FPDFText_GetTextObject(text, i))
    c.FPDFText_GetCharOrigin(text, i, x, y)
    c.FPDFFont_GetGlyphWidth(font, c.FPDFText_GetUnicode(text, i), size, advance)
    return x.value, x.value + advance.value


def _drawn(page: pdfium.PdfPage) -> Iterator[Mark]:
    """Images and lines, those inside of figures too, each of which has a matrix onto what it stands
    on. A line's box is of its points: PDFium's own has the pen around it, and as much again."""
    onto = [pdfium.PdfMatrix()]
    for item in page.get_objects():
        here = item.get_matrix().multiply(onto[item.level])
        kind = c.FPDFPageObj_GetType(item)
        if kind == c.FPDF_PAGEOBJ_FORM:
            onto[item.level + 1 :] = [here]
        elif kind == c.FPDF_PAGEOBJ_IMAGE:
            yield Mark("image", *here.on_rect(0, 0, 1, 1))
        elif kind == c.FPDF_PAGEOBJ_PATH:
            points = [here.on_point(*at) for at in _points(item)]
            (left, right), (bottom, top) = ((min(at), max(at)) for at in zip(*points, strict=True))
            yield Mark("line", left, bottom, right, top)


def _points(path: pdfium.PdfObject) -> Iterator[tuple[float, float]]:
    x, y = ctypes.c_float(), ctypes.c_float()
    for i in range(c.FPDFPath_CountSegments(path)):
        c.FPDFPathSegment_GetPoint(c.FPDFPath_GetPathSegment(path, i), x, y)
        yield x.value, y.value


def _headings(pdf: pdfium.PdfDocument) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in pdf.get_toc():
        target = entry.get_dest()
        page = target.get_index() if target is not None else None
        if page is not None:
            found.setdefault(entry.get_title(), page + 1)
    return found
