import json
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from triptych.cli import options
from triptych.errors import UserError
from triptych.evaluate.evaluation import Drawing, Evaluation, SamplerName
from triptych.study.build import build, check_images
from triptych.study.builtin import named_study
from triptych.study.configs import LatentDDPMConfig, Prior, VAEConfig
from triptych.study.describe import describe
from triptych.study.grid import Plan, Study, study_json, with_seeds
from triptych.study.recipes import asked_recipe, from_dict, override, recipes_for, to_dict
from triptych.study.store import pretty
from triptych.study.study_file import from_toml
from triptych.train.files import sealed

GOOD = """
name = "mine"
dataset = "digits"
seeds = [2, 5]
[evaluation]
importance_samples = 7
[[recipe]]
base = "vae-gaussian"
name = "vae-wide"
hidden = [32, 16]
epochs = 3
[[recipe]]
base = "ddpm"
timesteps = 20
"""


def written(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def refused(path):
    with pytest.raises(UserError) as caught:
        from_toml(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def test_a_study_file_is_built_in_recipes_with_settings_of_its_own(tmp_path):
    study = from_toml(written(tmp_path, GOOD))
    assert (study.name, study.dataset, study.seeds) == ("mine", "digits", [2, 5])
    assert study.evaluation.importance_samples == 7
    wide, ddpm = (plan.recipe for plan in study.plans)
    assert (wide.name, wide.model.hidden, wide.train.epochs) == ("vae-wide", (32, 16), 3)
    assert ddpm.model.timesteps == 20
    assert ddpm.train == recipes_for("digits")["ddpm"].train
    assert study.edition == "2024"
    assert from_toml(written(tmp_path, 'edition = "2026"' + GOOD)).edition == "2026"


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ('prior = "flow"', "Flow"),
        ('model = {prior = "flow"}', "Flow"),
        ('prior = "flow"\ntitle = "Gaussian"', "Gaussian"),
        ('prior = "flow"\nname = "mine"', "mine"),
        ("epochs = 2", "Gaussian"),
    ],
)
def test_a_recipe_is_not_called_by_a_prior_that_it_has_not(tmp_path, settings, title):
    study = from_toml(written(tmp_path, BASE + settings))
    assert [plan.recipe.title for plan in study.plans] == [title]


def test_a_number_of_seeds_is_so_many_from_zero(tmp_path):
    study = from_toml(written(tmp_path, 'seeds = 4\n[[recipe]]\nbase = "vae-flow"\n'))
    assert study.seeds == [0, 1, 2, 3]
    assert study.name == "study"


