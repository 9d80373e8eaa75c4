"""Muon: matrices move by the orthogonal factor of what their gradients say, all else by Adam."""

import dataclasses

import pytest
import torch
from torch import nn
from toys import built, training_data

from triptych.flows.autoregressive import MADE
from triptych.nets.mlp import MLP
from triptych.train import checkpoint
from triptych.train.ensemble import Ensemble
from triptych.train.fit import fit
from triptych.train.optimizers import AdamW, Muon, matrices, optimizers, orthogonal
from triptych.train.order import TrainConfig

CONFIG = TrainConfig(epochs=2, batch_size=8, lr=1e-2, bf16=False, optimizer="muon")


def gradient(*size, spread=30.0, seed=0):
    """A matrix whose singular values are from 1 to `spread`, as those of gradients are."""
    g = torch.Generator().manual_seed(seed)
    U, _, Vh = torch.linalg.svd(torch.randn(*size, generator=g), full_matrices=False)
    return U * torch.logspace(0, torch.tensor(spread).log10().item(), U.shape[-1]) @ Vh


@pytest.mark.parametrize("size", [(12, 12), (5, 40), (40, 5)])
def test_the_orthogonal_factor_has_the_matrix_s_own_directions_and_all_alike(size):
    G = gradient(*size)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    in_its_directions = U.mT @ orthogonal(G) @ Vh.mT
    s = in_its_directions.diagonal()
    assert s.min() > 0.65
    assert s.max() < 1.25
    assert torch.allclose(in_its_directions, s.diag(), atol=1e-4)


def test_matrices_together_are_each_one_alone():
    G = torch.stack([gradient(6, 9, seed=s) * 10.0**s for s in range(3)])
    for one, together in zip(G, orthogonal(G), strict=True):
        assert torch.allclose(orthogonal(one), together, atol=1e-5)


def test_masked_layers_are_left_to_adam():
    """A quarter of the step would fall on entries that are masked out."""
    assert matrices(MADE(8, [64, 64], 2)) == set()
    assert matrices(MLP([8, 64, 2])) != set()


def steps_of(optimizer, weight, gradients, lr=0.01, frozen=0.0):
    for g in gradients:
        weight.grad = g.clone()
        optimizer.step(lr, torch.tensor(frozen))


@pytest.mark.parametrize("size", [(20, 6), (6, 4, 3, 3)])
def test_a_step_is_the_formula(size):
    """By the singular value decomposition, whose singular values are all 1: as far as they are."""
    lr, decay, mu = 0.01, 0.1, 0.95
    weight = nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(3)))
    expected, M = weight.detach().clone().flatten(1), torch.zeros(weight.flatten(1).shape)
    gradients = [gradient(*M.shape, spread=3.0, seed=s).view(size) for s in (1, 2)]
    for G in gradients:
        M = mu * M + (1 - mu) * G.flatten(1)
        U, _, Vh = torch.linalg.svd(mu * M + (1 - mu) * G.flatten(1), full_matrices=False)
        expected = (1 - lr * decay) * expected - lr * 0.2 * max(M.shape) ** 0.5 * U @ Vh
    before = weight.detach().clone()
    steps_of(Muon([weight], decay), weight, gradients, lr)
    moved, should = (weight - before).flatten(1), expected - before.flatten(1)
    assert (moved - should).norm() < 0.25 * should.norm()
    assert moved.square().mean().sqrt().item() == pytest.approx(2 * 0.2 * lr, rel=0.3)


def test_adamw_is_torch_s_own_from_the_first_step():
    """What it keeps is there before, and changes nothing."""
    ours, theirs = (nn.Parameter(gradient(5, 7)) for _ in "ab")
    gradients = [gradient(5, 7, seed=s) for s in range(3)]
    steps_of(AdamW([ours], 0.1), ours, gradients)
    peer = torch.optim.AdamW([theirs], 0.01, (0.9, 0.99), weight_decay=0.1)
    for theirs.grad in gradients:
        peer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("size", [(20, 6), (6, 20), (8, 8)])
