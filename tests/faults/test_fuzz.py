"""Whatever is asked for runs or is refused in one sentence. TRIPTYCH_FUZZ=2000 asks for so much."""

import dataclasses
import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from triptych.cli import main
from triptych.data import view
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.build import build
from triptych.study.configs import DDPMConfig, LatentDDPMConfig, PixelFlowConfig, VAEConfig
from triptych.study.grid import Study
from triptych.study.recipes import asked_recipe, digits_recipes, override
from triptych.study.study_file import from_toml
from triptych.train.batches import TrainingData
from triptych.train.failure import Failure
from triptych.train.fit import fit
from triptych.train.order import TrainConfig

TIMES = int(os.environ.get("TRIPTYCH_FUZZ", "150"))
CONFIGS = (VAEConfig, PixelFlowConfig, DDPMConfig, LatentDDPMConfig, TrainConfig, Evaluation)
NAMES = sorted({f.name for config in CONFIGS for f in dataclasses.fields(config)})
RECIPES = {r.name: r for r in digits_recipes()}
WORDS = sorted(
    {"gaussian", "vamp", "flow", "iaf", "full", "coupling", "elbo", "iwae", "mlp", "residual"}
    | {"gated", "logistic", "bernoulli", "raw", "threshold", "cosine", "eps", "learned", "ddim"}
)
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([8, 16, 64, 2**31, 2**63, -(2**63), 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 0.25, 1.0, 1e-9, 1e300]),
)
SCALARS = st.one_of(NUMBERS, st.booleans(), st.sampled_from(WORDS), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(NAMES) | st.sampled_from(["base", "name", "title", "kind"]) | st.text()


def fuzz(times):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=times,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=quiet,
    )


def sentence(error):
    said = str(error)
    assert said
    assert "\n" not in said
    assert len(said) < 1500


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(k)} = {toml(v)}' for k, v in value.items())}}}"
    return repr(value)


def table(head, rows):
    return "\n".join([head, *(f"{toml(k)} = {toml(v)}" for k, v in rows.items())]) + "\n"


@fuzz(TIMES)
@given(
    st.dictionaries(st.sampled_from(["name", "dataset", "seeds", "seed"]), VALUES, max_size=2),
    st.sampled_from([*RECIPES, "vae", ""]),
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=2),
)
@example({}, "", {"base": []}, {})
@example({}, "ddpm", {}, {"\n": 1})
def test_a_study_file(tmp_path, top, base, recipe, evaluation):
    path = tmp_path / "study.toml"
    text = table("", top) + table("[[recipe]]", {"base": base} | recipe)
    path.write_text(text + (table("[evaluation]", evaluation) if evaluation else ""))
    try:
        study = from_toml(path)
    except UserError as error:
        sentence(error)
    else:
        assert isinstance(study, Study)
        for plan in study.plans:
            assert plan.recipe == override(plan.recipe)


