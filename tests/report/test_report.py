"""The whole way from a study's folder to a report that keeps the limits."""

import json
import os
import re
import shutil
import sys
import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pdfplumber
import pypdfium2 as pdfium
import pytest
import typst
from matplotlib.figure import Figure
from synthetic import (
    NINE,
    OF_2026,
    RESULTS,
    Synthetic,
    edit,
    of_reference,
    write_run,
    write_study,
)

from triptych.cli import main
from triptych.errors import UserError
from triptych.report import handin, not_their_own, other_features, write_report
from triptych.report.architectures import sentences
from triptych.report.canvas import FAMILIES
from triptych.report.check import LimitError, check_pdf
from triptych.report.edition import EDITIONS
from triptych.report.group import read_group
from triptych.report.load import read_study
from triptych.report.made_of import sources
from triptych.report.page import MOST_GAP, write_page
from triptych.report.pdf import read_pdf
from triptych.report.snippets import Ask
from triptych.study.builtin import named_study
from triptych.study.grid import study_json

BROKEN = "\x02"  # what PDFium makes of a hyphen at the end of a line
GROUP = r"""
course = "Course 02460 #1 $x$ \\ @burda2016"
date = "1 March 2024"
[[member]]
name = "Ada #let *Lovelace* _x_ \"quoted\" \\"
number = "s000001"
[[member]]
name = "Bjørn [@heusel2017] <mark> $1+1$"
number = "s000002"
"""


def undrawn(figure, folder, name):
    """The room of a figure with nothing in it."""
    path = folder / f"{name}.pdf"
    folder.mkdir(exist_ok=True)
    Figure(figure.get_size_inches()).savefig(path)
    return path


@contextmanager
def without_ink():
    """Which is most of the time of a report."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("classes", "curves", "figures", "latent_figure", "quality_time"):
            patch.setattr(sys.modules[f"triptych.report.{name}"], "write", undrawn)
        yield


def set_page(folder, snippets=None, *, drawn=False) -> Path:
    """The report without the figures that no page shows."""
    with nullcontext() if drawn else without_ink():
        return write_page(read_study(folder), snippets)


def page_text(path, page=0) -> str:
    """The text of a page, then of its two columns, with the hyphens of broken words taken out."""
    with pdfium.PdfDocument(path) as pdf:
        found = pdf[page].get_textpage()
        middle = pdf[page].get_width() / 2
        halves = found.get_text_bounded(right=middle), found.get_text_bounded(left=middle)
        text = "\n".join((found.get_text_bounded(), *halves))
    return " ".join(text.replace(BROKEN, "").split())


def bold_digits(path) -> str:
    """Those of the first page: the names of classes."""
    with pdfplumber.open(path) as pdf:
        return "".join(c["text"] for c in pdf.pages[0].chars if "STIXGeneral-Bold" in c["fontname"])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A finished report of a study with M = 2, on the package's own snippets."""
    folder = write_study(tmp_path_factory.mktemp("report") / "study")
    return write_report(folder)


def test_the_report_keeps_the_limits(report):
    measured = check_pdf(report)
    assert report.name == "report.pdf"
    assert measured.parts["Mini-project 1"] == measured.parts["Code snippets"] == 1
    assert measured.smallest_font >= 9.95
    assert not report.with_name("report.draft.pdf").exists()


def test_classes_are_named_where_images_have_labels(report, tmp_path):
    assert "Dots: q(z) by class;" in page_text(report)
    assert set(bold_digits(report)) == set("0123456789")
    bare = shutil.copytree(report.parent, tmp_path / "bare")
    for file in bare.glob("*/seed-*/latent.npz"):
        with np.load(file) as kept:
            np.savez(file, **{**kept, "labels": 0 * kept["labels"]})
    bare = set_page(bare, drawn=True)
    assert "Dots: q(z);" in page_text(bare)
    assert bold_digits(bare) == ""


def test_page_one_says_what_the_assignment_asks(report):
    text = page_text(report)
    for part in (
        "Mini-project 1",
        "02460",
        "Table 1",
        "Table 2",
        "Figure 1",
        "Figure 2",
        "Models.",
    ):
        assert part in text
    assert "NAME (sNUMBER)" in text


def test_references_are_those_that_are_cited(report):
    text = page_text(report, 2)
    for name in ("Burda", "Dinh", "Heusel", "Ho, J.", "Kingma", "Song"):
        assert name in text


