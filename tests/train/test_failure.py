"""A number that stops being finite stops its own seed, with the step, the term and the batch."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toys import training_data

from triptych.train import checkpoint
from triptych.train.failure import Failure
from triptych.train.fit import fit
from triptych.train.order import TrainConfig, batch_indices
from triptych.train.trainer import Run, Trainer

CONFIG = TrainConfig(epochs=8, batch_size=8, lr=0.05, weight_decay=0.0, bf16=False)  # 24 steps


class Fuse(nn.Module):
    """The loss pushes `left` down by about the learning rate a step; below zero its root is NaN."""

    def __init__(self, left):
        super().__init__()
        self.left = nn.Parameter(torch.tensor(left))
        self.w = nn.Parameter(torch.randn(3))

    def terms(self, x, noise):
        pull = (self.w - x.flatten(1).mean(1, keepdim=True) - noise).square().sum(1)
        return {"pull": pull, "fuse": self.left.sqrt().expand(len(x))}

    def loss(self, x, noise):
        return sum(self.terms(x, noise).values())

    def noise(self, n, generator):
        return torch.randn(n, 1, generator=generator)

    def sample(self, n, generator):
        raise NotImplementedError


class SteepFuse(Fuse):
    """The loss stays finite where its gradient is not: a root that `where` only hides."""

    def terms(self, x, noise):
        hidden = torch.where(self.left > 0, self.left.sqrt(), 0.0)
        return super().terms(x, noise) | {"fuse": hidden.expand(len(x))}


def fuse(left, seed=0, kind=Fuse):
    torch.manual_seed(seed)
    return kind(left)


def run(lefts, folder, kind=Fuse, seeds=None):
    seeds = seeds or list(range(len(lefts)))
    folders = [folder / f"seed-{s}" for s in seeds]
    models = [fuse(left, s, kind) for left, s in zip(lefts, seeds, strict=True)]
    return fit(models, seeds, folders, training_data(), CONFIG), folders


def test_the_failure_names_step_and_term(tmp_path):
    (failure,), _ = run([0.3], tmp_path)
    assert failure == Failure(0, failure.step, "fuse")
    assert 3 < failure.step < 23
    assert str(failure) == (
        f"fuse was not finite at step {failure.step}; failure.safetensors has the batch"
    )


def test_the_saved_weights_are_those_before_the_step(tmp_path):
    (failure,), (folder,) = run([0.3], tmp_path)
    saved = checkpoint.load(folder)
    assert saved.loop["step"] == failure.step
    trainer = Trainer([fuse(0.3)], [Run(0, tmp_path / "again")], training_data(), CONFIG)
    for _ in range(failure.step):
        assert trainer.train_step().isfinite().all()
    for name, value in trainer.models[0].state_dict().items():
        assert torch.equal(saved.model[name], value)
    for name, value in zip(trainer.ensemble.names, trainer.ema, strict=True):
        assert torch.equal(saved.ema[name], value)
        assert value.isfinite().all()
    assert not trainer.train_step().isfinite().all()


def test_the_failing_batch_is_kept_and_fails_again(tmp_path):
    (failure,), (folder,) = run([0.3], tmp_path)
    kept, data = load_file(folder / "failure.safetensors"), training_data()
    index = batch_indices(0, failure.step, 8, 24)
    torch.testing.assert_close(kept["x"], data.view(data.images[index], 17, None))
    model = fuse(0.3)
    model.load_state_dict(checkpoint.load(folder).model)
    terms = model.terms(kept["x"], kept["noise.0"])
    assert terms["fuse"].isnan().all()
    assert terms["pull"].isfinite().all()


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter(tmp_path):
    (failure,), _ = run([0.3], tmp_path, SteepFuse)
    assert failure.term == "the gradient of left"


class WideFuse(Fuse):
    """Each gradient is finite, and the sum of their squares is not."""

    def terms(self, x, noise):
        return super().terms(x, noise) | {"fuse": (1e30 * self.w).sum().expand(len(x))}


def test_a_gradient_whose_norm_alone_is_not_finite(tmp_path):
    (failure,), _ = run([0.3], tmp_path, WideFuse)
    assert (failure.step, failure.term) == (0, "the norm of the gradient")


def test_in_a_stack_only_the_bad_seed_stops(tmp_path):
    lefts = [100.0, 0.3, 200.0]
    (failure,), together = run(lefts, tmp_path / "together")
    assert failure.seed == 1
    for s in (0, 2):
        none, (alone,) = run([lefts[s]], tmp_path / "apart", seeds=[s])
        assert none == []
        ours, theirs = checkpoint.load(together[s]), checkpoint.load(alone)
        assert ours.loop["step"] == theirs.loop["step"] == 24
        for part in checkpoint.FILES:
            torch.testing.assert_close(getattr(ours, part), getattr(theirs, part))
        assert (together[s] / "failure.safetensors").exists() is False
        assert _steps(together[s]) == _steps(alone)
    assert checkpoint.load(together[1]).loop["step"] == failure.step


def _steps(folder):
    return [line.split(",")[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_seed_that_fails_only_in_the_stack_stops_alone(tmp_path, monkeypatch):
    """Seeds side by side, or compiled, round otherwise."""
    update = Trainer._update

    def rounds_otherwise(self, inputs, step, lr, fresh):
        if step == 5 and len(self.runs) == 3:
            losses = self.losses
            self.losses = lambda x, noise: (
                losses(x, noise) * torch.tensor([[1.0], [torch.nan], [1]])
            )
            try:
                return update(self, inputs, step, lr, fresh)
            finally:
                self.losses = losses
        return update(self, inputs, step, lr, fresh)

    monkeypatch.setattr(Trainer, "_update", rounds_otherwise)
    (failure,), folders = run([100.0, 150.0, 200.0], tmp_path)
    assert (failure.seed, failure.step) == (1, 5)
    assert failure.term == "a number that is finite when the seed is alone"
    assert [checkpoint.load(f).loop["step"] for f in folders] == [24, 5, 24]


def test_seeds_may_fail_one_after_the_other(tmp_path):
    failures, folders = run([0.2, 0.5, 0.35], tmp_path)
    steps = {f.seed: f.step for f in failures}
    assert len(steps) == 3
    assert steps[0] < steps[2] < steps[1]
    for seed, folder in enumerate(folders):
        (alone,), _ = run([[0.2, 0.5, 0.35][seed]], tmp_path / "apart", seeds=[seed])
        assert alone.step == steps[seed]
        assert checkpoint.load(folder).loop["step"] == alone.step


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_broken_from_the_start_fails_at_step_zero(bad, tmp_path):
    (failure,), (folder,) = run([bad], tmp_path)
    assert failure.step == 0
    assert checkpoint.load(folder).loop["step"] == 0


def test_nothing_that_is_not_finite_reaches_the_log(tmp_path):
    _, (folder,) = run([0.3], tmp_path)
    assert "NaN" not in (folder / "metrics.jsonl").read_text()
    assert "Infinity" not in (folder / "metrics.jsonl").read_text()
