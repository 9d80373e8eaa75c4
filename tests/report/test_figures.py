"""What the figures draw, measured where a picture would hide a slip."""

from dataclasses import replace

import numpy as np
import pdfplumber
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from synthetic import NINE, OF_2026, PIXEL, Synthetic, edit, write_study

from triptych.evaluate.tradeoff import SETTINGS
from triptych.report import write_report
from triptych.report.canvas import TEXT_WIDTH, axes_at, blank, wrapped
from triptych.report.classes import classes
from triptych.report.curves import (
    dimensions,
    frame,
    frechet,
    growth,
    likelihood,
    log_ticks,
    terms,
    worth_drawing,
)
from triptych.report.figures import manifold, nearest, reconstructions, samples
from triptych.report.latent_figure import latent_ddpm, place_panels, prior_posterior
from triptych.report.latent_panel import (
    MASSES,
    cloud_levels,
    mass_levels,
    posterior_density,
    room_for,
    spread_apart,
    write_digits,
)
from triptych.report.load import read_study
from triptych.report.quality_time import tradeoff
from triptych.report.runs import read_latent

DRAWN = [prior_posterior, samples, likelihood, growth, dimensions, frechet, manifold, nearest]
DRAWN += [terms, tradeoff, classes, reconstructions]


@pytest.mark.parametrize("draw", DRAWN)
def test_figures_are_as_wide_as_the_text_with_letters_of_ten_points(folder, draw):
    path = draw(read_study(folder))
    with pdfplumber.open(path) as pdf:
        (page,) = pdf.pages
        assert float(page.width) == pytest.approx(TEXT_WIDTH * 72 / 2.54, abs=0.1)
        marks = page.chars + page.rects + page.curves + page.lines + page.images
        assert min(m["x0"] for m in marks) > -0.5
        assert max(m["x1"] for m in marks) < float(page.width) + 0.5
        assert min(m["top"] for m in marks) > -0.5
        assert max(m["bottom"] for m in marks) < float(page.height) + 0.5
        upright = [c["size"] for c in page.chars if c["upright"]]
        assert min(upright) == pytest.approx(10, abs=0.01)
    assert path.with_suffix(".png").is_file()


def test_a_sampler_is_named_with_the_noise_that_it_was_drawn_with(folder):
    """Where that was kept, which earlier runs did not."""

    def said():
        with pdfplumber.open(tradeoff(read_study(folder))) as pdf:
            return " ".join(pdf.pages[0].extract_text().split())

    assert "DPM-Solver++, eta = 1 below sigma/alpha = 3, rho = 6" in said()
    for path in folder.glob("*/seed-*/tradeoff.npz"):
        with np.load(path) as kept:
            np.savez(path, **{name: kept[name] for name in kept if name not in SETTINGS})
    assert "(10, 20, 40 evaluations)" in said()
    assert "rho" not in said()


def test_real_images_have_no_line_where_there_were_too_few(folder):
    for name, draw in (("fid-growth", frechet), ("tradeoff", tradeoff)):

        def said(draw=draw):
            with pdfplumber.open(draw(read_study(folder))) as pdf:
                return pdf.pages[0].extract_text()

        assert "real images" in said()
        for path in folder.glob(f"*/seed-*/{name}.npz"):
            with np.load(path) as kept:
                np.savez(path, **dict(kept) | {"floor": np.nan * kept["floor"]})
        assert "real images" not in said()


def test_the_manifold_has_each_mean_at_its_place(folder, monkeypatch):
    """Rows from the top, as they are kept, and a place in the middle of its image."""
    shown, imshow = [], Axes.imshow

    def seen(ax, image, **named):
        shown.append((image, named["extent"]))
        return imshow(ax, image, **named)

    monkeypatch.setattr(Axes, "imshow", seen)
    path = next(folder.glob("*/seed-0/manifold.npz"))
    with np.load(path) as kept:
        images = kept["images"]
    np.savez(path, images=images, x=np.linspace(-2, 2, 5), y=np.linspace(0, 8, 5))
    manifold(read_study(folder))
    side = images.shape[-1]
    drawn, extent = next(pair for pair in shown if pair[1][3] == 9)
    assert extent == (-2.5, 2.5, -1, 9)
    np.testing.assert_array_equal(drawn[side : 2 * side, :side], images[1, 0, 0])
    np.testing.assert_array_equal(drawn[:side, side : 2 * side], images[0, 1, 0])


