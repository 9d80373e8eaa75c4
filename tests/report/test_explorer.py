"""report.html: every score, in its own protocol, and nothing that a file says as markup."""

import base64
import json
import re
import shutil
import webbrowser
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import OF_2026, RESULTS, Synthetic, edit, of_reference, summary, write_study

from triptych.cli import main
from triptych.errors import UserError
from triptych.report import write_report
from triptych.report.check import LimitError
from triptych.report.explorer import ACROSS, flat, write_explorer
from triptych.report.glossary import UNKNOWN, meaning
from triptych.report.load import read_study
from triptych.report.panels import Axis, Panel, metrics
from triptych.report.training import HEIGHT, TICKS, WIDTH, charts, rate, read_log, ticks


class Page(HTMLParser):
    """What a browser finds: text, addresses, the models that parts belong to, tags left open."""

    VOID = ("meta", "input", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.addresses, self.models, self.open = "", [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        self.models += [found["data-model"]] if "data-model" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def panels(folder: Path, metric: str) -> list[Panel]:
    """Those of one metric."""
    return next(m.panels for m in metrics(read_study(folder)) if m.name == metric)


def write_logs(folder: Path, seeds=(0, 1, 2)) -> None:
    """A training of 100 steps of each run, whose loss falls from 300 to 80."""
    for run in (folder / m / f"seed-{s}" for m in ("vae-gaussian", "ddpm") for s in seeds):
        rows = [{"step": s, "loss": 80 + 220 * 0.9**s, "seconds": 0.1} for s in range(1, 101)]
        rows += [{"step": 100, "validation": 79.0}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_every_score_is_on_the_page_in_a_table_of_its_protocol(folder):
    study = read_study(folder)
    found = metrics(study)
    rows = [(m.name, r.model) for m in found for p in m.panels for r in p.rows]
    assert sorted(rows) == sorted((s.metric, s.model) for s in study.scores)
    page = Page(write_explorer(folder))
    assert not page.open
    text = re.sub(r"\s", "", page.text)
    for row in (r for m in found for p in m.panels for r in p.rows):
        assert re.sub(r"\s", "", row.value + row.interval + row.error + row.level) in text
    assert all(m.meaning.words in page.text for m in found)


def test_the_main_metrics_are_first(folder):
    main, names = zip(*((m.main, m.name) for m in metrics(read_study(folder))), strict=True)
    assert set(names[: sum(main)]) == {"elbo", "iwae-1000", "kl-aggregate", "bpd", "fid"}
    assert sorted(main, reverse=True) == [*main]
    assert len(names) > 5


def test_an_interval_is_drawn_on_the_axis_of_the_means(folder):
    study = read_study(folder)
    (panel,) = panels(folder, "elbo")
    scores = {s.model: s for s in study.scores if s.metric == "elbo"}
    (a, b), of = panel.rows[:2], lambda row: scores[row.model]
    per_nat = (b.mean_at - a.mean_at) / (of(b).mean - of(a).mean)
    for row in panel.rows:
        ends = [a.mean_at + per_nat * (end - of(a).mean) for end in of(row).interval95]
        left, right = np.clip(ends, 0, 100)
        assert row.band == pytest.approx((left, right - left), abs=0.1)


def test_scores_of_different_protocols_share_no_table(folder):
    def other_images(content):
        row = next(s for s in content["scores"] if s["metric"] == "elbo")
        row["protocol"]["n"] = 500

    edit(folder / "results.json", other_images)
    found = panels(folder, "elbo")
    assert sorted(len(p.rows) for p in found) == [1, 2]
    assert {"n = 500" in p.protocol.replace("\xa0", " ") for p in found} == {True, False}
    assert sum(p.pairs == [] for p in found) == 1  # the two that are left are still compared


def test_models_under_two_protocols_are_not_compared(folder):
    def twice(content):
        row = next(s for s in content["scores"] if s["metric"] == "elbo")
        content["scores"].append(row | {"protocol": row["protocol"] | {"n": 500}})

    edit(folder / "results.json", twice)
    found = panels(folder, "elbo")
    assert sorted(len(p.rows) for p in found) == [1, 3]
    assert all(p.pairs == [] for p in found)


def test_a_model_that_was_sampled_in_two_ways_has_two_rows_and_no_differences(folder):
    def again(content):
        row = next(s for s in content["scores"] if (s["model"], s["metric"]) == ("ddpm", "fid"))
        content["scores"].append(row | {"protocol": row["protocol"] | {"steps": 7}})

    edit(folder / "results.json", again)
    (panel,) = panels(folder, "fid")
    assert [r.model for r in panel.rows].count("ddpm") == 2
    assert [("7 steps" in r.how) for r in panel.rows].count(True) == 1
    assert panel.pairs == []


def test_annealings_of_other_lengths_share_no_table(folder):
    def annealed(content):
        for model, steps in (("vae-gaussian", 300), ("vae-flow", 3000)):
            content["scores"].append(summary(model, "ais", [-70.0], {"n": 100, "steps": steps}))

    edit(folder / "results.json", annealed)
    assert sorted(p.protocol[-3:] for p in panels(folder, "ais")) == ["000", "300"]


def test_numbers_that_are_none_have_no_place_and_leave_the_others_theirs(folder):
    def broken(content):
        rows = [s for s in content["scores"] if s["metric"] == "elbo"]
        rows[0] |= {"values": [float("nan"), float("inf"), -80.0], "mean": float("nan")}
        rows[0] |= {"interval95": [float("-inf"), float("inf")]}

    edit(folder / "results.json", broken)
    (panel,) = panels(folder, "elbo")
    assert (panel.rows[0].mean_at, panel.rows[0].band) == (None, None)
    assert len(panel.rows[0].dots) == 1
    places = [place for r in panel.rows[1:] for place, _ in r.dots]
    assert max(places) - min(places) > 50
    assert '"nan"' not in write_explorer(folder).read_text()


def test_a_level_that_only_some_rows_have(folder):
    def without(content):
        row = next(s for s in content["scores"] if s["metric"] == "fid")
        del row["protocol"]["floor"]

    edit(folder / "results.json", without)
    (panel,) = panels(folder, "fid")
    assert [r.level_at is None for r in panel.rows] == [True, False, False]
    assert [r.level == "" for r in panel.rows] == [True, False, False]


def test_a_level_beside_scores_of_nothing_is_not_rounded_away(one_seed):
    def none_copied(content):
        for score in content["scores"]:
            if score["metric"] == "fid":
                score |= {"metric": "copied-share", "mean": 0.0, "values": [0.0], "mc_std": 2.8e-5}
                score["protocol"]["real"] = 0.0099999
                del score["protocol"]["floor"]

    edit(one_seed / "results.json", none_copied)
    (panel,) = panels(one_seed, "copied-share")
    assert {float(row.level) for row in panel.rows} == {0.01}
    assert {row.error for row in panel.rows} == {"0.000028"}


def test_digits_follow_the_spread_or_of_single_runs_the_score(folder, one_seed):
    (elbo,), (fid,) = panels(folder, "elbo"), panels(one_seed, "fid")
    least = min(s.std or 1 for s in read_study(folder).scores if s.metric == "elbo")
    digits = len(elbo.rows[0].value.rsplit(".")[-1])
    assert 10 <= least * 10**digits < 100
    shown = next(r for r in fid.rows if r.model == "ddpm").value
    assert len(shown.replace(".", "")) == 4
    assert fid.ends is not None


def test_differences_are_row_less_column_and_marked_where_clear(folder):
    def narrow(content):
        for i, d in enumerate(d for d in content["differences"] if d["metric"] == "elbo"):
            half = 0.01 if i else 2 * abs(d["mean"])
            d["interval95"] = [d["mean"] - half, d["mean"] + half]

    edit(folder / "results.json", narrow)
    study = read_study(folder)
    (panel,) = panels(folder, "elbo")
    for row, cells in zip(panel.rows, panel.pairs, strict=True):
        for column, cell in zip(panel.rows, cells, strict=True):
            if cell is None:
                continue
            d = study.difference("elbo", row.model, column.model)
            assert d is not None
            assert d.interval95 is not None
            assert float(cell.text.replace("\N{MINUS SIGN}", "-")) == pytest.approx(d.mean, abs=0.1)
            assert cell.clear == (d.interval95[0] > 0 or d.interval95[1] < 0)
    assert [c is None for c in panel.pairs[0]] == [True, False, False]
    assert {c.clear for row in panel.pairs for c in row if c} == {True, False}


def test_places_on_an_axis_keep_order_and_proportion():
    straight, log = Axis.of([10.0, 20.0, 40.0]), Axis.of([1.0, 10.0, 100.0])
    a, b, c = (straight.at(v) for v in (10, 20, 40))
    assert (c - b) / (b - a) == pytest.approx(2, rel=1e-2)
    a, b, c = (log.at(v) for v in (1, 10, 100))
    assert c - b == pytest.approx(b - a, abs=0.02)
    assert 0 < a < c < 100
    assert (log.at(-5), log.at(0.01), log.at(1e9)) == (0, 0, 100)
    assert straight.ends() == ("8", "42")
    assert log.ends() == ("0.76", "132")
    assert log.log
    assert not straight.log
    same = Axis.of([3.0, 3.0])
    assert same.at(3.0) == 50


def test_a_row_has_a_dot_for_each_run_and_its_level(folder):
    (fid,) = panels(folder, "fid")
    assert fid.level == "real images"
    for row in fid.rows:
        assert len(row.dots) == 3
        assert row.level_at is not None
        assert row.level_at < min(at for at, _ in row.dots)


def test_text_of_a_file_is_not_markup(tmp_path):
    evil = "<script>x('y')</script> & \"z\""
    folder = write_study(tmp_path / "s", Synthetic(titles={"vae-gaussian": evil}))
    failure = {"model": "vae-flow", "seed": 2, "reason": "<b>loss</b>"}
    edit(folder / "results.json", lambda c: c["failures"].append(failure))
    page = Page(write_explorer(folder))
    raw = (folder / "report.html").read_text()
    assert raw.count("<script>") == 1
    assert evil in page.text
    assert "seed 2: <b>loss</b>" in page.text


def test_the_page_stands_alone(folder):
    from triptych.report.figures import samples

    samples(read_study(folder))
    page = Page(write_explorer(folder))
    images = [a for a in page.addresses if a.startswith("data:image/png;base64,")]
    # samples and what is nearest of 6 models x 3 seeds, and a figure
    assert len(images) == 37
    rest = [a for a in page.addresses if a not in images]
    assert all(a.startswith("#") for a in rest)
    assert "http" not in (folder / "report.html").read_text().replace("http-equiv", "")
    assert set(page.models) == {r.name for r in read_study(folder).recipes}


def test_samples_are_shown_row_by_row_in_black_on_white(folder):
    drawn = np.random.default_rng(0).integers(0, 256, (ACROSS + 2, 1, 28, 28)).astype(np.uint8)
    np.savez(folder / "ddpm" / "seed-0" / "samples.npz", images=drawn)
    page = Page(write_explorer(folder))
    sheets = [
        np.array(Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))))
        for address in page.addresses
        if address.startswith("data:image/png;base64,")
    ]
    expected = np.full((2 * 29, ACROSS * 29), 255, np.uint8)
    for i, image in enumerate(drawn[:, 0]):
        top, left = 29 * (i // ACROSS) + 1, 29 * (i % ACROSS) + 1
        expected[top : top + 28, left : left + 28] = 255 - image
    assert any(np.array_equal(sheet, expected) for sheet in sheets)


def test_training_is_drawn_inside_its_frame(folder):
    write_logs(folder)
    study = read_study(folder)
    found = charts("it", study.runs(study.recipes[0]))["it"]
    assert [(line.seed, line.validation) for line in found.lines] == [
        (s, v) for s in (0, 1, 2) for v in (False, True)
    ]
    for line in found.lines:
        points = [tuple(map(float, p.split(","))) for p in line.points.split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
        assert points[-1][0] == WIDTH
    heights = [float(p.split(",")[1]) for p in found.lines[0].points.split()]
    assert heights == sorted(heights)  # the loss falls, and down is down
    last = max(
        step for step, _ in read_log(study.runs(study.recipes[0])[0][1] / "metrics.jsonl")["loss"]
    )
    assert [x for x, _ in found.x_ticks] == [
        pytest.approx(int(said) / last * WIDTH) for _, said in found.x_ticks
    ]
    assert len(heights) == 91  # the first tenth is above the frame, which it does not stretch
    losses = [80 + 220 * 0.9**step for step in range(10, 101)]
    of_ticks = [np.interp(float(said), losses[::-1], heights[::-1]) for _, said in found.y_ticks]
    assert [y for y, _ in found.y_ticks] == pytest.approx(of_ticks, abs=2.5)
    assert "training of VAE, Gaussian prior" in write_explorer(folder).read_text()


def test_a_loss_that_begins_low_stays_in_the_frame_too(tmp_path):
    """As it does with KL warm-up."""
    rows = [{"step": s, "loss": 50 + 30 * (1 - 0.9**s)} for s in range(1, 101)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = charts("it", [(0, tmp_path)])["it"]
    heights = [float(p.split(",")[1]) for p in found.lines[0].points.split()]
    assert 0 < min(heights) < max(heights) < HEIGHT
    assert len(heights) == 91
    texts = [text for _, text in found.y_ticks]
    assert len(set(texts)) == len(texts) > 1
    assert not any("." in text for text in texts)


def test_of_a_vae_its_divergence_is_drawn_too(tmp_path):
    """A step at which one of its parts has no place on an axis is left out."""
    apart = ((-70.0, -45.0), (1e300, -44.0), (-72.0, -46.5))
    rows = [
        {"step": i, "validation": 99.0, "validation log_pz": p, "validation log_qz": q}
        for i, (p, q) in enumerate(apart, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert rate(read_log(tmp_path / "metrics.jsonl")) == [(1.0, 25.0), (3.0, 25.5)]
    found = charts("it", [(0, tmp_path)])
    assert list(found) == ["it", "it: KL(q(z|x)||p(z))"]
    assert [line.end for line in found["it: KL(q(z|x)||p(z))"].lines] == ["25.50"]


def test_runs_that_were_not_asked_for_are_not_shown(folder):
    def fewer(content):
        for recipe in content["recipes"]:
            recipe["seeds"] = [0] if recipe["part"] == "B" else [0, 1, 2]

    edit(folder / "study.json", fewer)
    text = write_explorer(folder).read_text()
    assert "samples of DDPM, seed 0" in text
    assert "samples of DDPM, seed 1" not in text
    assert "samples of VAE, flow prior, seed 2" in text


def test_the_vae_of_a_latent_ddpm_was_trained_too(tmp_path):
    folder = write_study(tmp_path / "s", Synthetic(seeds=(0,), edition="2026", pixel=OF_2026))
    for place, end in (("seed-0", 2.0), ("autoencoder/seed-0", 40.0)):
        (folder / "latent-one" / place).mkdir(parents=True, exist_ok=True)
        rows = f'{{"step": 1, "loss": 50.0}}\n{{"step": 9, "loss": {end}}}\n'
        (folder / "latent-one" / place / "metrics.jsonl").write_text(rows)
    text = write_explorer(folder).read_text()
    assert "training of Latent, beta = 1: its VAE" in text
    assert "training: ends at 40.00" in text
    assert "training: ends at 2.00" in text


def test_the_page_is_written_where_the_report_breaks_a_limit(folder, monkeypatch):
    monkeypatch.setattr("triptych.report.DRAWN", ())  # slow, and none is on the page
    (folder / "discussion.md").write_text("word " * 5000)
    with pytest.raises(LimitError):
        write_report(folder)
    assert not (folder / "report.pdf").exists()
    assert (folder / "report.html").is_file()


def test_a_torn_last_line_is_left_out_and_any_other_is_named(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    assert read_log(log)["loss"] == [(1.0, 3.0)]
    log.write_text("")
    assert not any(read_log(log).values())
    log.write_text('{"step": 1, "loss": 1' + "0" * 400 + "}\n{}")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        read_log(log)
    for broken in ('{"step": 1, "lo\n{"step": 2, "loss": 1}', '[1]\n{"loss": 2}\n', "3\n4\n"):
        log.write_text(broken)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
            read_log(log)


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (-0.013, 0.021), (64.8, 91.3), (0, 13750)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    assert all(low <= t <= high for t in found)
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"


def test_any_axis_has_two_ticks():
    g = np.random.default_rng(0)
    for low, log_span in zip(g.normal(0, 50, 20_000), g.uniform(-4, 4, 20_000), strict=True):
        high = low + 10**log_span
        found = ticks(low, high)
        assert 2 <= len(found) <= TICKS + 1
        assert low <= found[0] + 1e-9
        assert found[-1] <= high + 1e-9


def test_settings_in_a_table_have_its_name():
    asked = {"kind": "latent", "vae": {"beta": 1e-6, "hidden": [8]}}
    assert flat(asked) == [("kind", "latent"), ("vae.beta", "1e-06"), ("vae.hidden", "[8]")]


@of_reference
def test_results_without_their_runs_can_be_explored(tmp_path):
    for name in ("study.json", "results.json"):
        shutil.copy(RESULTS / "brief-2026" / name, tmp_path)
    page = Page(write_explorer(tmp_path))
    assert "samples-per-second" in page.text
    assert "Training" not in page.text
    assert "Samples" not in page.text


@of_reference
def test_every_metric_of_the_reference_results_has_a_meaning():
    stored = [json.loads(p.read_text()) for p in RESULTS.glob("*/results.json")]
    metrics = {s["metric"] for content in stored for s in content["scores"]}
    assert len(metrics) > 25
    assert [m for m in metrics if meaning(m) == UNKNOWN] == []
    assert "the VAE's own prior" in meaning("mmd2-prior").words
    assert meaning("iwae-77").better == "higher"
    assert meaning("bpd-iwae-3").better == "lower"
    assert meaning("of-a-plugin") == UNKNOWN


def test_an_unknown_metric_of_one_run_is_shown_as_it_is(one_seed):
    odd = summary("ddpm", "of-a-plugin", [0.0], {"n": 5})
    edit(one_seed / "results.json", lambda c: c["scores"].append(odd))
    (panel,) = panels(one_seed, "of-a-plugin")
    assert panel.pairs == []
    assert panel.ends is None
    assert panel.rows[0].interval == "–"
    assert "of-a-plugin" in write_explorer(one_seed).read_text()


def test_scores_without_a_value_for_each_seed_are_refused(folder):
    edit(folder / "results.json", lambda c: c["scores"][0]["values"].pop())
    with pytest.raises(UserError, match="2 values of 3 seeds"):
        write_explorer(folder)


def test_images_of_another_type_are_named(folder):
    run = folder / "vae-gaussian/seed-1"
    np.savez(run / "nearest.npz", images=np.zeros((ACROSS, 1, 8, 8)))
    with pytest.raises(UserError, match=r"nearest\.npz holds images of shape"):
        write_explorer(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", '{"seconds": 3}'),
        ("manifest.json", "[]"),
        ("samples.npz", "no archive"),
        ("metrics.jsonl", "{\n{\n"),
    ],
)
def test_a_damaged_file_is_named_and_the_page_before_is_kept(folder, file, content):
    before = write_explorer(folder).read_text()
    (folder / "vae-gaussian/seed-1" / file).write_text(content)
    with pytest.raises(UserError, match=f"seed-1/{file}"):
        write_explorer(folder)
    assert (folder / "report.html").read_text() == before


def test_the_command_says_where_and_opens_it_if_asked(folder, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(folder.parent)
    main(["explore", folder.name])
    assert capsys.readouterr().out == f"wrote {folder.name}/report.html\n"
    assert opened == []
    main(["explore", folder.name, "--open"])
    assert opened == [(folder / "report.html").as_uri()]


def test_samples_fewer_than_a_row_have_a_picture(folder):
    run = folder / "vae-gaussian/seed-0"
    np.savez(run / "samples.npz", images=np.zeros((ACROSS - 3, 1, 8, 8), np.uint8))
    assert f'width="{3 * ACROSS * 9}" height="27"' in write_explorer(folder).read_text()


def test_a_study_of_the_2026_edition(tmp_path):
    folder = write_study(tmp_path / "s", Synthetic(edition="2026", pixel=OF_2026))
    write_logs(folder)
    page = Page(write_explorer(folder))
    assert "samples-per-second" in page.text
    assert "samples, n\xa0=\xa064" in page.text
    assert not page.open
