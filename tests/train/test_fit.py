import itertools
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from toys import MODELS, Point, built, images, tiny_vae, training_data

from triptych.errors import UserError
from triptych.priors.resampled import ResampledPrior
from triptych.train import checkpoint
from triptych.train import ensemble as ensemble_module
from triptych.train import fit as fit_module
from triptych.train.batches import TrainingData
from triptych.train.fit import fit, prepare
from triptych.train.order import TrainConfig
from triptych.train.trainer import Run, Trainer

QUICK = TrainConfig(epochs=3, batch_size=8, lr=1e-2, bf16=False)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss_of_every_model(name, tmp_path):
    data = training_data(MODELS[name][1], n=32)
    data = TrainingData(data.images, data.images, data.view, data.levels)
    model = built(name)
    trainer = Trainer([model], [Run(0, tmp_path)], data, QUICK)
    before = trainer.validate()[0]
    config = TrainConfig(epochs=10, batch_size=8, lr=1e-2, bf16=False)
    assert fit([model], [0], [tmp_path], data, config) == []
    validations = [m["validation"] for m in metrics(tmp_path) if "validation" in m]
    assert len(validations) == 10
    assert validations[-1] < before - 0.01 * abs(before)


class Centred(torch.nn.Module):
    """Takes off the mean, which it holds as a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 8))

    def prepare(self, x, noise):
        self.mean.copy_(x.mean(0))


def test_a_part_without_parameters_starts_from_data_too(tmp_path):
    model = Point()
    model.centred = Centred()
    fit([model], [0], [tmp_path], training_data(), QUICK)
    assert model.centred.mean.abs().sum() > 0


def test_seeds_models_and_folders_must_be_as_many(tmp_path):
    for models, seeds in (([Point()], [0, 1]), ([], [])):
        with pytest.raises(ValueError, match=f"{len(seeds)} seeds, {len(models)} models"):
            fit(models, seeds, [tmp_path / str(s) for s in seeds], training_data(), QUICK)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_a_loss_that_is_averaged_over_images_is_refused(seeds, tmp_path):
    class Averaged(Point):
        def loss(self, x, noise):
            return super().loss(x, noise).mean()

    folders = [tmp_path / str(s) for s in seeds]
    with pytest.raises(ValueError, match=r"a loss must be of shape \[\d\], one an image, not \[\]"):
        fit([Averaged() for _ in seeds], seeds, folders, training_data(), QUICK)


def test_each_epoch_shows_the_model_every_image_once(tmp_path):
    n, batch, seen = 23, 5, []
    numbered = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 8, 8)

    def view(x, levels, generator):
        seen.extend(x[:, 0, 0, 0].tolist())
        return x.float()

    data = TrainingData(numbered, images(0), view, 256)
    config = TrainConfig(epochs=4, batch_size=batch, bf16=False)
    trainer = Trainer([Point()], [Run(0, tmp_path)], data, config)
    for _ in range(trainer.steps):
        trainer.train_step()
    assert trainer.steps == math.ceil(4 * n / batch)
    for epoch in range(4):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("validation", [3, 500, 1203])
def test_validation_is_the_mean_over_all_images(validation, tmp_path):
    class Brightness(Point):
        def loss(self, x, noise):
            return x.flatten(1).mean(1)

    data = training_data("raw", validation=validation)
    trainer = Trainer([Brightness()], [Run(0, tmp_path)], data, QUICK)
    assert trainer.validate()[0] == pytest.approx(data.validation.float().mean().item(), rel=1e-5)


def test_validation_images_come_in_an_order_of_chance_and_each_once(tmp_path):
    """A chain's times rise with the place in a batch, and files may be in the order of classes."""
    seen = []

    class Recording(Point):
        def loss(self, x, noise):
            seen.extend(x.flatten(1).tolist())
            return x.flatten(1).mean(1)

    data = training_data("raw", validation=700)
    trainer = Trainer([Recording()], [Run(0, tmp_path)], data, QUICK)
    trainer.validate()
    inside, first = data.validation.flatten(1).float().tolist(), seen[:500]
    assert sorted(seen) == sorted(inside)
    assert sorted(first) != sorted(inside[:500])


def test_validation_has_the_same_noise_every_time_and_the_averaged_weights(tmp_path):
    trainer = Trainer([tiny_vae()], [Run(0, tmp_path)], training_data("dynamic"), QUICK)
    first = trainer.validate()
    assert trainer.validate() == first
    for p in trainer.ensemble.parameters:
        p.data += 1.0
    assert trainer.validate() == first
    for e in trainer.ema:
        e += 1.0
    assert trainer.validate() != first