def test_regions_hold_the_mass_that_the_caption_names(folder):
    study = read_study(folder)
    latent = read_latent(study, study.part("A")[0])
    assert latent is not None
    cell = np.diff(latent.grid_x)[0] * np.diff(latent.grid_y)[0]
    for level, mass in zip(mass_levels(latent, latent.density), MASSES, strict=True):
        held = latent.density[latent.density >= level].sum() * cell
        assert held == pytest.approx(mass, abs=0.004)


def clustered(latent, spread):
    """A cloud of ten classes on a ring of radius 1."""
    draw, labels = np.random.default_rng(0), np.repeat(np.arange(10), 1000)
    centres = np.stack([np.cos(labels * np.pi / 5), np.sin(labels * np.pi / 5)], -1)
    axis = np.linspace(-2, 2, 161)
    posterior = centres + spread * draw.normal(size=(10_000, 2))
    grid = {"grid_x": axis, "grid_y": axis, "density": np.zeros((161, 161))}
    return replace(latent, posterior=posterior, labels=labels, **grid)


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.5])
def test_dashed_regions_hold_that_mass_of_the_cloud_and_no_more(folder, spread):
    study = read_study(folder)
    latent = clustered(read_latent(study, study.part("A")[0]), spread)
    density, axis = posterior_density(latent), latent.grid_x
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(
        1, abs=0.03
    )  # but for what lies outside
    levels = cloud_levels(latent, density, latent.posterior)
    column, row = (np.abs(axis - at[:, None]).argmin(1) for at in latent.posterior.T)
    for level, mass in zip(levels, MASSES, strict=True):
        assert (density[row, column] >= level).mean() == pytest.approx(mass, abs=0.01)
    if spread < 0.2:  # ten discs that do not touch
        areas = [(density >= level).sum() * (axis[1] - axis[0]) ** 2 for level in levels]
        exact = [10 * np.pi * spread**2 * -2 * np.log(1 - mass) for mass in MASSES]
        assert areas == pytest.approx(exact, rel=0.2)


def test_a_prior_far_from_the_frame_is_no_reason_not_to_draw(folder):
    for file in folder.glob("vae-*/seed-0/latent.npz"):
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays["grid_x"] = np.linspace(-3000, 3000, len(arrays["grid_x"]))
        np.savez(file, **arrays)
    assert prior_posterior(read_study(folder)) is not None


def test_regions_that_the_grid_does_not_hold_are_not_drawn(folder):
    study = read_study(folder)
    latent = read_latent(study, study.part("A")[0])
    assert latent is not None
    cut = replace(latent, density=0.9 * latent.density)
    assert len(mass_levels(cut, cut.density)) == len(MASSES) - 1


def test_regions_wider_than_the_panel_stay_inside_it(folder):
    for file in folder.glob("vae-*/seed-0/latent.npz"):
        with np.load(file) as stored:
            arrays = dict(stored)
        x, y = arrays["grid_x"][None], arrays["grid_y"][:, None]
        arrays["density"] = np.exp(-((x / 3) ** 2) - y**2) / (3 * np.pi)
        arrays["prior"], arrays["posterior"] = arrays["prior"] / 9, arrays["posterior"] / 9
        np.savez(file, **arrays)
    study = read_study(folder)
    panels = place_panels(study, 4.7)
    path = prior_posterior(study)
    assert panels is not None
    assert path is not None
    left, right = panels.corners[0][0], panels.corners[-1][0] + panels.side
    with pdfplumber.open(path) as pdf:
        for curve in pdf.pages[0].curves:
            assert float(curve["x0"]) > left / 2.54 * 72 - 1
            assert float(curve["x1"]) < right / 2.54 * 72 + 1


def test_labels_part_even_when_they_coincide():
    points = spread_apart(np.zeros((10, 2)) + 2.0, 0.42, 4.7)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(10)
    assert gaps.min() > 0.3
    assert points.min() >= 0
    assert points.max() <= 4.7


def test_wrapping():
    assert wrapped("one two", 10.0) == "one two"
    assert wrapped("one two", 0.9) == "one\ntwo"
    dollars = "a$b$c " * 20  # as wide as drawn, where they are no mathematics
    assert wrapped(dollars, 4.0) == wrapped(dollars.replace("$", "1"), 4.0).replace("1", "$")
    assert wrapped("x" * 200, 3.0).endswith("\N{HORIZONTAL ELLIPSIS}")


