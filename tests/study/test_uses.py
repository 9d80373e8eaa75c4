"""Which settings matter to which models, as judging them shows."""

from dataclasses import asdict, replace

import pytest
import torch
from toys import randomised, tiny_ddpm, tiny_flow, tiny_latent_ddpm, tiny_vae

from triptych.evaluate import judge as judge_module
from triptych.evaluate.evaluation import Drawing, Evaluation
from triptych.evaluate.judge import judge
from triptych.protocols import Score
from triptych.study.recipes import recipes_for
from triptych.study.uses import judged_by

QUICK = Evaluation(
    importance_samples=3,
    importance_images=40,
    elbo_samples=2,
    images=50,
    bound_draws=1,
    sampler="dpm-solver++",
    steps=4,
    eta=1.0,
    ais_images=2,
    ais_steps=2,
    ais_chains=2,
    ais_leapfrog=1,
    ode_images=2,
)
OTHER = {
    "importance_samples": 4,
    "importance_images": 30,
    "elbo_samples": 3,
    "images": 45,
    "ais_images": 3,
    "ais_steps": 3,
    "ais_chains": 3,
    "ais_leapfrog": 2,
    "ode_images": 3,
    "ode_trace": "exact",
    "bound_draws": 2,
    "sampler": "ddim",
    "steps": 3,
    "eta": 0.5,
    "noise_below": 2.0,
    "rho": 3.0,
}  # of guidance, which acts where the model is built, and a flow's temperature are other tests


MODELS = {
    "vae-gaussian": tiny_vae,
    "pixelflow": tiny_flow,
    "ddpm": lambda: tiny_ddpm(T=50),
    "latent-ddpm": lambda: tiny_latent_ddpm(T=50),
}


def quick_ode(chain, x, protocol, g, exact):
    """What it is asked for; the solver itself takes a second an image."""
    return Score("bpd-ode", float(len(x)), "bits/dim", float(exact), protocol)


@pytest.mark.parametrize("name", MODELS)
def test_scores_depend_on_the_settings_said_to_matter_and_on_no_other(name, digits, monkeypatch):
    monkeypatch.setattr(judge_module, "ode_score", quick_ode)
    torch.manual_seed(0)
    model, recipe = randomised(MODELS[name](), 0.02), recipes_for("digits")[name]

    def judged(how):
        found = judge(model, digits, recipe.view, how, 0)
        arrays = {
            (file, key): array.tobytes()
            for file, of_file in found.arrays.items()
            for key, array in of_file.items()
        }
        return [asdict(s) for s in found.scores], arrays

    first, matter = judged(QUICK), judged_by(recipe, QUICK)
    for setting, value in OTHER.items():
        how = replace(QUICK, **{setting: value})
        assert (judged(how) != first) == (setting in matter), setting


def test_settings_of_what_is_left_out_do_not_matter():
    recipes = recipes_for("digits")
    ancestral = replace(QUICK, sampler="ancestral", eta=0.0, ode_images=0)
    assert not {"steps", "eta", "rho", "ode_trace"} & judged_by(recipes["ddpm"], ancestral).keys()
    assert "ais_steps" not in judged_by(recipes["vae-gaussian"], Evaluation())
    assert "tradeoff_images" not in judged_by(recipes["vae-gaussian"], Evaluation())
    assert "tradeoff_images" in judged_by(recipes["vae-grey"], Evaluation())


def test_latent_ddpms_may_be_drawn_from_otherwise_and_they_alone():
    latent, ddpm = (recipes_for("digits")[name] for name in ("latent-ddpm", "ddpm"))
    how = replace(QUICK, guidance=2.0, latent=Drawing("heun", rho=3.0))
    own = {"sampler": "heun", "steps": 50, "eta": 0.0, "rho": 3.0, "guidance": 1.0, "latent": None}
    assert how.of_latents(True) == replace(QUICK, **own)
    assert how.of_latents(False) == replace(how, latent=None)
    assert QUICK.of_latents(True) == QUICK
    assert judged_by(latent, replace(how, steps=9)) == judged_by(latent, how)
    assert judged_by(latent, replace(how, latent=Drawing("heun"))) != judged_by(latent, how)
    assert judged_by(ddpm, replace(how, latent=None)) == judged_by(ddpm, how)