BASE = '[[recipe]]\nbase = "vae-gaussian"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("this is not TOML", "not a TOML file"),
        ("colour = 1\n" + BASE, "colour"),
        ("", "recipe"),
        ("recipe = 3", "recipe"),
        (BASE + "hiden = [3]", "hiden"),
        (BASE + 'epochs = "many"', "epochs"),
        (BASE + "epochs = -1", "epochs"),
        (BASE + "hidden = 3", "vae-gaussian: model.hidden = 3 is wrong: it must be a list"),
        (BASE + 'prior = "uniform"', "prior"),
        ('[[recipe]]\nbase = "gan"', "gan"),
        ("[[recipe]]\nepochs = 3", "base"),
        (BASE + BASE, "vae-gaussian"),
        ('dataset = "cifar 10"\n' + BASE, "cifar"),
        ("seeds = []\n" + BASE, "seeds"),
        ("seeds = [-1]\n" + BASE, "seeds"),
        ('edition = "2025"\n' + BASE, "edition = '2025' is wrong: it must be '2024' or '2026'"),
        ("seeds = 0\n" + BASE, "seeds = 0 cannot be used; choose 1 to 1000, or a list"),
        ("[recipe]\nbase = 'ddpm'", "no [[recipe]]; write one or more, in double brackets"),
        ("[evaluation]\ntradeoff_images = 1\n" + BASE, "tradeoff_images = 1 cannot be judged"),
        (
            BASE + '[[recipe]]\nbase = "vae-grey"\npart = "A"',
            "vae-gaussian has threshold images and vae-grey has dynamic images",
        ),
        (BASE + '[[recipe]]\nbase = "vae-vamp"\nprior = "gaussian"\n', "the title 'Gaussian'"),
        ('seeds = "2"\n' + BASE, "seeds = '2' cannot be used"),
        ("seeds = true\n" + BASE, "seeds = True cannot be used"),
        (BASE + 'latent_dim = "2"', "latent_dim = '2'"),
        (BASE + "epochs = true", "epochs = True is wrong: it must be a number"),
        (
            BASE + 'name = "x"\nposterior = "full"\nprior = "hierarchical"',
            "study.toml: x: posterior = 'full' does not go with",
        ),
        (
            '[[recipe]]\nbase = "latent-ddpm"\nprediction = "eps"',
            "prediction = 'eps' does not go with schedule = 'cosine' in a latent space",
        ),
        (
            '[[recipe]]\nbase = "vdm"\nprediction = "x_0"',
            "prediction = 'x_0' does not go with schedule = 'learned'",
        ),
        (BASE + "epochs = 1979-05-27", "epochs = '1979-05-27'"),
        (BASE + 'name = "lock"', "a recipe's folder cannot be called 'lock'"),
        (BASE + 'name = "figures"', "a recipe's folder cannot be called 'figures'"),
        ('name = "../up"\n' + BASE, "name"),
        ("[evaluation]\nimages = 0\n" + BASE, "images"),
        ("[evaluation]\nsteps = 1\n" + BASE, "steps"),
        (
            "[evaluation]\nimportance_sampels = 10\n" + BASE,
            "no setting evaluation.importance_sampels",
        ),
        (BASE + 'name = "UPPER/../x"', "choose small letters, digits, - and _"),
        ('name = "a/b"\n' + BASE, "choose letters, digits, - and _"),
        (BASE + 'name = ""', "study.toml: vae-gaussian: name = ''"),
        (BASE + "hidden = []", "model.hidden = [] is wrong: it must not be empty"),
        (BASE + 'title = ""', "title = '' is wrong: it must not be empty"),
        (BASE + f'title = "{"x" * 61}"', "it must have 60 letters at most"),
        (BASE + 'title = "  "', "title = '  ' is wrong: it must not be blank"),
        (BASE + 'model = {kind = "x"}', "its kind must be one of 'vae', 'pixelflow'"),
        (
            BASE + '[evaluation]\nsampler = "ancestral"\neta = 0.5',
            "which has no such setting; choose eta = 0, or one of ddim, dpm-solver++",
        ),
    ],
)
def test_every_mistake_in_a_study_file_is_one_sentence_that_names_it(tmp_path, text, named):
    assert named in refused(written(tmp_path, text))


def test_more_pseudo_inputs_than_training_images_are_refused():
    """Their starts would be copies that stay copies."""
    vae = VAEConfig(prior="vamp", pseudo_inputs=50)
    for config in (vae, LatentDDPMConfig(vae=replace(vae, likelihood="gaussian"))):
        check_images(config, 50)
        with pytest.raises(UserError, match="50 pseudo-inputs cannot start from 49 training"):
            check_images(config, 49)


def test_seeds_that_come_twice_are_refused(tmp_path):
    """One run counted as two would halve its error."""
    assert "seeds" in refused(written(tmp_path, "seeds = [1, 1]\n" + BASE))