def test_figures_are_left_beside_the_report(report):
    names = {path.name for path in (report.parent / "figures").iterdir()}
    stems = ("prior-posterior", "samples", "likelihood", "iwae-growth", "dimensions", "manifold")
    stems = (
        *stems,
        "reconstructions",
        "nearest",
        "fid-growth",
        "classes",
        "bound-terms",
        "quality-time",
    )
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")}


def test_the_same_study_gives_the_same_bytes(report, tmp_path):
    again = set_page(write_study(tmp_path / "study"), drawn=True)
    assert again.read_bytes() == report.read_bytes()


@pytest.mark.parametrize("edition", ["report", "of_2026"])
def test_no_line_of_the_packages_own_snippets_wraps(edition, request):
    """Every line below the page's heading has a number, a listing's line or a title's."""
    with pdfplumber.open(request.getfixturevalue(edition)) as pdf:
        lines = [line["text"] for line in pdf.pages[1].extract_text_lines()]
    below = lines[lines.index("Code snippets") + 1 :]
    assert len(below) > 30
    assert [line for line in below if not line[0].isdigit()] == []


def test_snippets_page_shows_the_source_with_its_lines(folder, code):
    text = page_text(set_page(folder, code), 1)
    assert "11defbound(self,x):17y=x+118returny" in text.replace(" ", "")
    assert "#let a = $x$" in text


def test_group_text_appears_literally(folder, code):
    (folder / "group.toml").write_text(GROUP, encoding="utf-8")
    path = set_page(folder, code)
    text = page_text(path)
    assert 'Ada #let *Lovelace* _x_ "quoted" \\ (s000001)' in text
    assert "Bjørn [@heusel2017] <mark> $1+1$ (s000002)" in text
    assert "Course 02460 #1 $x$ \\ @burda2016" in text
    assert "group.toml" not in text