def test_the_average_leaves_the_initial_noise_behind(tmp_path):
    config = TrainConfig(epochs=100, batch_size=8, lr=1e-6, ema=0.9999, bf16=False)
    trainer = Trainer([Point()], [Run(0, tmp_path)], training_data(), config)
    trainer.ema[0].fill_(1000.0)
    for _ in range(60):
        trainer.train_step()
    torch.testing.assert_close(trainer.ema[0], trainer.parameters()[0], atol=1e-3, rtol=0)


def test_the_average_is_the_average(tmp_path):
    config = TrainConfig(epochs=100, batch_size=8, lr=0.1, ema=0.5, bf16=False)
    trainer = Trainer([Point()], [Run(0, tmp_path)], training_data(), config)
    expected = trainer.ema[0].clone()
    for step in range(20):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.parameters()[0]
        torch.testing.assert_close(trainer.ema[0], expected)


def test_the_best_weights_are_the_average_with_the_lowest_validation_loss(tmp_path, monkeypatch):
    losses, averages = [3.0, 1.0, 2.0], []

    def validate(self):
        averages.append([e.clone() for e in self.ema])
        return [losses[len(averages) - 1]]

    monkeypatch.setattr(Trainer, "validate", validate)
    model = tiny_vae()
    fit([model], [0], [tmp_path], training_data(), QUICK)
    saved = checkpoint.load(tmp_path)
    assert saved.loop["best"] == 1.0
    for (name, _), average in zip(model.named_parameters(), averages[1], strict=True):
        assert torch.equal(saved.best[name], average)
    assert not torch.equal(saved.best[name], saved.ema[name])


def test_models_are_trained_in_training_mode_and_come_back_in_that_of_evaluation(tmp_path):
    modes = []

    class Watched(Point):
        def loss(self, x, noise):
            modes.append(self.training)
            return super().loss(x, noise)

    model = Watched().eval()
    fit([model], [0], [tmp_path], training_data(), QUICK)
    assert modes[0]
    assert not model.training


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("helps", [True, False])
def test_networks_are_in_bfloat16_where_that_is_asked_for_and_helps(
    asked, helps, tmp_path, monkeypatch
):
    found = []

    def networks_in_bf16(model, on):
        found.append(on)
        return nullcontext()

    monkeypatch.setattr(fit_module, "networks_in_bf16", networks_in_bf16)
    monkeypatch.setattr(fit_module, "bf16_helps", lambda device: helps)
    folders = [tmp_path / "0", tmp_path / "1"]
    config = replace(QUICK, bf16=asked)
    fit([Point(), Point()], [0, 1], folders, training_data(), config)
    assert found == [asked and helps] * 2


@pytest.mark.parametrize(("every", "expected"), [(1e4, [0, 9]), (0.0, list(range(10)))])
def test_checkpoints_are_as_far_apart_as_asked(every, expected, tmp_path, monkeypatch):
    saved, save = [], fit_module.save
    monkeypatch.setattr(fit_module, "save", lambda t: saved.append(t.step) or save(t))
    fit([Point()], [0], [tmp_path], training_data(), QUICK, save_every=every)
    assert saved == expected


def test_a_line_is_logged_for_every_quarter_of_an_epoch(tmp_path):
    fit([tiny_vae()], [0], [tmp_path], training_data(n=64), QUICK)
    steps = [m["step"] for m in metrics(tmp_path) if "loss" in m]
    assert steps == list(range(2, 25, 2))