def test_a_mark_of_the_encoding_is_no_part_of_a_file(tmp_path):
    """Some editors begin a file with it."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f'name = "marked"\n{BASE}'.encode())
    assert named_study(str(path)).name == "marked"


def test_files_that_cannot_be_read_are_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.toml")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    assert "not a TOML file" in refused(tmp_path / "binary.toml")


def test_another_data_set_has_its_own_recipes(tmp_path):
    """A file says the digits where it says nothing."""
    path = written(tmp_path, BASE)
    digits, mnist = (named_study(str(path), dataset=d).plans[0].recipe for d in (None, "mnist"))
    base = digits.name
    assert digits.model == recipes_for("digits")[base].model
    assert mnist.model == recipes_for("mnist")[base].model
    assert mnist.train.epochs == recipes_for("mnist")[base].train.epochs


@pytest.mark.parametrize("name", ["demmo", "brief-2023", "", "study.yaml"])
def test_studies_that_do_not_exist_are_refused(name):
    with pytest.raises(UserError, match=r"demo, brief-2024, brief-2026, priors, a \.toml"):
        named_study(name, "cpu", None)


def test_a_folder_is_no_study(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; name the study.*--out"):
        named_study(str(tmp_path), "cpu", None)


def test_a_number_of_seeds_may_be_asked_for():
    asked = named_study("brief-2024", "cpu", None)
    assert with_seeds(asked, None) == asked
    for n in (1, 2, 1000):
        assert {plan.seeds for plan in with_seeds(asked, n).plans} == {tuple(range(n))}
    named = Study("named", "digits", (Plan(asked.plans[0].recipe, (5, 0, 7)),), Evaluation())
    for n, seeds in ((1, (5,)), (3, (5, 0, 7)), (5, (5, 0, 7, 1, 2))):
        assert with_seeds(named, n).plans[0].seeds == seeds, "the folder goes on with its own"
    for n in (0, -1, 1001):
        with pytest.raises(UserError, match=f"--seeds {n} cannot be run; choose one of 1 to 1000"):
            with_seeds(asked, n)


def test_the_brief_has_three_priors_with_three_seeds_and_all_three_models():
    study = named_study("brief-2024", "cpu", None)
    assert study.dataset == "mnist"
    priors = [p for p in study.plans if p.recipe.part == "A"]
    assert [p.recipe.model.prior for p in priors] == ["gaussian", "mixture", "flow"]
    assert {p.recipe.model.kind for p in study.plans if p.recipe.part == "B"} == {
        "vae",
        "pixelflow",
        "ddpm",
    }
    views = {p.recipe.view for p in priors}
    assert len(views) == 1


@pytest.mark.parametrize("name", ["brief-2024", "brief-2026"])
@pytest.mark.parametrize(("preset", "part_a", "part_b"), [("cpu", 3, 1), ("gpu", 5, 2)])
def test_a_preset_has_its_seeds(name, preset, part_a, part_b):
    for plan in named_study(name, preset, "mnist").plans:
        assert plan.seeds == tuple(range(part_a if plan.recipe.part == "A" else part_b))


def test_all_priors_are_compared_over_five_seeds():
    for preset, images in (("cpu", 1000), ("gpu", 10_000)):
        study = named_study("priors", preset, "mnist")
        assert {plan.recipe.model.prior for plan in study.plans} == set(get_args(Prior))
        assert {plan.seeds for plan in study.plans} == {(0, 1, 2, 3, 4)}
        how = study.evaluation
        assert (how.importance_samples, how.importance_images) == (5000, images)


def test_latents_are_drawn_in_their_own_way_where_images_have_noise_in_some_steps_alone():
    cpu, gpu = (named_study("brief-2026", p, "mnist").evaluation for p in ("cpu", "gpu"))
    assert (cpu.noise_below, cpu.rho) == (6.0, 7.0)
    assert cpu.latent == Drawing("dpm-solver++", steps=20, eta=1.0, guidance=2.0)
    assert (gpu.noise_below, gpu.rho, gpu.latent) == (None, None, None)


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_the_2026_brief_shares_its_priors_and_has_latent_ddpms_of_several_beta(preset):
    study, before = (named_study(n, preset, "digits") for n in ("brief-2026", "brief-2024"))
    part_a = [p for p in study.plans if p.recipe.part == "A"]
    assert part_a == [p for p in before.plans if p.recipe.part == "A"]
    latents = [p.recipe for p in study.plans if p.recipe.model.kind == "latent"]
    assert [r.model.vae.beta for r in latents] == [1e-6, 1e-3, 1.0]
    assert all(r.model.vae.likelihood == "gaussian" for r in latents)
    assert {p.recipe.model.kind for p in study.plans} == {"vae", "ddpm", "latent"}
    assert all(r.train.early for r in latents), "the study guides every chain"
    plain = study_json(study, (1, 8, 8), 17)
    assert plain["edition"] == "2026"
    first, second = plain["recipes"][4:6]
    assert first["parameters"] == second["parameters"]
    assert first["latent_dim"] == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hiden", 3),
        ("timesteps", 10),
        ("epochs", 0),
        ("latent_dim", 1),
        ("kind", "ddpm"),
        ("name", 16),
    ],
)
def test_wrong_settings_are_refused_with_what_there_is(key, value):
    with pytest.raises(UserError, match=key):
        override(recipes_for("digits")["vae-gaussian"], **{key: value})


def test_settings_are_found_wherever_they_live():
    recipe = override(
        recipes_for("digits")["vae-mixture"], name="x", view="dynamic", components=9, lr=0.1
    )
    assert (recipe.name, recipe.view) == ("x", "dynamic")
    assert (recipe.model.components, recipe.train.lr) == (9, 0.1)
    latent = override(recipes_for("digits")["latent-ddpm"], beta=0.5, epochs=3, latent_dim=4)
    assert (latent.model.vae.beta, latent.model.vae.latent_dim, latent.train.epochs) == (0.5, 4, 3)
    assert latent.model.vae_train == recipes_for("digits")["latent-ddpm"].model.vae_train


def test_of_a_table_only_what_is_given_is_replaced():
    known = recipes_for("digits")["latent-ddpm"]
    latent = override(known, vae={"latent_dim": 4}, vae_train={"epochs": 1.0})
    assert latent.model.vae == replace(known.model.vae, latent_dim=4)
    assert latent.model.vae_train == replace(known.model.vae_train, epochs=1.0)


def test_a_recipe_with_a_name_of_its_own_has_a_title_of_its_own(tmp_path):
    """Rows and curves are found by it."""
    rows = ('base = "ddpm"', 'base = "ddpm"\nname = "ddpm-linear"\nschedule = "linear"')
    text = "".join(f"[[recipe]]\n{row}\n" for row in rows)
    titles = [plan.recipe.title for plan in from_toml(written(tmp_path, text)).plans]
    assert titles == ["DDPM", "ddpm-linear"]
    alike = written(tmp_path, text + 'title = "DDPM"\n')
    assert "two recipes with the title 'DDPM'" in refused(alike)


@pytest.mark.parametrize(
    ("table", "known"),
    [
        ("[evaluation]\nimportance_sample = 10", "it has sampler, steps, eta"),
        (
            "[evaluation.latent]\nstep = 10",
            "it has sampler, steps, eta, noise_below, rho, guidance",
        ),
    ],
)
def test_a_setting_that_is_not_there_is_told_those_of_its_table(table, known, tmp_path):
    said = refused(written(tmp_path, f'[[recipe]]\nbase = "ddpm"\n{table}\n'))
    assert "there is no setting evaluation." in said
    assert known in said


def test_a_setting_is_named_as_it_is_written_not_by_the_kind_of_its_model():
    with pytest.raises(UserError, match=r"setting model\.vae_train\.epoch; it has epochs, batch"):
        asked_recipe("latent-ddpm", "digits", {"vae_train": {"epoch": 5}})
    with pytest.raises(UserError, match=r"model\.vae_train\.epochs = 'few' is wrong"):
        asked_recipe("latent-ddpm", "digits", {"vae_train": {"epochs": "few"}})


@pytest.mark.parametrize("settings", [{"vae": {"latent_dim": 2}, "beta": 0.5, "lr": 0.1}, None])
def test_settings_beside_a_table_of_others_are_not_lost(settings):
    found = asked_recipe("latent-ddpm", "digits", settings or {"beta": 0.5, "lr": 0.1})
    assert found.model.vae.beta == 0.5
    assert found.train.lr == 0.1
    assert (found.model.vae.latent_dim == 2) == bool(settings)
    both = {"train": {"lr": 0.1}, "epochs": 3.0, "model": {"vae": {"latent_dim": 3}}, "beta": 2.0}
    found = asked_recipe("latent-ddpm", "digits", both)
    assert (found.train.lr, found.train.epochs) == (0.1, 3.0)
    assert (found.model.vae.latent_dim, found.model.vae.beta) == (3, 2.0)


def test_a_setting_is_given_by_itself_or_in_its_table():
    with pytest.raises(UserError, match="latent_dim is given by itself and in vae; leave one"):
        asked_recipe("latent-ddpm", "digits", {"vae": {"latent_dim": 2}, "latent_dim": 3})
    found = asked_recipe("latent-ddpm", "digits", {"vae_train": {"epochs": 5.0}, "epochs": 3.0})
    assert (found.model.vae_train.epochs, found.train.epochs) == (5.0, 3.0)


def test_recipes_are_plain_data_and_back():
    for dataset in ("digits", "mnist"):
        for name, recipe in recipes_for(dataset).items():
            plain = json.loads(json.dumps(to_dict(recipe)))
            assert from_dict(plain) == recipe
            assert recipe.name == name


def test_a_vae_is_named_by_its_prior():
    assert asked_recipe("vae", "digits", {"prior": "flow"}).name == "vae-flow"
    assert asked_recipe("vae", "digits", {}).name == "vae-gaussian"
    with pytest.raises(UserError, match="there is no recipe 'gan'"):
        asked_recipe("gan", "digits", {})


@pytest.mark.parametrize(("dataset", "shape"), [("digits", (1, 8, 8)), ("mnist", (1, 28, 28))])
def test_every_recipe_can_be_built_and_described_for_its_images(dataset, shape):
    for recipe in recipes_for(dataset).values():
        model = build(recipe.model, shape, 17)
        assert sum(p.numel() for p in model.parameters()) > 1000
        assert describe(recipe, shape).endswith(".")


def test_study_json_holds_the_request_resolved():
    plain = study_json(named_study("demo"), (1, 8, 8), 17)
    json.dumps(plain)
    assert plain["schema"] == 1
    assert plain["levels"] == 17
    assert len(plain["recipes"]) == 6
    for row in plain["recipes"]:
        assert row["parameters"] > 0
        assert len(row["seeds"]) >= 2


def recorded(tmp_path, study, **changed):
    """Its study.json, as a run of it leaves it."""
    shape, levels = ((1, 8, 8), 17) if study.dataset == "digits" else ((1, 28, 28), 256)
    path = tmp_path / "study.json"
    path.write_text(pretty(sealed(study_json(study, shape, levels) | changed)))
    return str(path)


@pytest.mark.parametrize("name", ["demo", "brief-2024", "brief-2026", "priors", "own"])
def test_a_study_can_be_run_from_its_study_json(name, tmp_path):
    """Settings of one's own, seeds and judging included."""
    path = str(written(tmp_path, GOOD)) if name == "own" else name
    study = named_study(path)
    assert named_study(recorded(tmp_path, study)) == study


