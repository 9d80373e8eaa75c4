"""Seeds side by side compute what separate runs compute."""

import json
from contextlib import suppress

import pytest
import torch
from torch.utils._pytree import tree_map
from toys import MODELS, Point, built, training_data

from triptych.train import checkpoint
from triptych.train import ensemble as ensemble_module
from triptych.train.batches import step_noise
from triptych.train.ensemble import Ensemble
from triptych.train.fit import fit
from triptych.train.order import TrainConfig
from triptych.train.precision import networks_in_bf16

SEEDS = [3, 4, 5]
# The clip is so low that each seed's gradient is scaled by a factor of its own.
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=1e-2, clip=0.5, bf16=False)


def trained(name, seeds, folder):
    folders = [folder / f"seed-{s}" for s in seeds]
    data = training_data(MODELS[name][1])
    assert fit([built(name, s) for s in seeds], seeds, folders, data, CONFIG) == []
    return [checkpoint.load(f) for f in folders]


def log(folder, seed):
    lines = (folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
    return [(m["step"], m.get("loss", m.get("validation"))) for m in (json.loads(x) for x in lines)]


def assert_close(a, b):
    for part in checkpoint.FILES:
        ours, theirs = getattr(a, part), getattr(b, part)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-7, atol=1e-9)
    assert a.loop["step"] == b.loop["step"]
    assert a.loop["seed"] == b.loop["seed"]
    assert a.loop["best"] == pytest.approx(b.loop["best"], rel=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MODELS)
def test_stacked_seeds_equal_separate_ones(name, tmp_path):
    together = trained(name, SEEDS, tmp_path / "together")
    for seed, stacked in zip(SEEDS, together, strict=True):
        (alone,) = trained(name, [seed], tmp_path / "apart")
        assert_close(stacked, alone)
        for (i, x), (j, y) in zip(
            log(tmp_path / "together", seed), log(tmp_path / "apart", seed), strict=True
        ):
            assert i == j
            assert x == pytest.approx(y, rel=1e-9)
    weights = [torch.cat([v.flatten() for v in c.model.values()]) for c in together]
    assert (weights[0] - weights[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_stacked_seeds_are_trained_in_bf16_too(name, g):
    """Under vmap autocast sees some layers and not others, and none may be given two precisions."""
    models = [built(name, s).train() for s in SEEDS[:2]]
    data, stack = training_data(MODELS[name][1], n=6), Ensemble(models)
    x = data.view(data.images, data.levels, g)
    inputs = tree_map(lambda a: torch.stack([a, a]), (x, step_noise(models[0], 6, g)))
    exact = stack.losses(*inputs).mean(1)
    with networks_in_bf16(models[0], True):
        rounded = stack.losses(*inputs).mean(1)
        rounded.sum().backward()
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in stack.parameters)


def test_a_stacks_checkpoint_is_a_state_dict_of_the_model(tmp_path):
    """Persistent buffers, such as a rotation's permutation, belong to each seed."""
    saved = trained("pixelflow", SEEDS[:2], tmp_path)
    for part in ("model", "ema", "best"):
        built("pixelflow").load_state_dict(getattr(saved[0], part))
    initial = [built("pixelflow", s).state_dict() for s in SEEDS[:2]]
    for name, value in built("pixelflow").named_buffers():
        if name in initial[0]:
            for s in (0, 1):
                assert torch.equal(saved[s].model[name], initial[s][name]), name
            assert value.shape == saved[0].model[name].shape


def test_each_seeds_gradient_is_clipped_by_its_own_norm():
    models = [built("vae-gaussian", s) for s in SEEDS]
    ensemble = Ensemble(models)
    factors = torch.tensor([1e-3, 1.0, 50.0])
    for p in ensemble.parameters:
        p.grad = torch.ones_like(p) * factors.view(-1, *[1] * (p.dim() - 1))
    count = sum(p.numel() for p in models[0].parameters())
    norms = ensemble.clip_grad_norm_(2.0)
    torch.testing.assert_close(norms, factors * count**0.5)
    after = torch.stack([p.grad.flatten(1).norm(dim=1) for p in ensemble.parameters]).norm(dim=0)
    torch.testing.assert_close(after, norms.clamp(max=2.0), rtol=1e-5, atol=1e-5)


def test_one_seed_is_clipped_as_it_would_be_in_a_stack():
    model = built("vae-gaussian")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    Ensemble([model]).clip_grad_norm_(2.0)
    total = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert total.item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_gradient_within_the_norm_stays_as_it_is(seeds, at_once, monkeypatch):
    """Where a number can be read the product by 1 is left out, and nowhere else is it needed."""
    monkeypatch.setattr(ensemble_module, "is_read_at_once", lambda device: at_once)
    ensemble = Ensemble([built("vae-gaussian", s) for s in range(seeds)])
    for p in ensemble.parameters:
        p.grad = torch.full_like(p, 0.1)
    norms = ensemble.clip_grad_norm_(100.0)
    assert (norms < 100).all()
    assert (norms > 1).all()
    assert all((p.grad == 0.1).all() for p in ensemble.parameters)


@pytest.mark.parametrize("size", [1, 3])
def test_other_weights_are_held_only_for_a_while(size):
    ensemble = Ensemble([built("vae-gaussian", s) for s in range(size)])
    before = [p.detach().clone() for p in ensemble.parameters]
    others = [torch.zeros_like(p) for p in ensemble.parameters]
    with suppress(ZeroDivisionError), ensemble.holding(others):
        assert all((p == 0).all() for p in ensemble.parameters)
        raise ZeroDivisionError
    for p, b in zip(ensemble.parameters, before, strict=True):
        assert torch.equal(p, b)


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_in_the_end_the_models_are_the_best_there_were(seeds, tmp_path):
    folders = [tmp_path / f"seed-{s}" for s in seeds]
    models, data = [built("vae-flow", s) for s in seeds], training_data(MODELS["vae-flow"][1])
    fit(models, seeds, folders, data, CONFIG)
    for model, folder in zip(models, folders, strict=True):
        best = checkpoint.load(folder).best
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
        assert not model.training


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_what_has_no_gradient_stays_as_it_is(seeds, tmp_path):
    models, data = [built("vae-flow", s) for s in seeds], training_data(MODELS["vae-flow"][1])
    before = []
    for model in models:
        model.posterior.requires_grad_(False)
        before.append({n: p.clone() for n, p in model.posterior.named_parameters()})
    fit(models, seeds, [tmp_path / f"seed-{s}" for s in seeds], data, CONFIG)
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(p, kept[n]) for n, p in model.posterior.named_parameters())