def test_the_first_four_samples_are_the_ones_shown(folder):
    path = samples(read_study(folder))
    assert path is not None
    before = path.read_bytes()
    file = folder / "ddpm" / "seed-0" / "samples.npz"
    images = np.load(file)["images"]
    images[4:] = 0
    np.savez(file, images=images)
    assert samples(read_study(folder)).read_bytes() == before  # pyright: ignore[reportOptionalMemberAccess]
    images[3] = 0
    np.savez(file, images=images)
    assert samples(read_study(folder)).read_bytes() != before  # pyright: ignore[reportOptionalMemberAccess]


def test_models_of_the_same_title_are_told_apart(tmp_path):
    """A prior and a model of pixels may both be a flow."""
    ask = Synthetic(titles={"vae-flow": "Flow", "pixelflow": "Flow"})
    path = nearest(read_study(write_study(tmp_path / "study", ask)))
    assert path is not None
    with pdfplumber.open(path) as pdf:
        words = pdf.pages[0].extract_text()
    assert "Flow prior" in words
    assert "Pixel flow" in words


def test_many_priors_stand_in_rows_on_the_same_axes(tmp_path):
    study = read_study(write_study(tmp_path / "nine", Synthetic(priors=NINE)))
    panels = place_panels(study, 4.7)
    assert panels is not None
    assert len({bottom for _, bottom in panels.corners}) == 3
    assert [left for left, _ in panels.corners[:3]] == [left for left, _ in panels.corners[6:]]
    assert panels.side > 4
    small = place_panels(study, 2.0)
    assert small is not None
    assert len({bottom for _, bottom in small.corners}) == 2
    assert small.side == 2
    assert {" ".join(t.split()) for t in small.titles} == {title for title, _, _ in NINE.values()}
    path = prior_posterior(study)
    assert path is not None
    with pdfplumber.open(path) as pdf:
        assert pdf.pages[0].height == pytest.approx(panels.height * 72 / 2.54, abs=1)


def test_report_of_many_priors_keeps_to_its_page(tmp_path):
    folder = write_study(tmp_path / "nine", Synthetic(priors=NINE, latent_dim=32, part_b=False))
    assert write_report(folder).is_file()
    with pdfplumber.open(folder / "figures" / "prior-posterior.pdf") as pdf:
        assert pdf.pages[0].height > 15 / 2.54 * 72  # as large as it can be, where there is room


def test_samples_stand_above_the_neighbours_of_their_own_run(tmp_path):
    """Not above another seed's, where a run has lost its own."""
    folder = write_study(tmp_path / "study")
    run = folder / "ddpm" / "seed-0"
    (run / "nearest.npz").unlink()

    def drawn():
        return nearest(read_study(folder)).read_bytes()  # pyright: ignore[reportOptionalMemberAccess]

    before = drawn()
    np.savez(run / "samples.npz", images=np.zeros((8, 1, 28, 28), np.uint8))
    assert drawn() == before


def test_each_test_image_stands_above_its_own_reconstruction(folder, monkeypatch):
    at, imshow = {}, Axes.imshow

    def seen(ax, image, **named):
        at[tuple(round(v, 4) for v in ax.get_position().p0)] = image
        return imshow(ax, image, **named)

    monkeypatch.setattr(Axes, "imshow", seen)
    assert reconstructions(read_study(folder)) is not None
    with np.load(folder / "vae-gaussian/seed-0/reconstructions.npz") as kept:
        images, means = kept["images"][:, 0], kept["means"][:, 0]
    places = [
        next(p for p, drawn in at.items() if (drawn == image).all())
        for pair in zip(images[:6], means[:6], strict=True)
        for image in pair
    ]
    for (x, y), (below_x, below_y) in zip(places[::2], places[1::2], strict=True):
        assert x == below_x
        assert y > below_y
    assert places[::2] == sorted(places[::2])