def test_group_is_also_looked_for_where_the_command_runs(folder, code, tmp_path, monkeypatch):
    (tmp_path / "group.toml").write_text(
        '[[member]]\nname = "A B"\nnumber = "s1"', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert "A B (s1)" in page_text(set_page(folder, code))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Date = 2024-03-01", "unknown key 'Date'; write course, date and member"),
        ("[[member]]\nname = 'B'\nnumber = 's2'\nemail = 'x'", "unknown key 'email'"),
        ("date = 2024-03-01", "has date below a [[member]], whose it would be; write it above"),
        ("[[member]]\nname = ['B', 'C']\nnumber = 's2'", "name is ['B', 'C']; write a text"),
        ("[[member]]\nname = 'B'\nnumber = 1.5", "number is 1.5; write a text"),
        ("[[member]]\nname = 'B'", "number is missing; write a text"),
        ("[[member]]\nname = 'B'\nnumber = 's1'", "has the number s1 twice; give each"),
    ],
)
def test_a_group_is_names_and_numbers_in_text(folder, code, content, said):
    own = "[[member]]\nname = 'A'\nnumber = 's1'\n"
    text = content + "\n" + own if content.startswith("Date") else own + content
    (folder / "group.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)):
        set_page(folder, code)


def test_a_report_is_of_a_study_not_of_a_run(folder, tmp_path):
    with pytest.raises(UserError, match="seed-0 is a run; name the folder of its study"):
        read_study(folder / "vae-flow" / "seed-0")
    with pytest.raises(UserError, match=r"study\.json does not exist"):
        handin(tmp_path / "nowhere")


def named(folder, name):
    (folder / "group.toml").write_text(
        f'[[member]]\nname = "{name}"\nnumber = "s1"', encoding="utf-8"
    )


def test_a_name_in_letters_that_no_font_has(folder, code):
    before = set_page(folder, code).read_bytes()
    named(folder, "Ada \U00010a00")  # Kharoshthi
    with pytest.raises(UserError, match="has a font, in 'Ada \u25a1"):
        set_page(folder, code)
    assert (folder / "report.pdf").read_bytes() == before


@pytest.mark.skipif(
    not any("CJK" in f or "WenQuanYi" in f for f in getattr(typst.Fonts(), "families", list)()),
    reason="no font of Chinese here",
)
def test_a_name_in_letters_that_only_the_machine_has_a_font_for(folder, code):
    named(folder, "\u674e\u660e")
    assert "\u674e\u660e (s1)" in page_text(set_page(folder, code))


def test_the_machines_fonts_are_not_asked_without_need(folder, code, monkeypatch):
    """The same content is the same report wherever it is set."""
    fonts, asked = typst.Fonts, []
    monkeypatch.setattr(typst, "Fonts", lambda **how: asked.append(how) or fonts(**how))
    named(folder, "\u0141\u00f3d\u017a \u0395\u03bb")
    set_page(folder, code)
    assert asked == [{"include_system_fonts": False}]


@pytest.mark.parametrize(
    "content",
    ["member = 3", "member = []", "member = ['A']", "[member]\nname = 'A'", ""],
)
def test_a_group_that_names_nobody(folder, code, content):
    (folder / "group.toml").write_text(f"course = 'x'\n{content}", encoding="utf-8")
    with pytest.raises(UserError, match=r"group\.toml names nobody"):
        set_page(folder, code)


def test_an_empty_group_is_none(tmp_path):
    """As for what a report is said to be made of: the next place is asked."""
    for name, text in (("one", " \n"), ("other", "[[member]]\nname = 'A'\nnumber = 's1'")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "group.toml").write_text(text)
    beside = [tmp_path / "one", tmp_path / "other"]
    assert read_group(beside).members == [("A", "s1")]
    assert read_group(beside[:1]).placeholder
    assert sources(tmp_path, beside, ["group.toml"])["group.toml"] == tmp_path / "other/group.toml"


def test_texts_of_the_group_that_are_not_read_are_told(folder, tmp_path, monkeypatch):
    """Of another name, or where only the other files of the group are looked for."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    study = read_study(folder)
    assert not_their_own(study) == [
        f"there is no group.toml: yours goes into {folder / 'group.toml'}",
        f"the discussion is the program's: yours goes into {folder / 'discussion.md'}",
    ]
    for path in (folder / "Discussion.txt", Path("discussion.md"), Path("Group.tex")):
        path.write_text("Ours.")
    Path("discussion.py").write_text("pass")
    here = Path.cwd()
    group, discussion = not_their_own(study)
    assert group.endswith(f"; {here / 'Group.tex'} is not read")
    both = f"{folder / 'Discussion.txt'} and {here / 'discussion.md'}"
    assert discussion.endswith(f"; {both} are not read")
    monkeypatch.chdir(folder)
    (told,) = not_their_own(replace(study, folder=Path("..", folder.name)))[1:]
    assert told.endswith("Discussion.txt is not read")  # once, whatever the folder is called
    monkeypatch.chdir(here)
    for name in ("discussion.md", "group.toml"):
        (folder / name).write_text("Ours.")
    assert not_their_own(study) == []


def test_texts_without_words_and_closed_folders_are_not_told(folder, tmp_path, monkeypatch):
    """A hint must not end a command that has done its work."""
    (folder / "group.toml").write_bytes(b"\xef\xbb\xbf\n")
    (folder / "discussion.txt").write_text(" \n")
    study = read_study(folder)
    plain = not_their_own(study)
    assert not any("not read" in told for told in plain)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("notes", "group.txt"):  # as links into a folder that is closed
        Path(name).touch()

    def closed(ask, these):
        def asked(path):
            if path in these:
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path)

        return asked

    here = Path.cwd()
    for name, these in (("is_file", set(here.iterdir())), ("iterdir", {here})):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, closed(getattr(Path, name), these))
            assert not_their_own(study) == plain


def test_an_edition_without_a_declaration_has_no_use_for_one(folder, tmp_path, monkeypatch):
    """The ai.md of another study's report, where the program runs, is no change of this one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    named(folder, "Ada")
    set_page(folder)
    Path("ai.md").write_text("None was used.")
    assert handin(folder).path.is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[member]]\nname=' '\nnumber='s1'", "name is ' '; write a text"),
        ("=", "is not valid TOML"),
        (b"\xff", "cannot be read .* save it as UTF-8"),
    ],
)
def test_a_group_that_cannot_be_read(folder, code, content, said):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "group.toml").write_bytes(raw)
    with pytest.raises(UserError, match=rf"group\.toml.* {said}"):
        set_page(folder, code)


def test_own_discussion_is_printed_literally(folder, code):
    own = '#import "x": * $5 \\ @kingma2014 `raw **bold** and [@tomczak2018].'
    (folder / "discussion.md").write_text(own, encoding="utf-8")
    text = page_text(set_page(folder, code))
    assert '#import "x": * $5 \\ @kingma2014 `raw bold and (Tomczak & Welling, 2018).' in text
    assert "paired runs" not in text


