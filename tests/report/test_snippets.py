"""Pieces are cut by name out of the real text, with the file's own line numbers."""

import pytest

from triptych.errors import UserError
from triptych.report.snippets import SNIPPETS, cut


@pytest.mark.usefixtures("code")
def test_a_method_without_its_docstring_and_tool_notes():
    piece = cut("shown_module:Model.bound")
    assert piece.lines == ["def bound(self, x):", "    y = x + 1", "    return y"]
    assert piece.numbers == [11, 17, 18]
    assert piece.file == "shown_module.py"


@pytest.mark.usefixtures("code")
def test_decorators_belong_to_what_they_decorate():
    piece = cut("shown_module:Model.sample")
    assert piece.lines[:2] == ["@property", "def sample(self):"]


def test_autograds_decorator_is_a_tool_note():
    assert cut("triptych.ddpm:DDPM.sample").lines[0] == "def sample(self, n, generator):"


@pytest.mark.usefixtures("code")
def test_inner_docstrings_go_too_and_strings_stay():
    text = "\n".join(cut("shown_module:outer").lines)
    assert "Inside" not in text
    assert "Outside" not in text
    assert "#let a = $x$" in text


@pytest.mark.usefixtures("code")
def test_a_body_that_is_its_docstring_stays_whole():
    assert cut("shown_module:bare").lines == ["def bare():", '    """Nothing else."""']


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", ["Model.absent", "absent", "Model.bound.y", "outer.inner.x"])
def test_a_name_that_is_not_there(name):
    with pytest.raises(UserError, match="is not defined in"):
        cut(f"shown_module:{name}")


@pytest.mark.parametrize("name", ["triptych.absent:f", "absent.module:f", "sys:exit", "json:"])
def test_a_module_that_is_not_there(name):
    with pytest.raises(UserError, match=r"cannot be shown|is not defined"):
        cut(name)


def test_sampling_is_shown_with_the_step_that_it_takes():
    sampling = SNIPPETS[-1]
    assert "sampling algorithm" in sampling.title
    assert {name.split(".")[-1] for name in sampling.names} == {"sample", "step"}


def test_the_report_shows_what_the_package_has():
    for ask in SNIPPETS:
        for name in (*ask.names, *ask.optional):
            assert cut(name).lines