def test_only_a_panel_on_its_own_axes_has_their_names_beside_others(tmp_path):
    folder = write_study(tmp_path / "s", Synthetic(pixel=OF_2026, edition="2026"))
    with pdfplumber.open(prior_posterior(read_study(folder))) as pdf:
        names = [word for word in pdf.pages[0].extract_words() if word["text"] == "z₁"]
        beside = [c for c in pdf.pages[0].chars if c["text"] == "z" and not c["upright"]]
    assert len(names) == 4
    assert len(beside) == 2


def test_latent_ddpms_have_a_panel_each_with_three_distributions(tmp_path):
    """Shifted by two cells, a chain's lines move with its density and the prior's do not."""
    assert latent_ddpm(read_study(write_study(tmp_path / "2024"))) is None
    folder = write_study(tmp_path / "2026", Synthetic(seeds=(0,), pixel=OF_2026))

    def lines():
        with pdfplumber.open(latent_ddpm(read_study(folder))) as pdf:
            page = pdf.pages[0]
            assert "q(z)" in page.extract_text()
            thick = [c["pts"] for c in page.curves if 1.05 < c["linewidth"] < 1.2]
            thin = [c["pts"] for c in page.curves if c["linewidth"] < 0.65]
            widths = [round(c["linewidth"], 2) for c in page.curves]
            # Once more around the prior, over all that hides it.
            last_of_chain = max(i for i, w in enumerate(widths) if w == 1.1)
            assert widths[last_of_chain + 1 :][:2] == [2.6, 1.2]
        return thick, thin

    there, prior = lines()
    path = folder / "latent-one" / "seed-0" / "latent.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"chain": np.roll(arrays["chain"], 2, axis=1)}))
    moved, same = lines()
    assert len(there) == 2 * len(MASSES)
    assert there[: len(MASSES)] == moved[: len(MASSES)]
    assert there[len(MASSES) :] != moved[len(MASSES) :]
    assert prior == same


def test_a_small_cloud_has_fewer_points_than_would_hide_it():
    cloud = np.random.default_rng(0).uniform(0, 1, (5000, 2))
    ax = axes_at(blank(5), (0, 0, 4, 4))
    for reach, most in ((1, 3000), (4, 902), (400, 1)):  # 0.95 of 4, of 1 and of 0.01 cm
        ax.set_xlim(0, reach)
        assert room_for(ax, cloud, 3000, 1000.0) == pytest.approx(most, rel=0.02)
    ax.set_xlim(0, 1)
    assert room_for(ax, cloud[:50], 3000, 1000.0) == 50


@pytest.mark.parametrize(
    ("side", "chain", "hidden"), [(0.2, True, "0"), (0.2, False, ""), (1, True, "")]
)
def test_no_digit_hides_the_small_prior_of_a_latent_ddpm(folder, side, chain, hidden):
    study = read_study(folder)
    latent = clustered(read_latent(study, study.part("A")[0]), 0.1)
    centre = latent.posterior.copy()
    centre[latent.labels == 0] -= [1, 0]  # onto the prior
    prior = 0.1 * np.random.default_rng(0).normal(size=(1000, 2))
    latent = replace(latent, posterior=centre, prior=prior, chain=latent.density if chain else None)
    ax = Figure().add_axes((0, 0, side, side))
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    write_digits(ax, latent)
    assert {t.get_text() for t in ax.texts} == set("0123456789") - set(hidden)


def test_the_first_latent_ddpm_stands_beside_the_priors_on_its_own_scale(tmp_path):
    with_it = read_study(write_study(tmp_path / "a", Synthetic(seeds=(0,), pixel=OF_2026)))
    without = read_study(write_study(tmp_path / "b", Synthetic(seeds=(0,))))
    assert len(place_panels(without, 3.0).titles) == 3
    assert place_panels(with_it, 3.0).titles[3:] == ["Latent, beta = 1e-6"]
    for size in (2.0, 3.0, 5.0):  # its ticks and the name of its axis stand beside it
        panels = place_panels(with_it, size)
        room = np.diff([left for left, _ in panels.corners]) - panels.side
        assert room[-1] >= 1.3
        assert room.min() >= 0.34
        assert panels.corners[-1][0] + panels.side <= 17.0
    ticks = []
    for study, scale in ((with_it, 1), (with_it, 50)):
        path = study.folder / "latent-small" / "seed-0" / "latent.npz"
        arrays = dict(np.load(path))
        wider = {k: arrays[k] * scale for k in ("posterior", "prior", "grid_x", "grid_y")}
        np.savez(path, **(arrays | wider))
        with pdfplumber.open(prior_posterior(study)) as pdf:
            words = pdf.pages[0].extract_words()
        middle = max(w["x1"] for w in words if w["text"] == "prior")
        numbers = [w for w in words if w["text"][0] in "-0123456789"]
        ticks.append(
            [{w["text"] for w in numbers if (w["x0"] > middle) == last} for last in (0, 1)]
        )
    (others, own), (same, wide) = ticks
    assert others == same
    assert "100" in wide - own