def test_no_line_ends_inside_a_name_or_a_unit(folder, code):
    """Wherever the line's end falls."""
    words = [f"{'n' * n} DPM-Solver++ {'m' * n} bits/dim" for n in range(1, 12)]
    (folder / "discussion.md").write_text(" ".join(words), encoding="utf-8")
    lines = [line.strip() for line in read_pdf(set_page(folder, code)).pages[0].lines]
    assert sum("DPM-Solver++" in line for line in lines) > 4
    assert not [line for line in lines if line.endswith(("DPM-", "DPM\x02", "DPM-Solver", "bits/"))]


def test_own_discussion_that_is_too_long(folder, code):
    (folder / "report.pdf").write_bytes(b"an older report")
    (folder / "discussion.md").write_text("word " * 2500, encoding="utf-8")
    with pytest.raises(LimitError, match=r"main text: one page.* \S*report\.draft\.pdf is the"):
        set_page(folder, code)
    assert not (folder / "report.pdf").exists()
    assert (folder / "report.draft.pdf").exists()


def test_snippets_that_are_too_long(folder, code):
    with pytest.raises(LimitError, match=r"Code snippets: one page.* shorten the code"):
        set_page(folder, code * 6)
    assert not (folder / "report.pdf").exists()


def test_optional_snippets_give_way(folder, code):
    """To what must be shown, and the long ones to short ones."""
    much = ("shown_module:outer",) * 10
    few = Ask("Few", ("shown_module:outer",), ("shown_module:Model", "shown_module:bare"))
    text = page_text(set_page(folder, [few]), 1)
    assert "class Model" in text
    assert "def bare" in text
    text = page_text(set_page(folder, [few, Ask("Much", much)]), 1)
    assert "class Model" not in text
    assert "def bare" in text


@pytest.mark.parametrize(
    "ask",
    [
        Synthetic(seeds=(0,), latent_dim=32),
        Synthetic(
            latent_dim=32,
            jitter=8.0,
            titles={
                "vae-flow": "VAE with a flow prior of eight masked affine couplings, bounded",
                "ddpm": "Supercalifragilisticexpialidocious-" * 3,
                "pixelflow": r"Flow $x_1$ #let \n",
            },
            failures=[{"model": "vae-flow", "seed": 3, "reason": "loss # $ became * nan"}],
            side=8,
        ),
    ],
    ids=["one seed, M = 32", "long titles, a failure"],
)
def test_other_studies_fit_too(tmp_path, code, ask):
    text = page_text(set_page(write_study(tmp_path / "study", ask), code, drawn=True))
    assert "PC 1 (21%)" in text
    for failure in ask.failures:
        assert failure["reason"] in text


@pytest.fixture(scope="module")
def of_2026(tmp_path_factory):
    """A finished report in the 2026 edition."""
    ask = Synthetic(latent_dim=32, pixel=OF_2026, edition="2026")
    folder = write_study(tmp_path_factory.mktemp("of-2026") / "study", ask)
    (folder / "group.toml").write_text(GROUP)
    return set_page(folder, drawn=True)


def test_the_2026_edition_has_its_parts_and_its_look(of_2026):
    measured = check_pdf(of_2026, EDITIONS["2026"])
    assert list(measured.parts) == [
        "Mini-project 1 in Advanced Machine Learning (02460)",
        "Code snippets",
        "Use of generative AI",
        "References",
    ]
    for page in range(4):
        text = page_text(of_2026, page)
        assert text.startswith("02460-2026 Mini-project 1 s000001, s000002")
    assert "on 1 March 2024" in page_text(of_2026)
    assert "by Ada" in page_text(of_2026)
    code = page_text(of_2026, 1)
    assert "5. Training and sampling of the latent DDPM" in code
    with pytest.raises(LimitError, match="Mini-project 1"):
        check_pdf(of_2026, EDITIONS["2024"])