def test_matrices_move_as_by_torch_s_own(size):
    ours, theirs = (nn.Parameter(gradient(*size, seed=9)) for _ in "ab")
    gradients = [gradient(*size, seed=s) for s in range(5)]
    steps_of(Muon([ours], 0.1, dtype=torch.bfloat16), ours, gradients)
    peer = torch.optim.Muon([theirs], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    for theirs.grad in gradients:
        peer.step()
    moved = (theirs - gradient(*size, seed=9)).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # bfloat16, multiplied in another order


def test_the_size_of_a_gradient_says_nothing():
    weights = [nn.Parameter(torch.zeros(5, 7)) for _ in "ab"]
    for weight, factor in zip(weights, (1.0, 1e-4), strict=True):
        steps_of(Muon([weight]), weight, [factor * gradient(5, 7)])
    assert torch.allclose(*weights, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_a_frozen_step_leaves_weights_and_averages_as_they_are(kind):
    weight = nn.Parameter(gradient(5, 7))
    optimizer = kind([weight])
    steps_of(optimizer, weight, [gradient(5, 7)])
    before = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
    steps_of(optimizer, weight, [torch.full((5, 7), torch.nan)], frozen=1.0)
    assert torch.equal(weight, before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in optimizer.state[weight].items())


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_what_has_no_gradient_stays_where_it_is(kind):
    moved, left = (nn.Parameter(gradient(5, 7)) for _ in "ab")
    steps_of(kind([left, moved]), moved, [gradient(5, 7)])
    assert torch.equal(left, gradient(5, 7))
    assert not torch.equal(moved, left)


def test_weights_of_layers_are_matrices_and_nothing_else_is():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Conv2d(1, 2, 3))
            self.table = nn.Parameter(torch.zeros(5, 6))

    assert matrices(Model()) == {"body.0.weight", "body.2.weight"}
    assert matrices(nn.Linear(3, 4)) == {"weight"}


@pytest.mark.parametrize("name", ["vae-vamp", "pixelflow", "ddpm"])
def test_every_parameter_has_one_optimizer(name):
    ensemble = Ensemble([built(name)])
    for config in (CONFIG, dataclasses.replace(CONFIG, optimizer="adamw")):
        ids = sorted(id(p) for o in optimizers(ensemble, config, False) for p in o.parameters)
        assert ids == sorted(id(p) for p in ensemble.parameters)


def test_seeds_side_by_side_are_moved_as_each_alone(tmp_path):
    data = training_data("dynamic")
    alone, together = [tmp_path / f"alone-{s}" for s in (3, 4)], [tmp_path / s for s in "ab"]
    for seed, folder in zip((3, 4), alone, strict=True):
        fit([built("vae-mixture", seed=seed)], [seed], [folder], data, CONFIG)
    fit([built("vae-mixture", seed=s) for s in (3, 4)], [3, 4], together, data, CONFIG)
    for one, stacked in zip(alone, together, strict=True):
        ours, theirs = checkpoint.load(one), checkpoint.load(stacked)
        for part in ("model", "optimizer"):
            for name, tensor in getattr(ours, part).items():
                assert torch.allclose(tensor, getattr(theirs, part)[name], rtol=0.01, atol=1e-3)


def test_a_checkpoint_keeps_one_moment_of_matrices_and_two_of_the_rest(tmp_path):
    fit([built("pixelflow")], [0], [tmp_path], training_data("raw"), CONFIG)
    saved = checkpoint.load(tmp_path)
    names = matrices(built("pixelflow"))
    second = {n.removeprefix("exp_avg_sq.") for n in saved.optimizer if "exp_avg_sq." in n}
    first = {n.removeprefix("exp_avg.") for n in saved.optimizer if "exp_avg." in n}
    assert names
    assert first == second | names
    assert not second & names