def test_titles_in_a_row_stand_on_one_line(folder):
    """A comma reaches below what a capital does."""
    long = "A flow whose title is longer than four samples are wide, splines"
    edit(folder / "study.json", lambda s: s["recipes"][-2].update(title=long))
    with pdfplumber.open(samples(read_study(folder))) as pdf:
        words = {w["text"]: w["bottom"] for w in pdf.pages[0].extract_words()}
    assert words["DDPM"] == pytest.approx(words["dynamic"], abs=0.01)
    assert words["DDPM"] == pytest.approx(words["splines"], abs=0.01)
    assert words["A"] < words["DDPM"] - 9  # points


def test_a_dollar_in_a_title_is_a_dollar(tmp_path):
    named = {name: (rf"{i} of $\foo$", *rest) for i, (name, (_, *rest)) in enumerate(NINE.items())}
    study = read_study(write_study(tmp_path / "study", Synthetic(priors=named, part_b=False)))
    with pdfplumber.open(likelihood(study)) as pdf:
        assert r"0 of $\foo$" in pdf.pages[0].extract_text()


def test_a_title_that_begins_with_an_underscore_is_in_the_legend(folder):
    edit(folder / "study.json", lambda s: s["recipes"][-1].update(title="_mine"))
    with pdfplumber.open(frechet(read_study(folder))) as pdf:
        assert "_mine" in pdf.pages[0].extract_text()


def test_a_figure_is_as_high_as_its_legend(tmp_path):
    long = "A flow of splines whose title takes more lines beside the axes than anybody would wish"
    pixel = {
        f"{name}-{i}": (f"{long}, {name} {i}", *rest)
        for i in range(4)
        for name, (_, *rest) in PIXEL.items()
    }
    study = read_study(write_study(tmp_path / "study", Synthetic(pixel=pixel, seeds=(0,))))
    with pdfplumber.open(frechet(study)) as pdf:
        page = pdf.pages[0]
        words = page.extract_words()
    assert [w["text"] for w in words].count("anybody") == len(pixel)
    assert "images" in {w["text"] for w in words}  # the last
    assert max(w["bottom"] for w in words) <= page.height
    assert page.height > 20 / 2.54 * 72


@pytest.mark.parametrize(("high", "shown"), [(9.0, [1, 2, 5]), (9e3, [1, 10, 100, 1000])])
def test_a_logarithmic_axis_has_as_many_numbers_as_there_is_room_for(high, shown):
    ax = Figure().add_subplot()
    ax.set(xscale="log", yscale="log", xlim=(0.9, high), ylim=(1, 10))
    log_ticks(ax)
    ticks = [t for t in ax.xaxis.get_majorticklocs() if 0.9 <= t <= high]
    assert ticks == pytest.approx(shown)


def test_a_frame_holds_the_bands_unless_they_dwarf_what_the_means_tell():
    means = np.array([-80.0, -70.0])
    low, high = frame(means, np.array([-84.0, -80.0, -70.0, -69.0]))
    assert low < -84 < -69 < high
    low, high = frame(means, np.array([-500.0, -80.0, -70.0, 300.0]))
    assert -95 < low < -90 < -60 < high < -55


def test_the_last_term_in_words_is_the_mean_over_runs(folder):
    runs = sorted(folder.glob("ddpm/seed-*/terms.npz"))
    for prior, file in zip((0.001, 0.002, 0.003), runs, strict=True):
        np.savez(file, **(dict(np.load(file)) | {"prior": prior}))
    with pdfplumber.open(terms(read_study(folder))) as pdf:
        assert "0.002" in pdf.pages[0].extract_text()


def test_terms_that_are_next_to_nothing_are_not_drawn():
    np.testing.assert_array_equal(worth_drawing(np.array([0.0, 1e-9, 1e-3, 5.0])) > 0, [0, 0, 1, 1])