def test_a_study_json_is_of_its_data_set_or_another(tmp_path):
    path = recorded(tmp_path, named_study("brief-2024"))
    other = named_study(path, dataset="fashion")
    assert other == replace(named_study(path), dataset="fashion")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipes": None}, "is no study.json; name the one"),
        ({"recipes": []}, "is no study.json"),
        ({"recipes": ["ddpm"]}, "is no study.json"),
        ({"schema": 2}, "install a later one"),
        ({"name": "../up"}, "name = '../up' is wrong"),
        ({"edition": "2025"}, "edition = '2025' is wrong"),
        ({"evaluation": {"steps": 0}}, "steps = 0 is wrong"),
        ({"recipes": [to_dict(recipes_for("digits")["ddpm"])]}, "seeds = None"),
        ({"recipes": [to_dict(recipes_for("digits")["ddpm"]) | {"seeds": [1, 1]}]}, "twice"),
        ({"recipes": [{"seeds": [1], "name": "a"}]}, "title"),
    ],
)
def test_a_study_json_that_is_none_is_refused(changed, said, tmp_path):
    path = recorded(tmp_path, from_toml(written(tmp_path, GOOD)), **changed)
    with pytest.raises(UserError) as caught:
        named_study(path)
    assert said in str(caught.value)
    assert path in str(caught.value)
    with pytest.raises(UserError, match="--preset gpu has no effect"):
        named_study(path, "gpu")
    with pytest.raises(UserError, match="does not exist; name a study file"):
        named_study(str(tmp_path / "other.json"))