@fuzz(TIMES)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_text_that_is_no_study(tmp_path, text):
    (tmp_path / "study.toml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError) as caught:
        from_toml(tmp_path / "study.toml")
    sentence(caught.value)


@fuzz(TIMES)
@given(st.sampled_from(["vae", *RECIPES, "x"]), st.dictionaries(KEYS, VALUES, max_size=4))
def test_settings_of_a_training(name, asked):
    try:
        asked_recipe(name, "digits", asked)
    except UserError as error:
        sentence(error)


SMALL = {
    "latent_dim": st.integers(1, 9),
    "hidden": st.lists(st.integers(0, 9), max_size=2),
    "channels": st.lists(st.sampled_from([0, 8, 16]), max_size=4),
    "widths": st.lists(st.sampled_from([7, 8, 16]), max_size=4),
    "prior": st.sampled_from([*WORDS, "resampled", "maf", "spline", "hierarchical", "mixture"]),
    "posterior": st.sampled_from(["gaussian", "full", "coupling", "iaf"]),
    "likelihood": st.sampled_from(
        ["bernoulli", "autoregressive", "continuous-bernoulli", "gaussian", "logistic"]
    ),
    "view": st.sampled_from(["threshold", "dynamic", "raw"]),
    "network": st.sampled_from(["mlp", "gated", "residual"]),
    "objective": st.sampled_from(["elbo", "iwae"]),
    "schedule": st.sampled_from(["cosine", "linear", "learned"]),
    "coupling": st.sampled_from(["affine", "spline"]),
    "dequantization": st.sampled_from(["uniform", "variational"]),
    "dropout": st.sampled_from([0.0, 0.5, 0.999]),
    "variance": st.sampled_from(["small", "large", "learned"]),
    "prediction": st.sampled_from(["v", "eps"]),
    "coupling_hidden": st.lists(st.integers(1, 9), max_size=2),
    "epochs": st.sampled_from([1e-6, 0.01, 0.5, 1.0]),
    "lr": st.sampled_from([1e-30, 1e-3, 10.0]),
    "clip": st.sampled_from([1e-30, 1.0, 1e30]),
    "window": st.integers(1, 12),
    "sigma": st.sampled_from([None, 1e-3, 0.5, 10.0]),
    "bent": st.sampled_from([0.0, 0.5, 1.0]),
    "early": st.sampled_from([1e-9, 0.5, 0.999]),
    "min_snr": st.sampled_from([1e-9, 5.0]),
    "beta": st.sampled_from([0.0, 1.0, 1000.0]),
    **dict.fromkeys(("weight_decay", "warmup", "ema", "kl_warmup", "low"), st.floats(0, 1)),
    **dict.fromkeys(("doubly", "bf16"), st.booleans()),
    **dict.fromkeys(
        ("couplings", "posterior_layers", "scales", "steps", "blocks"), st.integers(0, 4)
    ),
    **dict.fromkeys(
        ("bins", "components", "pseudo_inputs", "logistics", "features"), st.integers(0, 50)
    ),
    **dict.fromkeys(("iwae_samples", "context", "truncation", "batch_size"), st.integers(0, 50)),
    **dict.fromkeys(("width", "timesteps", "dequantization_width"), st.integers(0, 20)),
    "dequantization_steps": st.integers(1, 4),
}


@fuzz(max(10, TIMES // 5))
@given(st.sampled_from(sorted(RECIPES)), st.data())
def test_what_is_not_refused_is_trained(digits, tmp_path_factory, name, data):
    known = dataclasses.asdict(RECIPES[name].model) | dataclasses.asdict(RECIPES[name].train)
    fitting = sorted(SMALL.keys() & (known.keys() | {"view"}))
    asked = data.draw(st.dictionaries(st.sampled_from(fitting), st.none(), max_size=5))
    asked = {key: data.draw(SMALL[key], label=key) for key in asked}
    try:
        recipe = override(RECIPES[name], **{"epochs": 0.01, "batch_size": 9} | asked)
        model = build(recipe.model, digits.shape, digits.levels)
        images = digits.train_images[:60], digits.validation_images[:20]
        training = TrainingData(*images, view(recipe.view), digits.levels)
        failures = fit([model], [0], [tmp_path_factory.mktemp("run")], training, recipe.train)
    except UserError as error:
        sentence(error)
    else:
        assert all(isinstance(failure, Failure) for failure in failures)


FLAGS = st.sampled_from(
    ["--epochs", "--lr", "--seed", "--batch-size", "--latent-dim", "--beta", "--prior", "--dataset"]
)


@fuzz(max(10, TIMES // 5))
@given(st.lists(st.tuples(FLAGS, SCALARS.map(str)), min_size=1, max_size=3))
def test_the_command_line(tmp_path_factory, words):
    """A value that names nothing or nobody: exit code 2; with nothing to say, no run is begun."""
    asked = [word for pair in words for word in pair]
    folder = tmp_path_factory.mktemp("out")
    with pytest.raises(SystemExit) as left:
        main(["train", "no-such-recipe", "--out", str(folder), *asked])
    assert left.value.code == 2
    assert list(folder.iterdir()) == []