@of_reference
@pytest.mark.parametrize(
    ("folder", "name", "preset"),
    [
        ("brief-2024", "brief-2024", "cpu"),
        ("brief-2024-gpu", "brief-2024", "gpu"),
        ("brief-2026", "brief-2026", "cpu"),
        ("priors-gpu", "priors", "gpu"),
    ],
)
def test_what_real_studies_say_keeps_the_limits(folder, name, preset, tmp_path):
    """Scores of the reference results, models described as they are now, arrays drawn anew."""
    for file in ("study.json", "results.json"):
        shutil.copy(RESULTS / folder / file, tmp_path / file)
    now = study_json(named_study(name, preset, "mnist"), (1, 28, 28), 256)["recipes"]

    def describe_anew(content):
        content.pop("sha256", None)
        content["recipes"] = now

    edit(tmp_path / "study.json", describe_anew)
    for recipe in json.loads((tmp_path / "study.json").read_text())["recipes"]:
        run = tmp_path / recipe["name"] / "seed-0"
        write_run(run, Synthetic(latent_dim=32, side=28), recipe, 0)
    measured = check_pdf(
        set_page(tmp_path, drawn=True), EDITIONS["2026" if "2026" in name else "2024"]
    )
    assert measured.parts


@of_reference
def test_what_models_have_in_common_is_said_once(tmp_path):
    shutil.copy(RESULTS / "brief-2026" / "results.json", tmp_path)
    plain = study_json(named_study("brief-2026", "gpu", "mnist"), (1, 28, 28), 256)
    (tmp_path / "study.json").write_text(json.dumps(plain))
    study = read_study(tmp_path)
    vaes, ddpm, vae, latents = (s["text"] for s in sentences(study, details=False))
    assert "encoder and decoder as before" not in vae  # its own are others than part A's
    assert latents.startswith("encoder and decoder as before, Gaussian likelihood")
    assert "(100% at first, none at the end)" in vaes
    assert "images distorted as before" in vae
    assert "images distorted as before" in latents
    assert "sinusoidal time embedding; T" in ddpm
    assert "latents; T, schedule and prediction as before; beta" in latents
    terse = sentences(study, details=False, terse=True)
    assert [s["title"] for s in terse] == ["VAEs", "DDPM", "VAE", "Latent DDPMs (3)"]
    assert not any("(" in s["text"] for s in terse)
    assert "images distorted as before" in terse[2]["text"]


@pytest.mark.parametrize("chains", [2, 3])
def test_the_2026_page_holds_several_runs_and_four_long_names(chains, tmp_path):
    """Of which none is told from the other, so that there is much to say of each."""
    latents = {
        f"latent-{i}": (f"Latent, beta = 1e-{3 * i}", "latent", None, 6 + i) for i in range(chains)
    }
    pixel = {"ddpm": OF_2026["ddpm"], **latents, "vae-b": OF_2026["vae-b"]}
    folder = write_study(tmp_path, Synthetic(pixel=pixel, edition="2026", seeds=(0, 1)))

    def undecided(content):
        for d in content["differences"]:
            d |= {"mean": 1.0, "interval95": [-123.45, 125.45]}

    edit(folder / "results.json", undecided)
    names = ("Anna-Katharina Mustermann", "Bjarne Kristoffersen", "Chidinma Okonkwo", "Do Thi Minh")
    members = [
        f'[[member]]\nname = "{n}-Andersen"\nnumber = "s21456{i}"' for i, n in enumerate(names)
    ]
    (folder / "group.toml").write_text("\n".join(members))
    assert check_pdf(set_page(folder), EDITIONS["2026"]).parts


def test_the_2026_page_sets_quality_beside_time(of_2026):
    text = page_text(of_2026)
    assert "own prior" in text
    assert "With latents from the beta-VAE's own prior, FID is 62" in text
    assert "with latents of training images, 3.1" in text
    assert "Samples a second, as multiples of the DDPM" in text
    assert "1.01, variational" in text


def test_the_declaration_is_the_groups_own_or_a_mark(of_2026, tmp_path):
    assert "To be written by the group, in ai.md" in page_text(of_2026, 2)
    folder = Path(shutil.copytree(of_2026.parent, tmp_path / "study"))
    (folder / "ai.md").write_text("# Tools\n\nWe used *none* of #them.\n")
    text = page_text(set_page(folder), 2)
    assert "We used none of #them." in text
    assert "To be written" not in text


def test_a_declaration_that_is_too_long(of_2026, tmp_path):
    folder = Path(shutil.copytree(of_2026.parent, tmp_path / "study"))
    (folder / "ai.md").write_text("word " * 2500)
    with pytest.raises(LimitError, match=r"Use of generative AI: one page.* ai\.md"):
        set_page(folder)


