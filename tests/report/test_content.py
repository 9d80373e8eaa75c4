"""Captions say of the figures what the arrays that they are drawn from have."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import OF_2026, Synthetic, edit, write_study

from triptych.errors import UserError
from triptych.report.content import _posterior_caption, _samples_caption
from triptych.report.load import read_study
from triptych.report.runs import read_latent
from triptych.report.sampling_table import says_how

PLANE = ", in q(z)'s first two principal components"


def said(spans) -> str:
    return "".join(s if isinstance(s, str) else s.get("strong", "") for s in spans)


def change(path, **arrays) -> None:
    with np.load(path) as file:
        known = dict(file)
    np.savez(path, **known | arrays)


def test_axes_of_the_latent_space_itself_are_not_spoken_of(folder):
    assert said(_posterior_caption(read_study(folder))) == (
        "Prior and aggregate posterior on one scale (seed 0). Dots: q(z) by class; dashed: 50, 80, "
        "95% of q(z); grey: the prior's."
    )


def test_projections_are_named_and_the_draws_that_they_show(tmp_path):
    folder = write_study(tmp_path / "s", Synthetic(latent_dim=32))
    text = said(_posterior_caption(read_study(folder)))
    assert f"(seed 0){PLANE}. Dots" in text
    assert text.endswith("grey: the prior's; rings: its draws.")
    # One prior of M = 2 among them stands on its own axes.
    change(folder / "vae-flow/seed-0/latent.npz", components=np.array("latent"))
    text = said(_posterior_caption(read_study(folder)))
    assert f"(seed 0){PLANE} where M > 2. Dots" in text
    assert "rings" in text


def test_images_without_labels_have_no_classes(folder):
    for path in folder.glob("*/seed-0/latent.npz"):
        change(path, labels=np.zeros(2000, int))
    assert "Dots: q(z); dashed" in said(_posterior_caption(read_study(folder)))
    some = folder / "vae-flow/seed-0/latent.npz"
    change(some, labels=np.arange(2000) % 2)
    assert "Dots: q(z) by class; dashed" in said(_posterior_caption(read_study(folder)))


def test_every_seed_that_is_shown_is_named(folder):
    (folder / "vae-flow/seed-0/latent.npz").unlink()
    assert "(seeds 0 and 1)" in said(_posterior_caption(read_study(folder)))


def test_a_model_that_has_scores_but_no_picture_is_named(folder):
    for path in (*folder.glob("ddpm/*/samples.npz"), *folder.glob("vae-flow/*/latent.npz")):
        path.unlink()
    study = read_study(folder)
    lack = "Not shown:"
    assert said(_samples_caption(study, None)).endswith(f"none picked. {lack} the DDPM.")
    assert said(_posterior_caption(study)).endswith(f"the prior's. {lack} the flow prior.")
    unscored = [score for score in study.scores if score.model != "ddpm"]
    assert lack not in said(_samples_caption(replace(study, scores=unscored), None))


def test_a_panel_of_another_seed_is_said_to_be(tmp_path):
    folder = write_study(tmp_path / "s", Synthetic(pixel=dict(OF_2026), edition="2026"))
    assert "Last panel (own scale): grey" in said(_posterior_caption(read_study(folder)))
    (folder / "latent-small/seed-0/latent.npz").unlink()
    assert "Last panel (own scale, seed 1): grey" in said(_posterior_caption(read_study(folder)))


@pytest.mark.parametrize(("latent_dim", "axes"), [(2, "own scale"), (8, "own axes")])
def test_a_chain_has_the_last_panel(tmp_path, latent_dim, axes):
    ask = Synthetic(pixel=dict(OF_2026), edition="2026", latent_dim=latent_dim)
    text = said(_posterior_caption(read_study(write_study(tmp_path / "s", ask))))
    assert text.endswith(f". Last panel ({axes}): grey, its VAE's prior; lines, its chain.")
    ask.priors = {}
    text = said(_posterior_caption(read_study(write_study(tmp_path / "t", ask))))
    assert "posterior of Latent (beta = 1e-6) (seed 0)" in text
    assert (PLANE in text) == (latent_dim > 2)
    assert text.endswith("grey: 50, 80, 95% of its VAE's prior; lines: of the chain.")


@pytest.mark.parametrize(
    ("name", "shape"), [("prior", (50, 3)), ("posterior", ()), ("grid_x", (1, 120))]
)
def test_arrays_that_do_not_belong_together_are_refused(folder, name, shape):
    change(folder / "vae-flow/seed-0/latent.npz", **{name: np.zeros(shape)})
    study = read_study(folder)
    recipe = next(r for r in study.recipes if r.name == "vae-flow")
    with pytest.raises(UserError, match=f"holds {name} of type float64 and shape"):
        read_latent(study, recipe)


def test_draws_of_a_chain_are_read_where_there_are_some(tmp_path):
    ask = Synthetic(pixel=dict(OF_2026), edition="2026")
    study = read_study(write_study(tmp_path / "s", ask))
    recipe = next(r for r in study.part("B") if r.family == "latent")
    path = study.folder / recipe.name / "seed-0/latent.npz"
    with np.load(path) as file:
        arrays = dict(file)
    assert np.array_equal(read_latent(study, recipe).chain_draws, arrays.pop("chain_draws"))
    np.savez(path, **arrays)
    assert read_latent(study, recipe).chain_draws is None


def test_a_table_that_does_not_say_how_samples_are_drawn_is_not_named_for_it(folder):
    study = read_study(folder)
    assert says_how(study)
    bare = [replace(s, protocol={"n": 100}) if s.metric == "fid" else s for s in study.scores]
    assert not says_how(replace(study, scores=bare))


def test_samples_are_the_first_and_of_one_noise_where_latents_are_compared(tmp_path, folder):
    assert said(_samples_caption(read_study(folder), 2)) == (
        "Samples: first four of each model's first run (seed 0), none picked, drawn as Table 2 "
        "says."
    )
    ask = Synthetic(pixel=dict(OF_2026), edition="2026")
    text = said(_samples_caption(read_study(write_study(tmp_path / "s", ask)), None))
    assert text.endswith("none picked; latent DDPMs: same noise.")
    edit(tmp_path / "s/study.json", lambda c: c["recipes"][-2].update(latent_dim=3))
    assert "same noise" not in said(_samples_caption(read_study(tmp_path / "s"), None))
