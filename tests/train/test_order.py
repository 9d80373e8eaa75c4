import math
from fractions import Fraction

import pytest
import torch

from triptych.train.order import (
    Stream,
    TrainConfig,
    batch_indices,
    bent_share,
    ema_decay,
    generator_for,
    learning_rate,
    total_steps,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 5), (7, 7), (5, 13), (100, 32), (9, 1)])
def test_every_epoch_sees_every_image_exactly_once(n, batch):
    """Drawing a fresh shuffled batch each step would see 63% of them."""
    steps = math.ceil(4 * n / batch)
    row = torch.cat([batch_indices(3, step, batch, n) for step in range(steps)])
    assert len(row) == steps * batch
    for epoch in row[: 4 * n].split(n):
        assert epoch.sort().values.tolist() == list(range(n))


def test_fractions_of_epochs_are_taken_exactly():
    for hundredths in range(1, 300):
        exact = math.ceil(Fraction(hundredths, 100) * 55_000 / 50)
        config = TrainConfig(epochs=hundredths / 100, batch_size=50)
        assert total_steps(config, 55_000) == exact
    assert total_steps(TrainConfig(epochs=1e-9), 100) == 1


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [batch_indices(seed, step, 50, 50) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(o.tolist()) for o in orders}) == 4


def test_the_order_is_a_function_of_seed_and_step():
    assert torch.equal(batch_indices(5, 8, 6, 20), batch_indices(5, 8, 6, 20))


def test_generators_of_steps_seeds_and_streams_differ():
    keys = [(0, 0, stream) for stream in Stream] + [(1, 0, Stream.BOUNDS), (0, 1, Stream.BOUNDS)]
    draws = [torch.rand(3, generator=generator_for(s, t, CPU, stream)) for s, t, stream in keys]
    again = torch.rand(3, generator=generator_for(0, 0, CPU))
    assert torch.equal(draws[0], again)
    assert len({tuple(d.tolist()) for d in draws}) == len(keys)


def test_the_numbers_of_streams_stay():
    """Published numbers hold for them."""
    names = "TRAINING SHUFFLES CLASSIFIER_SHIFTS VIEWS BOUNDS SAMPLES TRAINING_IMAGES"
    assert [stream.name for stream in Stream] == [*names.split(), "RECONSTRUCTIONS"]
    assert [int(stream) for stream in Stream] == list(range(8))


@pytest.mark.parametrize("steps", [20, 1000])
def test_the_learning_rate_starts_low_peaks_at_lr_and_ends_near_zero(steps):
    config = TrainConfig(lr=0.5, warmup=0.1)
    rates = [learning_rate(config, s, steps) for s in range(steps)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.5 / (0.1 * steps))
    assert max(rates) == pytest.approx(0.5)
    assert peak <= round(0.1 * steps)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.01 * 0.5 * 20 / math.sqrt(steps)
    halfway = round(0.1 * steps) + round(0.45 * steps)
    assert rates[halfway] == pytest.approx(0.25)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_learning_rate(steps, warmup):
    config = TrainConfig(lr=0.5, warmup=warmup)
    rates = [learning_rate(config, s, steps) for s in range(steps)]
    assert all(0 <= r <= 0.5 for r in rates)
    assert rates[0] > 0


def test_the_weight_average_forgets_where_it_began():
    config, average = TrainConfig(ema=0.999), 1e6
    for step in range(100):
        average *= ema_decay(config, step)
    assert average < 1e-3
    assert ema_decay(config, 10**6) == 0.999


def test_fewer_and_fewer_images_are_bent():
    config = TrainConfig(bent=0.8)
    assert [bent_share(config, step, 4) for step in range(5)] == pytest.approx(
        [0.8, 0.6, 0.4, 0.2, 0]
    )
    assert bent_share(TrainConfig(), 0, 4) == 0
