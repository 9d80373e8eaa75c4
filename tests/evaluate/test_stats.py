import numpy as np
import pytest
import scipy.stats

from triptych.evaluate.stats import holm, p_value, paired_difference, summarise

VALUES = [3.1, 2.9, 3.4, 2.7]


def test_the_spread_has_n_minus_one_in_its_denominator():
    summary = summarise(VALUES)
    assert summary.mean == pytest.approx(np.mean(VALUES))
    assert summary.std == pytest.approx(np.std(VALUES, ddof=1))
    assert summary.n_seeds == 4


def test_the_interval_is_scipys_t_interval():
    expected = scipy.stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert summarise(VALUES).interval95 == pytest.approx((expected.low, expected.high))


def test_one_run_has_no_spread():
    summary = summarise([3.0])
    assert (summary.mean, summary.n_seeds) == (3.0, 1)
    assert summary.std is None
    assert summary.interval95 is None


def test_no_run_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_differences_are_paired_by_seed():
    a, b = {0: 1.0, 1: 5.0, 2: 9.0, 7: 100.0}, {2: 8.0, 1: 4.5, 0: 0.2, 3: -50.0}
    summary, seeds = paired_difference(a, b)
    assert seeds == [0, 1, 2]
    expected = scipy.stats.ttest_rel([1.0, 5.0, 9.0], [0.2, 4.5, 8.0]).confidence_interval(0.95)
    assert summary.interval95 == pytest.approx((expected.low, expected.high))


def test_runs_without_a_seed_in_common_are_not_compared():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_the_p_value_of_a_mean_is_scipys():
    summary = summarise(VALUES)
    assert summary.interval95 is not None
    expected = scipy.stats.ttest_1samp(VALUES, 0).pvalue
    assert p_value(summary.mean, summary.interval95, 4) == pytest.approx(expected)
    assert p_value(0.0, (0.0, 0.0), 3) == 1
    assert p_value(0.1, (0.1, 0.1), 3) == 1, "no spread to measure the mean by"


def test_counts_that_repeat_themselves_tell_nothing_apart():
    """As active units do: three models of one distribution, two runs each, at 5%."""
    draw, told = np.random.default_rng(0), 0
    for _ in range(500):
        runs = draw.normal(20, 0.7, (3, 2)).round()
        pairs = [summarise((runs[a] - runs[b]).tolist()) for a in range(3) for b in range(a)]
        told += any(holm([p_value(s.mean, s.interval95 or (), 2) for s in pairs]))
    assert told <= 40


def test_holm_asks_less_of_each_after_the_smallest():
    assert holm([0.03, 0.012, 0.02]) == [True, True, True]
    assert holm([0.03, 0.012, 0.026]) == [False, True, False]  # 0.026 > 0.05 / 2 ends it
    assert holm([0.017, 0.04, 0.9]) == [False, False, False]
    assert holm([0.04]) == [True]
    assert holm([]) == []


def test_of_nine_models_that_are_the_same_hardly_any_pair_is_told_apart():
    """Each pair by itself errs in one study of twenty, and one pair of the 36 in every second."""
    rng, alone, together = np.random.default_rng(0), 0, 0
    for _ in range(300):
        runs = rng.normal(size=(9, 5))
        pairs = [summarise((runs[a] - runs[b]).tolist()) for a in range(9) for b in range(a)]
        chances = [p_value(s.mean, s.interval95 or (), 5) for s in pairs]
        alone += min(chances) < 0.05
        together += any(holm(chances))
    assert alone > 100
    assert together <= 24  # of 15: two and a half deviations