def test_no_step_waits_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble_module, "is_read_at_once", lambda device: False)
    trainer = Trainer([tiny_vae("flow")], [Run(0, tmp_path)], training_data(), QUICK)
    trainer.train_step()

    def waits(self, *args):
        raise AssertionError("a step read a number from the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
            patch.setattr(torch.Tensor, name, waits)
        trainer.train_step()


def test_adam_sees_the_gradient_clipped_to_its_norm(tmp_path, monkeypatch):
    for clip, expected in ((0.5, 0.5), (1e6, 2 * 3**0.5)):
        config = TrainConfig(epochs=1, batch_size=8, clip=clip, bf16=False)
        trainer = Trainer([Point()], [Run(0, tmp_path)], training_data(), config)
        norms = []
        (optimizer,) = trainer.optimizers
        step = optimizer.step
        optimizer.step = lambda *how, s=step, t=trainer, n=norms: (
            n.append(t.ensemble.parameters[0].grad.norm().item()),
            s(*how),
        )
        trainer.train_step()
        assert norms == pytest.approx([expected], rel=1e-4)


def images_and_eps(trainer, run, step):
    x, noise = trainer.batch(run, step)
    return x, noise["eps"]


def test_seeds_and_steps_have_images_and_noise_of_their_own(tmp_path):
    runs = [Run(0, tmp_path), Run(1, tmp_path)]
    models = [tiny_vae(), tiny_vae()]
    trainer = Trainer(models, runs, training_data(n=100), QUICK)
    batches = [images_and_eps(trainer, run, step) for run in runs for step in (0, 1)]
    for part in (0, 1):
        for a, b in itertools.combinations([batch[part] for batch in batches], 2):
            assert not torch.equal(a, b)
    again = images_and_eps(trainer, runs[1], 1)
    assert torch.equal(again[0], batches[3][0])
    assert torch.equal(again[1], batches[3][1])


def test_training_images_are_bent_before_they_are_seen_and_those_of_validation_are_not(tmp_path):
    seen = []

    def remember(x, levels, generator):
        seen.append(x)
        return x.float()

    numbered = images(23)
    data = TrainingData(numbered, numbered, remember, 256)
    config = TrainConfig(epochs=4, batch_size=23, bent=1.0, bf16=False)
    trainer = Trainer([Point()], [Run(0, tmp_path)], data, config)
    whole = {tuple(x.flatten().tolist()) for x in numbered}
    for _ in range(trainer.steps):
        trainer.train_step()
    bent = [sum(tuple(x.flatten().tolist()) not in whole for x in batch) for batch in seen]
    assert bent == [23, round(0.75 * 23), round(0.5 * 23), round(0.25 * 23)]
    seen.clear()
    trainer.validate()
    trainer.models[0].prepare = lambda x, noise: None  # what starts from data starts from images
    prepare(trainer)
    assert {tuple(x.flatten().tolist()) for x in torch.cat(seen)} == whole
    assert len(seen) == 2


@pytest.mark.parametrize("n", [1, 2])
def test_where_no_validation_loss_is_finite_the_last_average_is_taken(n, tmp_path):
    class Overflows(Point):
        def loss(self, x, noise):
            loss = super().loss(x, noise)
            return loss if torch.is_grad_enabled() else loss + math.inf

    models, folders = [Overflows() for _ in range(n)], [tmp_path / str(s) for s in range(n)]
    assert fit(models, range(n), folders, training_data(), QUICK) == []
    for model, folder in zip(models, folders, strict=True):
        assert checkpoint.load(folder).loop["best"] is None
        last = checkpoint.load(folder).ema
        assert all(torch.equal(v, last[k]) for k, v in model.state_dict().items())
        assert not torch.equal(last["w"], Overflows().w)


def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path):
    config = TrainConfig(epochs=3, batch_size=0)
    with pytest.raises(UserError, match="TrainConfig: batch_size = 0 is wrong"):
        fit([Point()], [0], [tmp_path / "run"], training_data("raw"), config)
    assert not (tmp_path / "run").exists()


def test_weights_are_chosen_by_the_loss_by_which_they_are_judged(tmp_path):
    """In evaluation mode, in which a VDM clips its x_0."""
    data, model = training_data("raw"), built("vdm")
    fit([model], [0], [tmp_path], data, TrainConfig(epochs=2, batch_size=8, lr=1e-2, bf16=False))
    trainer = Trainer([model], [Run(0, tmp_path)], data, TrainConfig(batch_size=8, bf16=False))
    chosen = checkpoint.load(tmp_path).loop["best"]
    assert trainer.validate()[0] == pytest.approx(chosen, rel=1e-5)


def test_epochs_end_where_their_images_do(tmp_path):
    """22 images in batches of 5: 15 epochs are 66 steps, though 66 / 4.4 rounds to less."""
    data = training_data(n=22)
    config = TrainConfig(epochs=20, batch_size=5, bf16=False)
    fit([built("vae-gaussian")], [0], [tmp_path], data, config)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ends = [line["step"] for line in lines if "validation" in line]
    assert ends == [math.ceil(22 * epoch / 5) for epoch in range(1, 21)]


def test_a_validation_computes_no_z_that_it_does_not_read(tmp_path, monkeypatch):
    """A resampled prior has one of 2^18 points, which takes longer than an epoch of few images."""
    computed, compute = [], ResampledPrior.cache_log_normaliser

    def noted(prior):
        computed.append(prior.training)
        compute(prior)

    monkeypatch.setattr(ResampledPrior, "cache_log_normaliser", noted)
    config = TrainConfig(epochs=4, batch_size=8, bf16=False)
    fit([built("vae-resampled")], [0], [tmp_path], training_data(), config)
    assert computed.count(False) <= 2, "where the weights are loaded, and at the end"