def test_one_model_for_two_seeds_is_refused(tmp_path):
    model, data = built("vae-flow", 3), training_data(MODELS["vae-flow"][1])
    with pytest.raises(ValueError, match="each seed needs a model of its own"):
        fit([model, model], [3, 4], [tmp_path / "a", tmp_path / "b"], data, CONFIG)


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_a_module_in_two_places_is_refused(seeds, tmp_path):
    models, data = [built("vae-flow", s) for s in seeds], training_data(MODELS["vae-flow"][1])
    models[-1].prior.encoder = models[-1].posterior
    with pytest.raises(ValueError, match=r"prior\.encoder\..* and posterior\..* are one parameter"):
        fit(models, seeds, [tmp_path / f"seed-{s}" for s in seeds], data, CONFIG)
    assert not list(tmp_path.iterdir())


def test_seeds_that_differ_in_more_than_tensors_are_refused(tmp_path):
    """A stack runs the first model's code, and would train the second with its target."""
    models = [Point(target=1.0), Point(target=2.0)]
    said = "seed 8 has a loss of 12, and by the first one's code 3"
    with pytest.raises(ValueError, match=said):
        fit(models, [7, 8], [tmp_path / "7", tmp_path / "8"], training_data("raw"), CONFIG)


def test_seeds_do_not_share_a_folder(tmp_path):
    folders = [tmp_path / "7", tmp_path / "nowhere" / ".." / "7"]
    with pytest.raises(ValueError, match="a folder of its own"):
        fit([Point(), Point()], [7, 8], folders, training_data("raw"), CONFIG)


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_the_validation_loss_is_logged_with_its_terms(seeds, tmp_path):
    folders = [tmp_path / f"seed-{s}" for s in seeds]
    models = [built("vae-gaussian", s) for s in seeds]
    fit(models, seeds, folders, training_data("threshold"), CONFIG)
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [line for line in lines if "validation" in line]
        assert len(rows) == 2
        for row in rows:
            log_px, log_pz, log_qz = (row[f"validation log_{p}"] for p in ("px", "pz", "qz"))
            assert row["validation"] == pytest.approx(-(log_px + log_pz - log_qz), rel=1e-5)
    if len(seeds) > 1:
        assert len({folder.joinpath("metrics.jsonl").read_text() for folder in folders}) == 2