def test_a_json_of_something_else_and_other_images_are_refused(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="is no study"):
        named_study(str(tmp_path / "list.json"))
    path = recorded(tmp_path, named_study("demo"))
    with pytest.raises(UserError, match="no data set"):
        named_study(path, dataset="no/set")


def test_a_vdm_is_a_family_of_its_own():
    """It stands in a table with a DDPM, whose network it has."""
    plans = tuple(Plan(recipes_for("digits")[name], (0,)) for name in ("ddpm", "vdm", "vae-flow"))
    rows = study_json(Study("three", "digits", plans), (1, 8, 8), 17)["recipes"]
    assert [row["family"] for row in rows] == ["ddpm", "vdm", "vae"]


@pytest.mark.parametrize("network", ["mlp", "gated", "residual"])
@pytest.mark.parametrize("prior", ["flow", "hierarchical-vamp"])
def test_every_network_carries_every_prior(network, prior):
    recipe = override(recipes_for("digits")[f"vae-{prior}"], network=network)
    model = build(recipe.model, (1, 8, 8), 17)
    eps = torch.randn(3, 2, model.posterior.latent_dim)
    assert model.log_weight(torch.rand(2, 1, 8, 8), eps).shape == (3, 2)
    word = {"mlp": "MLP", "gated": "Gated", "residual": "Residual"}[network]
    assert word in describe(recipe, (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ddpm", {"widths": [8, 8, 8, 8]}),
        ("pixelflow", {"scales": 5}),
        ("vae-flow", {"network": "residual", "channels": [8, 8, 8, 8]}),
    ],
)
def test_networks_deeper_than_the_images_are_refused_in_a_sentence(name, setting):
    recipe = override(recipes_for("digits")[name], **setting)
    with pytest.raises(UserError, match="does not fit the images: 8x8 images cannot be"):
        build(recipe.model, (1, 8, 8), 17)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "affine coupling with a 3x3-1x1-3x3 convolutional net of 64 channels"),
        ({"coupling": "spline"}, "rational-quadratic spline coupling of 8 bins"),
        ({"blocks": 2}, "2-block residual convolutional net"),
        ({"network": "patch"}, "a 5x5-1x1-1x1-1x1 convolutional net of 64 channels"),
        ({"autoregressive_layers": 1}, "behind 1 autoregressive layer (affine maps, 9x9 windows"),
        (
            {"autoregressive_layers": 2, "coupling": "spline"},
            "2 autoregressive layers (splines of 8",
        ),
        ({"network": "mlp", "coupling": "spline"}, "4 rational-quadratic spline couplings of 8"),
        ({"dequantization": "variational"}, "variationally dequantized (4 conditional couplings"),
    ],
)
def test_every_kind_of_pixel_flow_is_described(settings, said):
    recipe = override(recipes_for("digits")["pixelflow"], **settings)
    assert said in describe(recipe, (1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"network": "mlp", "steps": 1}, "steps = 1"),
        ({"coupling": "cubic"}, "coupling = 'cubic'"),
        ({"bins": 1}, "bins = 1"),
        ({"low": 1e-8}, "low = 1e-08"),
        ({"blocks": -1}, "blocks = -1"),
        ({"dequantization": "none"}, "dequantization = 'none'"),
        ({"dequantization_steps": 1}, "dequantization_steps = 1"),
        ({"blocks": 1, "width": 12}, "multiple of 8, not 12"),
        ({"autoregressive_layers": 1, "window": 8}, "window = 8 has no centre"),
    ],
)
def test_pixel_flows_that_cannot_be_are_refused(settings, named):
    with pytest.raises(UserError, match=named):
        build(override(recipes_for("digits")["pixelflow"], **settings).model, (1, 8, 8), 17)


