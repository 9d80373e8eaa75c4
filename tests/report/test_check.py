"""Each limit of the assignment is refused by its name, with the page and what was measured."""

from pathlib import Path

import pytest
import typst

from triptych.errors import UserError
from triptych.report.check import LimitError, check_pdf

PAGE = """
#set page(paper: "a4", margin: 2cm)
#set text(size: 10pt, top-edge: 0.76em, bottom-edge: -0.25em, overhang: false)
"""
TITLE, SNIPPETS, REFERENCES = "= Mini-project 1\n", "= Code snippets\n", "= References\n"
BREAK = "#pagebreak()\n"


def compiled(folder: Path, body: str, head: str = PAGE) -> Path:
    """A PDF of this Typst source."""
    source = folder / "document.typ"
    source.write_text(head + body, encoding="utf-8")
    typst.compile(source, output=folder / "document.pdf", ignore_system_fonts=True)
    return folder / "document.pdf"


def whole(main: str = "Text.", code: str = "Code.", end: str = "List.") -> str:
    return f"{TITLE}{main}\n{BREAK}{SNIPPETS}{code}\n{BREAK}{REFERENCES}{end}\n"


def refused(folder: Path, body: str, head: str = PAGE) -> LimitError:
    with pytest.raises(LimitError) as caught:
        check_pdf(compiled(folder, body, head))
    return caught.value


def test_a_broken_limit_is_told_in_a_sentence(tmp_path):
    error = refused(tmp_path, whole(main=f"Text. {BREAK} More."))
    assert str(error).startswith(f"The report breaks the limit '{error.limit}': {error.measured}")
    assert f"on page {error.page}. A report that breaks it is not evaluated; shorten" in str(error)


def test_what_keeps_every_limit_passes_and_is_measured(tmp_path):
    measured = check_pdf(compiled(tmp_path, whole(end=f"A {BREAK} B")))
    assert measured.pages == 4
    assert measured.parts == {"Mini-project 1": 1, "Code snippets": 1, "References": 2}
    assert measured.smallest_font == pytest.approx(10, abs=0.01)
    assert measured.smallest_margin == pytest.approx(2 * 72 / 2.54, abs=1)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_small_text_on_any_page(tmp_path, page):
    body = ["Text.", "Code.", "List."]
    body[page - 1] += " #text(size: 8pt)[whisper]"
    error = refused(tmp_path, whole(*body))
    assert (error.limit, error.page) == ("at least 10 pt font", page)
    assert "8.0 pt" in str(error)


@pytest.mark.parametrize(
    "small",
    [
        "#rotate(90deg)[#text(size: 9pt)[turned]]",
        "#rotate(30deg)[#text(size: 9pt)[tilted]]",
        "#scale(85%)[shrunk]",
        "#super(typographic: false)[up]",
        "$x^2$",
    ],
)
def test_small_text_in_disguise(tmp_path, small):
    assert refused(tmp_path, whole(small)).limit == "at least 10 pt font"


@pytest.mark.parametrize("turn", [0, 30, 45, 90, 180, 270])
def test_turned_text_of_full_size_passes(tmp_path, turn):
    body = f"#v(5cm) #align(center)[#rotate({turn}deg)[turned]]"
    assert check_pdf(compiled(tmp_path, whole(body))).smallest_font == pytest.approx(10, abs=0.02)


@pytest.mark.parametrize(
    ("mark", "side"),
    [
        ("#place(top + left, dx: -1cm)[text]", "left"),
        ("#place(top + right, dx: 1cm)[text]", "right"),
        ("#place(top + left, dy: -1cm)[text]", "top"),
        ("#place(bottom + left, dy: 1cm)[text]", "bottom"),
        ("#place(top + left, dx: -2mm, rect(width: 3cm, height: 1cm, fill: red))", "left"),
        ("#place(top + right, dx: 2mm, circle(radius: 1cm, stroke: 1pt))", "right"),
        ("#place(bottom + left, line(length: 18cm))", "right"),
        ('#place(bottom + left, dy: 5mm, image("dot.png", width: 1cm))', "bottom"),
    ],
)
def test_anything_in_a_margin(tmp_path, mark, side):
    import numpy as np
    from matplotlib.image import imsave

    imsave(tmp_path / "dot.png", np.zeros((4, 4, 3)))
    error = refused(tmp_path, whole(code=mark))
    assert (error.limit, error.page) == ("2 cm margins", 2)
    assert error.measured.startswith(f"{side} margin of ")