def test_a_2026_study_is_handed_in_under_its_own_limits(of_2026, tmp_path):
    folder = shutil.copytree(of_2026.parent, tmp_path / "study")
    (folder / "ai.md").write_text("None was used.")
    set_page(folder)
    with zipfile.ZipFile(handin(folder).path) as archive:
        assert "report.pdf" in archive.namelist()


def test_an_edition_that_there_is_not(folder, code):
    edit(folder / "study.json", lambda content: content.update(edition="1999"))
    with pytest.raises(UserError, match=r"no edition '1999'.* 2024, 2026"):
        set_page(folder, code)


@pytest.mark.parametrize("part", ["A", "B"])
def test_a_study_of_one_part_only(folder, code, part):
    def keep(content):
        content["recipes"] = [r for r in content["recipes"] if r["part"] == part]

    edit(folder / "study.json", keep)
    text = page_text(set_page(folder, code))
    assert ("Prior and aggregate posterior" in text) == (part == "A")
    assert ("Samples:" in text) == (part == "B")


def test_a_failed_first_seed_gives_way_to_the_next(folder, code):
    for file in (folder / "vae-flow" / "seed-0").iterdir():
        file.unlink()
    assert "(seeds 0 and 1)" in page_text(set_page(folder, code))


def test_runs_without_scores_are_not_missed(folder):
    """A run that failed may be deleted: nothing in the report was of it."""

    def second_fails(content):
        for score in content["scores"]:
            if score["model"] == "ddpm":
                score |= {"n_seeds": 2, "seeds": [0, 2], "values": score["values"][::2]}

    every = read_study(folder).scored_runs()
    edit(folder / "results.json", second_fails)
    gone = set(every) - set(read_study(folder).scored_runs())
    assert gone == {folder / "ddpm" / "seed-1"}


def test_keys_that_a_later_version_adds_are_left_out(folder):
    before = read_study(folder)
    edit(folder / "study.json", lambda plain: [r.update(later=1) for r in plain["recipes"]])
    edit(folder / "results.json", lambda plain: [s.update(later=1) for s in plain["scores"]])
    assert read_study(folder) == before


@pytest.mark.parametrize("name", ["study.json", "results.json"])
def test_a_missing_file_is_one_sentence(folder, code, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}( does not exist|, not finished yet)"):
        set_page(folder, code)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
@pytest.mark.parametrize("name", ["study.json", "results.json"])
def test_a_damaged_file_is_one_sentence(folder, code, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"study\.json|results\.json"):
        set_page(folder, code)