@pytest.mark.parametrize(
    ("base", "row", "said"),
    [
        ("pixelflow", 'blocks = 2\nnetwork = "patch"', "blocks = 2 .* 'patch'; .* = 'conv'$"),
        ("pixelflow", "bins = 4", "bins = 4 has no effect with coupling = 'affine'; leave it out"),
        ("pixelflow", "window = 5", "with autoregressive_layers = 0; .* = 1 to 8$"),
        ("pixelflow-mlp", "scales = 3", "with network = 'mlp'; .* network = 'conv' or 'patch'$"),
        ("vae-flow", "components = 20", "with prior = 'flow'; .*choose prior = 'mixture'$"),
        (
            "vae-gaussian",
            "coupling_hidden = [8]",
            r"= \[8\] has no effect with prior = 'gaussian' and posterior = 'gaussian'; .*, or p",
        ),
        (
            "latent-ddpm",
            "logistics = 3",
            "logistics = 3 has no effect with likelihood = 'gaussian'",
        ),
        ("latent-ddpm", "vae = { context = 3 }", "context = 3 has no effect with posterior ="),
        (
            "vae-gaussian",
            'posterior = "iaf"\ncoupling_hidden = [8, 1]',
            r"= \[8, 1\] with posterior = 'iaf' has no use: .* choose two or more",
        ),
    ],
)
def test_settings_that_would_change_nothing_are_refused(base, row, said, tmp_path):
    path = tmp_path / "useless.toml"
    path.write_text(f'[[recipe]]\nbase = "{base}"\n{row}\n')
    with pytest.raises(UserError, match=said):
        named_study(str(path))
    with pytest.raises(UserError, match=said):
        asked_recipe(base, "digits", tomllib.loads(row))


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("vae-gaussian", {"posterior": "iaf", "coupling_hidden": [8], "context": 3}),
        ("vae-hierarchical", {"network": "residual", "channels": [8], "hidden": [8]}),
        ("pixelflow-spline", {"bins": 4, "window": 5, "dequantization_width": 8}),
        ("latent-ddpm", {"blocks": 2, "sigma": 0.1}),
    ],
)
def test_settings_that_change_something_are_not(base, settings):
    plain, asked = (to_dict(asked_recipe(base, "digits", given)) for given in ({}, settings))
    assert plain != asked


