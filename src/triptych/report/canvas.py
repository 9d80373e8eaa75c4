"""Drawing in centimetres at the size at which a figure is placed, so that 10 pt is 10 pt."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.textpath import text_to_path

from triptych.train.files import write_bytes

TEXT_WIDTH = 17.0  # cm, of the page
FONT_SIZE = 10  # pt
# Of titles, in cm: the room that a line takes, from one baseline to the next, below the last.
LINE_HEIGHT, LEADING, DESCENT = 0.42, 0.36, 0.08
CM_PER_INCH = 2.54  # matplotlib counts in inches
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
# The first is close to the page's face; the second has the letters that it lacks.
FAMILIES = ["STIXGeneral", "DejaVu Serif"]
STYLE: dict[Any, Any] = {
    "font.family": FAMILIES,
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a $ in a title is one
}


@contextmanager
def with_letters(text: str) -> Iterator[None]:
    """Figures drawn inside have all letters of the text: for those that `FAMILIES` lack, fonts of
    this machine are added. A letter that no font has is an empty box."""
    n = len(FAMILIES)
    lacking = {ord(letter) for letter in text if letter.isprintable()}
    for family in FAMILIES:
        lacking -= _letters_of(findfont(family))
    # The last resort, which matplotlib brings, has a box for every letter.
    real = [entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")]
    for entry in real if lacking else ():
        with suppress(OSError, RuntimeError):  # of a font that cannot be read
            if found := lacking & _letters_of(entry.fname):
                FAMILIES.append(entry.name)
                lacking -= found
    _width.cache_clear()
    try:
        yield
    finally:
        del FAMILIES[n:]


@cache
def _letters_of(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap())


def blank(height: float) -> Figure:
    """A figure as wide as the text and `height` cm high, with nothing behind it."""
    figure = Figure(figsize=(TEXT_WIDTH / CM_PER_INCH, height / CM_PER_INCH), dpi=300)
    figure.patch.set_visible(False)
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at (left, bottom, width, height) in cm."""
    full = figure.get_size_inches() * CM_PER_INCH
    left, bottom, width, height = place
    return figure.add_axes((left / full[0], bottom / full[1], width / full[0], height / full[1]))


def text_at(figure: Figure, x: float, y: float, text: str) -> None:
    """Text centred above (x, y) in cm. Its last baseline is always at the same height above y, so
    that titles in a row stand on one line, however deep their letters reach."""
    full = figure.get_size_inches() * CM_PER_INCH
    for i, line in enumerate(reversed(text.split("\n"))):
        at = (x / full[0], (y + DESCENT + i * LEADING) / full[1])
        figure.text(*at, line, ha="center", va="baseline")


def wrapped(text: str, width: float) -> str:
    """Lines no wider than `width` cm at the figures' font, broken at spaces; cut where one word
    is wider than that."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > width:
            lines.append(_cut(word, width))
        else:
            lines[-1] = longer if lines[-1] else _cut(word, width)
    # Matplotlib leaves out of legends what begins with _.
    return (" " if lines[0].startswith("_") else "") + "\n".join(lines)


def line_count(titles: list[str]) -> int:
    """Lines of the tallest of these."""
    return max(title.count("\n") + 1 for title in titles)


def write(figure: Figure, folder: Path, name: str) -> Path:
    """NAME.pdf and NAME.png; the same scores give the same bytes. Returns the PDF."""
    kinds: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None}, "transparent": True},
        "png": {"facecolor": "white", "dpi": 200},
    }
    for kind, settings in kinds.items():
        drawn = BytesIO()
        figure.savefig(drawn, format=kind, **settings)
        write_bytes(folder / f"{name}.{kind}", drawn.getvalue())
    return folder / f"{name}.pdf"


def _cut(word: str, width: float) -> str:
    if _width(word) <= width:
        return word
    lengths = range(1, len(word))
    kept = bisect_right(lengths, width, key=lambda n: _width(word[:n] + ELLIPSIS))
    return word[:kept] + ELLIPSIS


@cache
def _width(text: str) -> float:
    font = FontProperties(family=FAMILIES, size=FONT_SIZE)
    width, *_ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / 72 * CM_PER_INCH  # 72 pt to the inch
