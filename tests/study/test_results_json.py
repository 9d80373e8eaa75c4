import numpy as np
import pytest
import scipy.stats

from triptych.protocols import Score
from triptych.study.results import results

PROTOCOL = {"dataset": "digits", "split": "test", "n": 10, "view": "threshold"}


def elbo(value, mc_std=0.1, **protocol):
    return Score("elbo", value, "nats", mc_std, PROTOCOL | {"samples": 100} | protocol)


def three(a, b):
    scores = {
        "one": {s: [elbo(v)] for s, v in enumerate(a)},
        "two": {s: [elbo(v)] for s, v in enumerate(b)},
    }
    return results("demo", scores, [])


def test_scores_are_summarised_over_seeds():
    values = [-80.0, -82.0, -81.5]
    row = three(values, values)["scores"][0]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert row["interval95"] == pytest.approx((interval.low, interval.high))
    assert (row["n_seeds"], row["seeds"], row["values"]) == (3, [0, 1, 2], values)
    assert row["model"] == "one"
    assert row["protocol"] == PROTOCOL | {"samples": 100}


def test_the_estimators_error_is_kept_apart_from_the_spread_over_runs():
    same = {"m": {s: [elbo(-80.0, mc_std=0.3)] for s in range(4)}}
    (row,) = results("x", same, [])["scores"]
    assert row["std"] == 0
    assert row["mc_std"] == pytest.approx(0.3 / 2)  # of the mean of four


def test_one_seed_has_no_std_or_interval():
    (row,) = results("x", {"m": {7: [elbo(-80.0)]}}, [])["scores"]
    assert row["std"] is None
    assert row["interval95"] is None
    assert row["n_seeds"] == 1


def test_failed_seeds_are_listed_and_not_counted():
    failure = {"model": "m", "seed": 1, "reason": "log_px was not finite"}
    found = results("x", {"m": {0: [elbo(-80.0)], 2: [elbo(-81.0)]}}, [failure])
    assert found["failures"] == [failure]
    assert found["scores"][0]["seeds"] == [0, 2]
    assert found["schema"] == 1
    assert found["study"] == "x"


def test_differences_are_paired_over_shared_seeds():
    scores = {
        "one": {s: [elbo(v)] for s, v in {0: 1.0, 1: 5.0, 2: 9.0, 3: 70.0}.items()},
        "two": {s: [elbo(v)] for s, v in {0: 0.0, 1: 4.5, 2: 8.0}.items()},
    }
    (row,) = results("x", scores, [])["differences"]
    assert (row["a"], row["b"], row["metric"], row["seeds"]) == ("one", "two", "elbo", [0, 1, 2])
    assert row["mean"] == pytest.approx(np.mean([1.0, 0.5, 1.0]))
    expected = scipy.stats.ttest_rel([1, 5, 9], [0, 4.5, 8]).confidence_interval(0.95)
    assert row["interval95"] == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    "other", [{"n": 11}, {"split": "train"}, {"view": "dynamic"}, {"samples": 5}, {"dataset": "m"}]
)
def test_scores_of_different_protocols_are_not_compared(other):
    scores = {"one": {0: [elbo(1.0)], 1: [elbo(2.0)]}, "two": {0: [elbo(1.0, **other)]}}
    assert results("x", scores, [])["differences"] == []


def test_different_feature_networks_are_not_compared():
    def fid(value, network):
        protocol = PROTOCOL | {"feature_hash": network, "floor": 1.0}
        return Score("fid", value, "", None, protocol)

    def compared(a, b):
        scores = {"one": {0: [fid(5.0, a)]}, "two": {0: [fid(6.0, b)]}}
        return len(results("x", scores, [])["differences"])

    assert compared("abc", "abc") == 1
    assert compared("abc", "def") == 0


@pytest.mark.parametrize(
    ("metric", "own", "compared"),
    [
        ("fid", {"sampler": "heun", "steps": 3, "rho": 7.0, "guidance": 2.0}, True),
        ("fid", {"sampler": "ddim", "steps": 3, "eta": 1.0}, True),
        ("kid", {"temperature": 0.7}, True),
        ("fid", {"steps": 3}, False),
        ("bpd", {"bound": "ELBO", "samples": 20}, True),
        ("elbo", {"samples": 20}, False),
        ("kl-aggregate", {"draws": 3}, True),
        ("samples-per-second", {"view": "grey"}, True),
        ("ais", {"steps": 3}, False),
    ],
)
def test_models_are_compared_that_differ_in_their_own_side_of_a_measurement(metric, own, compared):
    def score(protocol):
        return Score(metric, 1.0, "", None, PROTOCOL | {"samples": 4} | protocol)

    rows = results("x", {"one": {0: [score(own)]}, "two": {0: [score({})]}}, [])["differences"]
    assert len(rows) == compared


def test_seeds_under_different_protocols_never_share_a_mean():
    rows = results("x", {"m": {0: [elbo(1.0)], 1: [elbo(5.0, n=99)]}}, [])["scores"]
    assert sorted((r["mean"], r["protocol"]["n"]) for r in rows) == [(1.0, 10), (5.0, 99)]


def test_each_comparison_is_made_once_and_within_its_own_protocol():
    scores = {
        "one": {0: [elbo(1.0)], 1: [elbo(5.0, n=99)]},
        "two": {0: [elbo(0.5)], 1: [elbo(2.0, n=99)]},
    }
    rows = results("x", scores, [])["differences"]
    assert sorted((r["mean"], r["seeds"][0], r["protocol"]["n"]) for r in rows) == [
        (0.5, 0, 10),
        (3.0, 1, 99),
    ]


def test_metrics_of_one_protocol_are_compared_each_with_itself():
    def scores(low):
        return {0: [Score(m, low + i, "nats", None, PROTOCOL) for i, m in enumerate(("kl", "mi"))]}

    rows = results("x", {"one": scores(1.0), "two": scores(5.0)}, [])["differences"]
    assert sorted((r["metric"], r["mean"]) for r in rows) == [("kl", -4.0), ("mi", -4.0)]


def test_floors_and_the_datas_own_values_may_differ_between_seeds():
    def fid(value, floor, real):
        own = {"floor": floor, "real": real}
        return Score("fid", value, "", None, PROTOCOL | own)

    (row,) = results("x", {"m": {0: [fid(3.0, 1.0, 5.0)], 1: [fid(4.0, 2.0, 7.0)]}}, [])["scores"]
    assert row["n_seeds"] == 2
    assert (row["protocol"]["floor"], row["protocol"]["real"]) == (1.5, 6.0)


def test_a_null_level_may_differ_between_seeds_and_is_averaged():
    def energy(value, level):
        return Score("energy-distance", value, "", None, PROTOCOL | {"null95": level})

    (row,) = results("x", {"m": {0: [energy(1.0, 0.2)], 1: [energy(2.0, 0.4)]}}, [])["scores"]
    assert row["n_seeds"] == 2
    assert row["protocol"]["null95"] == pytest.approx(0.3)
    assert row["levels"] == [0.2, 0.4]
    assert row["mc_std"] is None