@pytest.mark.parametrize(("base", "allowed"), [("pixelflow", True), ("vae-flow", False)])
def test_a_temperature_is_for_studies_of_pixel_flows_alone(base, allowed, tmp_path):
    path = tmp_path / "cold.toml"
    path.write_text(
        f'[evaluation]\ntemperature = 0.7\n[[recipe]]\nbase = "pixelflow-mlp"\n'
        f'[[recipe]]\nbase = "{base}"\n'
    )
    if allowed:
        assert named_study(str(path)).evaluation.temperature == 0.7
        return
    with pytest.raises(UserError, match=r"temperature = 0\.7 .*vae-flow is none; choose 1"):
        named_study(str(path))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['"ddpm"\npart = "A"'], "part = 'A' is of VAEs, and ddpm is none; choose part = 'B'"),
        (
            [
                '"vae-logistic"\npart = "A"',
                '"vae-logistic"\npart = "A"\nname = "dense"\nlikelihood = "gaussian"',
            ],
            "vae-logistic has probabilities of integers and dense has densities of grey values",
        ),
    ],
)
def test_bounds_that_no_table_can_hold_are_refused_before_they_are_trained(rows, said, tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text("\n".join(f"[[recipe]]\nbase = {row}" for row in rows))
    with pytest.raises(UserError, match=said):
        named_study(str(path))


def test_the_command_line_knows_every_choice():
    assert get_args(options.PriorName) == get_args(Prior)
    assert get_args(options.SamplerName) == get_args(SamplerName)
    for setting in ("posterior", "objective", "network"):
        known = getattr(options, f"{setting.capitalize()}Name")
        assert get_args(known) == get_args(VAEConfig.__annotations__[setting])


def test_the_study_that_the_documentation_shows_can_be_run(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    (shown,) = re.findall(r"```toml\n(name = .*?)```", text, re.DOTALL)
    path = tmp_path / "wide.toml"
    path.write_text(shown)
    assert named_study(str(path)).name == "wide"
    settings = set(re.findall(r"^(?:# )?(\w+) +=|^\[evaluation\.(\w+)\]", shown, re.MULTILINE))
    settings = {name for pair in settings for name in pair}
    assert {f.name for f in fields(Evaluation)} <= settings


@pytest.mark.parametrize("likelihood", ["continuous-bernoulli", "gaussian", "logistic"])
@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_grey_likelihoods_carry_a_vamp_prior(likelihood, network):
    """Encoder and pseudo-inputs are on the scale of the integers; every network fits."""
    recipe = override(
        recipes_for("digits")["vae-logistic"],
        prior="vamp",
        pseudo_inputs=100,
        likelihood=likelihood,
        network=network,
    )
    model, x = build(recipe.model, (1, 8, 8), 17), torch.full((100, 1, 8, 8), 16.0)
    model.prior.prepare(x, torch.empty(0))
    u = model.prior.components()
    torch.testing.assert_close(u.mu[0], model.posterior.encode(0.99 * x[:1]).mu[0])
    assert model.log_weight(x[:2], torch.randn(3, 2, 8)).shape == (3, 2)


@pytest.mark.parametrize("network", ["mlp", "gated", "residual"])
def test_every_network_carries_pixels_that_see_their_neighbours(network):
    settings = {"likelihood": "autoregressive", "features": 3, "window": 5, "network": network}
    recipe = override(recipes_for("digits")["vae-vamp"], **settings)
    model = build(recipe.model, (1, 8, 8), 17)
    assert model.log_weight(torch.rand(2, 1, 8, 8).round(), torch.randn(3, 2, 2)).shape == (3, 2)
    assert "likelihood of 3 features a pixel and a 5x5 window" in describe(recipe, (1, 8, 8))


def test_what_a_recipe_says_is_said_only_where_it_is_so():
    shape, known = (1, 8, 8), recipes_for("digits")
    means = "Bernoulli likelihood of pixels binarized at random (means shown)"
    grey, drawn = known["vae-grey"], override(known["vae-grey"], mean_samples=False)
    assert means in describe(grey, shape)
    assert means not in describe(drawn, shape)
    assert "dropout 0.1, attention" in describe(override(known["ddpm"], dropout=0.1), shape)
    assert "dropout" not in describe(known["ddpm"], shape)


def test_the_report_says_whose_images_were_distorted():
    shape, said = (1, 8, 8), "images distorted at random ({}% at first, none at the end)"
    known = recipes_for("digits")
    vae, ddpm = (override(known[name], bent=0.004) for name in ("vae-flow", "ddpm"))
    assert f"M = 2, {said.format('0.4')}, and a flow prior" in describe(vae, shape)
    assert describe(ddpm, shape).endswith(f"v-prediction, {said.format('0.4')}.")
    assert "distorted" not in describe(known["vae-flow"], shape)
    both = override(known["latent-ddpm"], bent=0.5, vae_train={"bent": 1.0})
    first, _, chain = describe(both, shape).partition("; then a residual MLP")
    assert said.format("100") in first
    assert said.format("50") in chain


@pytest.mark.parametrize(("sigma", "said"), [(None, "a learned variance"), (0.25, "sigma = 0.25")])
def test_a_gaussian_likelihoods_variance_is_learned_or_given(sigma, said):
    recipe = override(recipes_for("digits")["latent-ddpm"], sigma=sigma)
    likelihood = build(recipe.model.vae, (1, 8, 8), 17).likelihood
    trained = [name for name, _ in likelihood.named_parameters()]
    assert ("log_sigma" in trained) == (sigma is None)
    assert likelihood.log_sigma.exp().item() == pytest.approx(sigma or 0.1)
    mu = likelihood.net(100 * torch.randn(50, recipe.model.vae.latent_dim))
    assert 0 <= mu.min() < mu.max() <= 1  # no haze where images are black
    assert f"Gaussian likelihood with {said}" in describe(recipe, (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("vae-flow", {"window": 4}, "window = 4 .* choose an odd number, 5 for one"),
        ("vae-flow", {"window": 1}, "window = 1"),
        ("vae-grey", {}, "mean_samples = True .* choose mean_samples = False"),
        ("vae-flow", {"view": "raw"}, "threshold or dynamic"),
        ("latent-ddpm", {"view": "threshold"}, "a latent DDPM shows means .* another likelihood"),
    ],
)
def test_pixels_that_cannot_see_their_neighbours_are_refused(name, setting, said):
    with pytest.raises(UserError, match=said):
        override(recipes_for("digits")[name], likelihood="autoregressive", **setting)


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_a_recipe_says_how_a_ddpms_times_are_weighted(gamma):
    recipe = override(recipes_for("digits")["ddpm"], min_snr=gamma)
    weight = build(recipe.model, (1, 8, 8), 17).loss_weight
    assert (weight == 1).all() == (gamma is None)
    with pytest.raises(UserError, match="greater than 0"):
        override(recipes_for("digits")["ddpm"], min_snr=0.0)


@pytest.mark.parametrize(
    ("name", "setting", "allowed"),
    [
        ("vae-flow", {"view": "raw"}, "threshold or dynamic"),
        ("vae-flow", {"likelihood": "gaussian"}, "set view = raw, or"),
        ("ddpm", {"view": "dynamic"}, "set view = raw, or"),
    ],
)
def test_a_view_that_does_not_suit_the_likelihood_is_refused(name, setting, allowed):
    with pytest.raises(UserError, match=allowed):
        override(recipes_for("digits")[name], **setting)