def drawn(folder: Path, size: float) -> None:
    """A figure of 5 x 5 cm in figure.pdf: a letter in it and a line across it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 / 2.54, 5 / 2.54))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.text(0.5, 0.6, "x", size=size)
    ax.plot([0, 1], [0.5, 0.5], scalex=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    figure.savefig(folder / "figure.pdf")


@pytest.mark.parametrize(
    ("size", "place", "limit"),
    [
        (10, "width: 5cm", None),
        (9, "width: 5cm", "at least 10 pt font"),
        (10, "width: 4.5cm", "at least 10 pt font"),
        (9, "width: 5.6cm", None),
    ],
)
def test_letters_inside_a_figure_are_as_large_as_they_are_printed(tmp_path, size, place, limit):
    drawn(tmp_path, size)
    body = whole(f'#image("figure.pdf", {place})')
    if limit is None:
        assert check_pdf(compiled(tmp_path, body)).smallest_font == pytest.approx(10, abs=0.1)
    else:
        assert refused(tmp_path, body).limit == limit


@pytest.mark.parametrize(("dx", "side"), [(-1, "left"), (13, "right")])
def test_lines_inside_a_figure_are_where_they_are_printed(tmp_path, dx, side):
    drawn(tmp_path, 10)
    error = refused(tmp_path, whole(f'#move(dx: {dx}cm, image("figure.pdf", width: 5cm))'))
    assert (error.limit, error.page) == ("2 cm margins", 1)
    assert error.measured.startswith(f"{side} margin of ")
    assert "'line'" in error.measured


def test_an_f_hangs_over_its_lines_end_and_a_letter_in_the_margin_does_not(tmp_path):
    end = '#place(top + right, dx: {}pt, text(style: "italic")[f])'
    assert check_pdf(compiled(tmp_path, whole(end.format(0)))).parts
    assert refused(tmp_path, whole(end.format(1))).limit == "2 cm margins"


@pytest.mark.parametrize("letter", ["J", "#strong[J]", "#emph[f]", "#emph[j]"])
def test_a_letter_may_lean_over_its_lines_beginning(tmp_path, letter):
    assert check_pdf(compiled(tmp_path, whole(f"{letter}ust"))).parts
    error = refused(tmp_path, whole(f"#move(dx: -1pt)[{letter}ust]"))
    assert (error.limit, error.measured[:11]) == ("2 cm margins", "left margin")


def test_margins_set_too_small(tmp_path):
    error = refused(tmp_path, whole(), PAGE.replace("2cm", "1.9cm"))
    assert (error.limit, error.page) == ("2 cm margins", 1)
    assert "1.90 cm" in error.measured


def test_other_paper(tmp_path):
    error = refused(tmp_path, whole(), PAGE.replace("a4", "us-letter"))
    assert (error.limit, error.page) == ("A4 paper", 1)
    assert "21.6 cm x 27.9 cm" in error.measured


def test_main_text_on_two_pages(tmp_path):
    error = refused(tmp_path, whole(main=f"A {BREAK} B"))
    assert error.limit == "main text: one page"
    assert "2 pages" in error.measured


def test_snippets_on_two_pages(tmp_path):
    error = refused(tmp_path, whole(code=f"A {BREAK} B"))
    assert (error.limit, error.page) == ("Code snippets: one page", 2)


def test_parts_that_share_a_page(tmp_path):
    error = refused(tmp_path, f"{TITLE}{SNIPPETS}{BREAK}{REFERENCES}")
    assert error.limit == "main text: one page"


def test_a_front_page(tmp_path):
    assert refused(tmp_path, f"Front {BREAK}" + whole()).limit == "no front page"


def test_a_missing_part(tmp_path):
    error = refused(tmp_path, f"{TITLE}{BREAK}{SNIPPETS}")
    assert error.limit == "the part 'References'"


def test_a_heading_spelled_in_the_text_is_no_part(tmp_path):
    body = f"{TITLE}Code snippets {BREAK} References"
    assert refused(tmp_path, body).limit == "the part 'Code snippets'"


def test_what_is_not_a_pdf(tmp_path):
    (tmp_path / "report.pdf").write_text("no PDF")
    with pytest.raises(UserError, match="not a PDF"):
        check_pdf(tmp_path / "report.pdf")