@pytest.mark.parametrize("file", ["latent.npz", "samples.npz"])
def test_a_damaged_array_file(folder, code, file):
    (folder / "vae-b" / "seed-0" / "samples.npz").write_bytes(b"PK\x03\x04 damaged")
    (folder / "vae-flow" / "seed-0" / "latent.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"\.npz cannot be read"):
        set_page(folder, code)


def test_pickles_are_not_opened(folder, code):
    np.savez(folder / "ddpm" / "seed-0" / "samples.npz", images=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="cannot be read"):
        set_page(folder, code)


def test_too_few_samples(folder, code):
    images = np.zeros((3, 1, 8, 8), np.uint8)
    np.savez(folder / "ddpm" / "seed-0" / "samples.npz", images=images)
    with pytest.raises(UserError, match="shows 4"):
        set_page(folder, code)


def test_a_short_report_keeps_its_parts_together(tmp_path, code):
    """What is left of the page is below the text, not between figure, table and columns."""
    ask = Synthetic(part_b=False, priors={"vae-spline": NINE["vae-spline"]})
    with pdfplumber.open(set_page(write_study(tmp_path / "short", ask), code)) as pdf:
        words = pdf.pages[0].extract_words()
    top = {w["text"]: w["top"] for w in reversed(words)}
    above = max(w["bottom"] for w in words if w["bottom"] < top["Table"])
    assert top["Table"] - above == pytest.approx(7 + MOST_GAP, abs=1)  # and nothing else
    assert max(w["bottom"] for w in words) < 600


def test_a_title_has_no_letter_that_is_an_empty_box(tmp_path, recwarn):
    """Arabic, of which neither of the figures' two fonts has any, but another that is there."""
    folder = write_study(tmp_path, Synthetic(part_b=False))
    edit(folder / "study.json", lambda c: c["recipes"][0].update(title="\N{ARABIC LETTER BEH}"))
    write_report(folder)
    assert not [w for w in recwarn if "missing from" in str(w.message)]
    assert FAMILIES == ["STIXGeneral", "DejaVu Serif"]


def test_figures_of_models_that_the_study_has_no_more_are_removed(tmp_path):
    """Else report.html would show them as its own."""
    folder, one = write_study(tmp_path / "now", Synthetic(part_b=False)), tmp_path / "then"
    write_study(one, Synthetic())
    write_report(one)
    shutil.copytree(one / "figures", folder / "figures")
    (folder / "figures" / "of-the-group.png").write_bytes(b"mine")
    write_report(folder)
    left = {path.name for path in (folder / "figures").iterdir()}
    assert not left & {"samples.png", "fid-growth.pdf", "classes.png", "bound-terms.pdf"}
    assert {"prior-posterior.pdf", "prior-posterior.png", "of-the-group.png"} <= left


def test_samples_that_no_run_has_any_more_are_shown_no_more(folder):
    write_report(folder)
    assert (folder / "figures" / "samples.png").is_file()
    for path in folder.glob("*/seed-*/samples.npz"):
        path.unlink()
    write_report(folder)
    assert not (folder / "figures" / "samples.png").is_file()


def test_names_without_spaces_lie_on_nothing(tmp_path, code):
    long = "vae_gaussian_wide_1024_1024_epochs_60_beta_1"
    folder = write_study(tmp_path / "s", Synthetic(pixel=OF_2026, edition="2026"))

    def name(content):
        content["recipes"][0]["title"] = long
        content["recipes"][-1]["title"] = "x" * 30

    edit(folder / "study.json", name)
    with pdfplumber.open(set_page(folder, code)) as pdf:
        words = pdf.pages[0].extract_words(use_text_flow=True)
    over = [
        (a["text"], b["text"])
        for a, b in combinations(words, 2)
        if abs(a["top"] - b["top"]) < 4 and min(a["x1"], b["x1"]) - max(a["x0"], b["x0"]) > 0.5
    ]
    assert not over


def test_handin_packs_code_configuration_and_report(folder, code):
    (folder / "group.toml").write_text(GROUP)
    left = folder / "no-more" / "seed-0"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    set_page(folder, code)
    path = handin(folder).path
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert json.loads(archive.read("study.json"))["name"] == "synthetic"
    assert names == sorted(names)
    assert {"report.pdf", "results.json", "code/src/triptych/report/handin.py"} <= set(names)
    assert "configuration/ddpm/seed-2/config.json" in names
    assert not [name for name in names if "no-more" in name]
    assert "code/src/triptych/report/template.typ" in names
    assert {"code/pyproject.toml", "code/docs/studies.md", "code/tests/test_cli.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "code/results" in name]
    assert not [n for n in names if "__pycache__" in n or n.endswith((".npz", ".part"))]
    assert handin(folder).path.read_bytes() == first


def test_handin_needs_what_the_group_writes(folder, code, of_2026):
    set_page(folder, code)
    with pytest.raises(UserError, match=r"lacks the group's own group\.toml"):
        handin(folder)
    with pytest.raises(UserError, match=r"lacks the group's own ai\.md"):
        handin(of_2026.parent)
    assert not list(folder.glob("handin.zip*"))


@pytest.mark.parametrize(
    ("edition", "features", "said"),
    [
        ("2026", "triptych-mnist", "triptych-mnist"),
        ("2026", "mine.safetensors", "mine.safetensors"),
        ("2026", "mine.pth", ""),
        ("2024", "inception", ""),
    ],
)
def test_other_features_than_the_courses_are_told_of(edition, features, said, tmp_path):
    def on(content):
        for score in content["scores"]:
            if score["metric"] == "fid":
                score["protocol"]["features"] = features

    folder = write_study(tmp_path / "study", Synthetic(edition=edition))
    edit(folder / "results.json", on)
    assert other_features(folder) == said


def test_handin_refuses_a_report_of_something_else(folder, code):
    """By what the files hold: a copy of the folder has other times."""
    (folder / "group.toml").write_text(GROUP)
    (folder / "discussion.md").write_text("As it was.")
    set_page(folder, code)
    for path in folder.iterdir():
        os.utime(path, (0, 0) if path.name == "report.pdf" else None)
    assert handin(folder).path.is_file()
    for name in ("group.toml", "results.json", "study.json", "discussion.md"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b"\n")
        with pytest.raises(UserError, match=rf"{name} changed after"):
            handin(folder)
        (folder / name).write_bytes(before)
    assert handin(folder).path.is_file()
    (folder / "discussion.md").unlink()
    with pytest.raises(UserError, match=r"discussion\.md changed after"):
        handin(folder)


def test_handin_needs_the_number_of_the_course(folder, code):
    (folder / "group.toml").write_text(GROUP.replace("02460", "2460"))
    set_page(folder, code)
    with pytest.raises(UserError, match=r"without 02460, which page 1 must carry"):
        handin(folder)


def test_a_declaration_with_words_is_found_behind_one_without(of_2026, tmp_path, monkeypatch):
    folder, here = Path(shutil.copytree(of_2026.parent, tmp_path / "study")), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (folder / "group.toml").write_text(GROUP)
    (folder / "ai.md").write_text("")
    (here / "ai.md").write_text("We used none.")
    assert "We used none." in page_text(set_page(folder), 2)
    assert handin(folder).path.is_file()
    (here / "ai.md").write_text("We used some.")
    with pytest.raises(UserError, match=r"ai\.md changed after"):
        handin(folder)


@pytest.mark.parametrize(
    ("dated", "words"), [(True, "  \n"), (True, "\ufeff"), (False, "None was used.")]
)
def test_a_2026_hand_in_has_a_date_and_a_declaration(of_2026, tmp_path, dated, words):
    folder = Path(shutil.copytree(of_2026.parent, tmp_path / "study"))
    group = "\n".join(line for line in GROUP.splitlines() if dated or "date" not in line)
    (folder / "group.toml").write_text(group)
    (folder / "ai.md").write_text(words)
    set_page(folder)
    with pytest.raises(UserError, match=r"group's own ai\.md" if dated else "has no date"):
        handin(folder)


def test_a_report_that_is_not_finished_leaves_the_one_before(folder, code, monkeypatch):
    before = set_page(folder, code).read_bytes()

    def interrupted(path, edition):
        raise KeyboardInterrupt

    monkeypatch.setattr("triptych.report.page.check_pdf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        set_page(folder, code)
    assert (folder / "report.pdf").read_bytes() == before
    assert not (folder / "report.draft.pdf").exists()


def test_a_report_whose_runs_are_gone_says_so(folder, capsys):
    """One of them: its figures are missed. All: there would be none, and what was written stays."""
    (folder / "report.pdf").write_text("as it was")
    gone = folder / "vae-flow" / "seed-0"
    shutil.rmtree(gone)
    with without_ink():
        main(["report", str(folder)])
    assert f"without the figures of {gone}, which is not there" in capsys.readouterr().out
    before = (folder / "report.pdf").read_bytes()
    for run in folder.glob("*/seed-*"):
        shutil.rmtree(run)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder)])
    assert stopped.value.code == 2
    assert "but not the runs" in capsys.readouterr().err
    assert (folder / "report.pdf").read_bytes() == before


