import pytest
import torch

from triptych.evaluate import speed
from triptych.evaluate.speed import BATCH, sampling_speed


@pytest.mark.parametrize(("lap", "laps"), [(0.01, 30), (1e-4, 300)])
def test_a_fast_model_draws_more_laps(lap, laps, monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def draw(n):
        clock[0] += lap
        drawn.append(n)
        return torch.zeros(n)

    assert sampling_speed(draw, torch.device("cpu"), {}).value == pytest.approx(BATCH / lap)
    assert len(drawn) == pytest.approx(1 + laps, abs=1)


def test_samples_a_second_are_the_median_lap_after_a_warm_up(monkeypatch):
    """A warm-up of 100 s and a lap of 50 s change nothing: the median of 4, 2 and 50 is 4."""
    clock, laps = [0.0], [100.0, 4.0, 2.0, 50.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def draw(n):
        assert n == BATCH
        clock[0] += laps.pop(0)
        return torch.zeros(n)

    score = sampling_speed(draw, torch.device("cpu"), {"steps": 7})
    assert laps == []
    assert score.value == pytest.approx(BATCH / 4)
    assert (score.metric, score.unit) == ("samples-per-second", "1/s")
    assert score.protocol == {
        "steps": 7,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "n": BATCH,
    }