def test_handin_without_a_report(folder):
    spaced = folder.rename(folder.with_name("my study"))
    command = rf"triptych report '{re.escape(str(spaced))}'$"  # as a shell takes it
    with pytest.raises(UserError, match=rf"report\.pdf is missing; write it first: {command}"):
        handin(spaced)


def test_handin_refuses_a_report_that_breaks_a_limit(folder, code):
    (folder / "discussion.md").write_text("word " * 2500, encoding="utf-8")
    with pytest.raises(LimitError):
        set_page(folder, code)
    (folder / "report.draft.pdf").rename(folder / "report.pdf")
    with pytest.raises(LimitError, match="main text"):
        handin(folder)
    assert not (folder / "handin.zip").exists()


def test_models_that_cannot_share_a_table_still_have_their_figures(folder):
    """Of binary pixels and of grey values, say: there is one table, and elsewhere room for both."""
    found = json.loads((folder / "results.json").read_text())
    model = next(s["model"] for s in found["scores"] if s["metric"] == "elbo")
    for score in found["scores"]:
        if score["model"] == model:
            score["protocol"]["p"] = "density of grey values"
    (folder / "results.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="a study of its own"), without_ink():
        write_report(folder)
    assert (folder / "figures" / "likelihood.pdf").is_file()
    assert (folder / "report.html").is_file()
    assert not (folder / "report.pdf").exists()
