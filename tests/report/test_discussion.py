"""The text claims what the intervals support, and nothing else."""

import json
import math
import re
from dataclasses import replace
from itertools import combinations

import pytest
from scipy.stats import binom
from synthetic import NINE, OF_2026, PRIORS, Synthetic, edit, write_study

from triptych.errors import UserError
from triptych.report.architectures import papers, sentences
from triptych.report.claims import compare, one_run, ranked, separated
from triptych.report.discussion import _fewer_pairs, discuss, exceeds_chance
from triptych.report.load import Summary, read_study
from triptych.report.wording import MINUS
from triptych.study import grid
from triptych.study.recipes import override, recipes_for

KEYS = ("burda2016", "tomczak2018")


def text_of(folder, brief=False) -> str:
    said = []
    for paragraph in discuss(read_study(folder), KEYS, brief):
        said.append(paragraph.head)
        said += [
            s if isinstance(s, str) else f"[{next(iter(s.values()))}]" for s in paragraph.spans
        ]
    return " ".join(" ".join(said).split())


def set_interval(folder, metric, a, b, interval):
    """Makes a - b have this interval, whichever way round it is stored."""

    def change(content):
        for d in content["differences"]:
            if d["metric"] == metric and {d["a"], d["b"]} == {a, b}:
                low, high = interval if d["a"] == a else (-interval[1], -interval[0])
                d |= {"interval95": [low, high], "mean": (low + high) / 2}

    edit(folder / "results.json", change)


def test_separated_pairs_are_claimed_with_interval_and_runs(folder):
    text = text_of(folder)
    assert re.search(
        r"The ELBO is higher for the flow prior than for the mixture prior by \d+\.\d+ nats "
        r"\(95% interval \d\S* to \d\S*, 3 paired runs\)",
        text,
    )
    assert "do not separate" not in text


@pytest.mark.parametrize(
    ("interval", "others", "told"),
    [
        ((0.2, 0.8), (0.2, 0.8), False),  # t = 7.2, P = 0.019, and needed at most 0.05 / 3
        ((0.23, 0.77), (0.2, 0.8), True),  # 8.0, 0.015; of the others less is asked then
        ((0.2, 0.8), (0.49, 0.51), True),  # the others are told apart, and it is the last
        ((-0.8, -0.2), (0.49, 0.51), True),
        ((-0.2, 0.8), (0.49, 0.51), False),
        (None, (0.49, 0.51), False),
    ],
)
def test_models_are_told_apart_with_all_pairs_considered(folder, interval, others, told):
    def change(content):
        for d in content["differences"]:
            if d["metric"] == "elbo":
                mine = {d["a"], d["b"]} == {"vae-gaussian", "vae-flow"}
                low, high = (interval if mine else others) or (0.4, 0.6)
                d |= {"mean": (low + high) / 2, "interval95": (interval if mine else others)}

    edit(folder / "results.json", change)
    study = read_study(folder)
    elbo = {score.model: score for score in ranked(study, study.part("A"), "elbo")}
    assert separated(study, elbo["vae-flow"], elbo["vae-gaussian"]) is told


def test_an_interval_that_is_clear_by_itself_alone_is_said_to_be(folder):
    for a, b in combinations(PRIORS, 2):
        set_interval(folder, "elbo", a, b, (0.1, 11.0) if "vae-flow" in (a, b) else (-1.0, 2.0))
    assert "(unadjusted 95% interval" in text_of(folder)
    set_interval(folder, "elbo", "vae-flow", "vae-gaussian", (-0.1, 11.0))
    set_interval(folder, "elbo", "vae-flow", "vae-mixture", (-0.1, 11.0))
    assert "(unadjusted 95% interval" not in text_of(folder)


@pytest.mark.parametrize("interval", [(-0.1, 11.0), (-11.0, 0.1), (-1e-9, 11.0), (-11.0, 1e-9)])
def test_no_claim_where_the_interval_holds_zero(folder, interval):
    set_interval(folder, "elbo", "vae-flow", "vae-mixture", interval)
    text = text_of(folder)
    assert "ELBO is higher for the flow prior than for the mixture" not in text
    assert "In ELBO the runs do not separate the flow prior from the mixture prior" in text
    assert "higher for the mixture prior than for the Gaussian prior" in text


def test_two_models_that_are_not_told_apart_are_named_once(folder):
    set_interval(folder, "elbo", "vae-flow", "vae-mixture", (-0.1, 11.0))
    study = read_study(folder)
    two = [r for r in study.recipes if r.name in ("vae-flow", "vae-mixture")]
    said = compare(study, ranked(study, two, "elbo"), "The ELBO")
    assert said.count("the flow prior from the mixture prior") == 1


def test_no_order_relation_without_every_neighbour_separated(folder):
    assert "ranks the models as the ELBO does" in text_of(folder)
    set_interval(folder, "kl-aggregate", "vae-flow", "vae-mixture", (-1.0, 0.2))
    assert "ranks the models as the ELBO does" not in text_of(folder)


def test_no_order_relation_where_the_orders_differ(folder):
    def swap(content):
        for score in content["scores"]:
            if score["metric"] == "kl-aggregate":
                score["mean"] = {"vae-flow": 9.0}.get(score["model"], score["mean"])

    edit(folder / "results.json", swap)
    assert "ranks the models as the ELBO does" not in text_of(folder)


def test_the_tighter_bound_is_said_to_agree_only_where_it_does(folder):
    agreed = "IWAE-1000 [burda2016] separates them in the same order."
    assert agreed in text_of(folder)
    set_interval(folder, "iwae-1000", "vae-flow", "vae-mixture", (-1.0, 8.0))
    text = text_of(folder)
    assert agreed not in text
    assert "In IWAE-1000 the runs do not separate the flow prior from the mixture prior" in text


def test_orders_that_the_paired_runs_contradict_are_not_said_to_agree(folder):
    """Separated, but the other way round than the means, which are of other seeds too."""
    assert "in the same order" in text_of(folder)
    set_interval(folder, "iwae-1000", "vae-flow", "vae-mixture", (-3.0, -1.0))
    text = text_of(folder)
    assert "in the same order" not in text
    assert "IWAE-1000 is lower for the flow prior than for the mixture prior by 2.00" in text
    set_interval(folder, "kl-aggregate", "vae-flow", "vae-mixture", (1.0, 3.0))
    assert "ranks the models as the ELBO does" not in text_of(folder)


def test_the_best_of_many_is_told_from_those_alone_that_its_runs_exceed(tmp_path):
    folder = write_study(tmp_path / "nine", Synthetic(priors=NINE))
    best = max(NINE, key=lambda name: NINE[name][2])
    for other in NINE.keys() - {best}:
        set_interval(folder, "elbo", best, other, (0.98, 1.02))
    assert "separate the best from every other" in text_of(folder)
    set_interval(folder, "elbo", best, "vae-vamp", (-1.5, -0.5))
    assert (
        "The runs do not show the best to be better than the VampPrior; ELBO is higher"
        in text_of(folder)
    )


def test_an_interval_says_of_how_many_runs_where_that_differs(folder):
    assert text_of(folder).count("paired runs)") > 1
    once = "by 5.50 nats (5.00 to 6.00)"
    set_interval(folder, "elbo", "vae-mixture", "vae-gaussian", (5.0, 6.0))
    assert once in text_of(folder)

    def fewer(content):
        for d in content["differences"]:
            if (d["metric"], d["a"], d["b"]) == ("elbo", "vae-gaussian", "vae-mixture"):
                d["n_seeds"] = 2

    edit(folder / "results.json", fewer)
    assert once[:-1] + ", 2 paired runs)" in text_of(folder)


def test_speeds_are_told_of_the_lowest_fid_or_not_at_all(tmp_path):
    ask = Synthetic(latent_dim=32, pixel=OF_2026, edition="2026")
    folder = write_study(tmp_path / "of-2026", ask)
    assert "Samples a second, as multiples of the DDPM's" in text_of(folder)

    def untimed(content):
        timed = ("ddpm", "samples-per-second")
        content["scores"] = [s for s in content["scores"] if (s["model"], s["metric"]) != timed]

    edit(folder / "results.json", untimed)
    text = text_of(folder)
    assert "has the lowest FID and is" not in text
    assert "Samples a second" not in text


LONGER = "The model with the lowest FID is the slowest."


def of_2026(folder, seeds):
    ask = Synthetic(latent_dim=32, pixel=OF_2026, edition="2026", seeds=seeds)
    return write_study(folder, ask)


def with_speeds(folder, **speeds):
    def change(content):
        for score in content["scores"]:
            if score["metric"] == "samples-per-second":
                score["mean"] = speeds[score["model"].replace("-", "_")]
                score["values"] = [score["mean"]] * score["n_seeds"]

    edit(folder / "results.json", change)
    return text_of(folder)


def test_quality_stands_against_time(tmp_path):
    """Claimed of pairs whose FID the runs tell apart, and whose speeds differ in every run."""
    folder = of_2026(tmp_path, (0, 1, 2))
    for a, b in combinations(OF_2026, 2):
        set_interval(folder, "fid", a, b, (-2.1, -1.9))
    speeds = {"ddpm": 1.0, "latent_small": 10.0, "latent_one": 20.0, "vae_b": 30.0}
    assert LONGER in with_speeds(folder, **speeds)
    near = with_speeds(folder, **dict.fromkeys(speeds, 1.0) | {"ddpm": 1.1})
    assert LONGER not in near
    assert "In both FID" not in near
    crossed = with_speeds(folder, **(speeds | {"latent_one": 5.0}))
    assert "In both FID and speed, Latent (beta = 1) is behind Latent (beta = 1e-6)." in crossed
    set_interval(folder, "fid", "latent-small", "latent-one", (-3.0, 1.0))
    assert LONGER in with_speeds(folder, **(speeds | {"latent_one": 5.0}))
    set_interval(folder, "fid", "ddpm", "vae-b", (-3.0, 1.0))
    assert LONGER not in with_speeds(folder, **speeds)


def test_quality_of_one_run_each_stands_against_time_by_its_own_error(tmp_path):
    folder = of_2026(tmp_path, (0,))

    def text(error):
        def change(content):
            for score in content["scores"]:
                if score["metric"] == "fid":
                    score["mc_std"] = error

        edit(folder / "results.json", change)
        return text_of(folder)

    assert LONGER in text(1e-3)
    assert LONGER not in text(1e3)
    assert LONGER not in text(None)


def test_what_is_no_number_holds_no_zero(folder):
    for a, b in combinations(PRIORS, 2):
        set_interval(folder, "elbo", a, b, (-1.0, 1.0))
    assert "each paired 95% interval contains 0" in text_of(folder)
    for a, b in combinations(PRIORS, 2):
        set_interval(folder, "elbo", a, b, (math.nan, math.nan))
    assert "each paired 95% interval contains 0" not in text_of(folder)
    edit(folder / "results.json", lambda content: content["differences"].clear())
    text = text_of(folder)
    assert "the flow prior from the mixture prior (no two paired runs)" in text
    assert "each paired 95% interval contains 0" not in text


def test_ends_are_compared_when_no_neighbours_are_separated(folder):
    set_interval(folder, "elbo", "vae-flow", "vae-mixture", (-1.0, 2.0))
    set_interval(folder, "elbo", "vae-mixture", "vae-gaussian", (-1.0, 2.0))
    set_interval(folder, "elbo", "vae-flow", "vae-gaussian", (1.5, 2.5))
    text = text_of(folder)
    assert "The ELBO is higher for the flow prior than for the Gaussian prior by 2.00 nats" in text


def test_a_claim_follows_the_difference_and_not_the_means(folder):
    # Means over different sets of seeds can be ordered against the paired difference.
    set_interval(folder, "elbo", "vae-flow", "vae-mixture", (-3.0, -1.0))
    text = text_of(folder)
    assert "lower for the flow prior than for the mixture prior by 2.00 nats" in text
    assert "1.00 to 3.00" in text


def test_a_bound_close_to_zero_is_not_printed_as_zero(folder):
    for low, said in ((0.02, "1.51 nats (95% interval 0.02 to 3.00"), (0.004, "0.004 to 3.000")):
        set_interval(folder, "elbo", "vae-flow", "vae-mixture", (low, 3.0))
        assert said in text_of(folder)


def test_a_long_text_says_where_the_elbo_is_highest_and_who_showed_it(folder):
    why = "For a given encoder the ELBO is highest where the prior is the aggregate posterior"
    assert f"{why} [tomczak2018] ." in text_of(folder)
    assert why not in text_of(folder, brief=True)


def test_papers_stand_in_one_sentence(folder):
    spans = papers(read_study(folder), brief=True)
    assert "".join(s if isinstance(s, str) else f"[{s['cite']}]" for s in spans) == (
        "The VAEs [kingma2014], the flows [dinh2017] and the DDPM [ho2020] are trained on MNIST."
    )


@pytest.mark.parametrize(
    ("architectures", "said"),
    [
        (["a net, M = 3, a flow.", "a net, M = 3, a mixture."], "a net, M=3; a flow; a mixture."),
        (["a net, M = 3, a flow.", "a net, M = 3, a flow."], "a net, M=3, a flow."),
        (["one.", "two."], "one; two."),
    ],
)
def test_two_models_say_once_what_they_share(architectures, said, tmp_path):
    priors = {name: PRIORS[name] for name in ("vae-gaussian", "vae-flow")}
    folder = write_study(tmp_path / "s", Synthetic(priors=priors, part_b=False))

    def describe(content):
        for recipe, text in zip(content["recipes"], architectures, strict=True):
            recipe["architecture"] = text

    edit(folder / "study.json", describe)
    (sentence,) = sentences(read_study(folder), details=False)
    assert sentence["text"].replace("\u00a0", "") == said


def test_one_run_of_several_models_is_a_warning_only_where_none_has_more(folder):
    study = read_study(folder)
    several = ranked(study, study.part("A"), "elbo")
    alone = [replace(s, n_seeds=1, seeds=s.seeds[:1], values=s.values[:1]) for s in several]
    assert one_run(alone, brief=False).startswith("One run each: ")
    assert one_run([alone[0], *several[1:]], brief=False) == ""
    numbers = f"ELBO is {MINUS}72.9"
    assert compare(study, alone, "ELBO").startswith(numbers)
    assert compare(study, alone, "ELBO", values=False) == ""


def test_one_run_claims_nothing(one_seed):
    text = text_of(one_seed)
    assert text.count("One run each: no spread over runs can be given") == 2
    for word in ("higher", "lower", "interval", "separate"):
        assert word not in text


def test_brief_text_of_one_run_each_leaves_the_warning_to_the_caption(one_seed):
    assert "no spread" not in text_of(one_seed, brief=True)


def test_text_points_to_the_figures_that_the_page_has(folder):
    heads = [p.head for p in discuss(read_study(folder), KEYS, figures=("samples",))]
    assert "Prior and aggregate posterior." in heads
    assert "Sampling quality (Figure 1)." in heads


def with_scores(folder, metric, **means):
    """FID's scores again, under another name and with these means."""

    def change(content):
        for score in [s for s in content["scores"] if s["metric"] == "fid"]:
            if score["model"] in means:
                other = score | {"metric": metric, "mean": means[score["model"]]}
                other["protocol"] = other["protocol"] | {"real": 0.93}
                content["scores"].append(other)

    edit(folder / "results.json", change)


def test_precision_and_recall_stand_beside_those_of_real_images(folder):
    with_scores(folder, "precision", **{"pixelflow": 0.651, "ddpm": 0.873, "vae-b": 0.89})
    with_scores(folder, "recall", pixelflow=0.93, ddpm=0.944)
    assert "Precision" not in text_of(folder), "one model has no recall"
    with_scores(folder, "recall", **{"vae-b": 0.88})
    assert (
        "Precision and recall [kynkaanniemi2019] are 0.87 and 0.94 for the DDPM, 0.65 and 0.93 for "
        "the pixel flow and 0.89 and 0.88 for the VAE; for real images 0.93 and 0.93."
    ) in text_of(folder)


def test_where_kl_is_at_its_limit_fewer_pairs_may_be_told_apart_by_a_classifier(folder):
    def limit(content):
        for score in content["scores"]:
            if score["metric"] == "mutual-information":
                score["mean"] = 9.2  # log 10,000 = 9.21
        content["differences"] = [
            d for d in content["differences"] if d["metric"] != "classifier-accuracy"
        ]

    apart, same = [-0.09, -0.08], [-0.1, 0.1]
    pairs = list(combinations(PRIORS, 2))

    def tested(content):
        content["differences"] += [
            {"metric": "classifier-accuracy", "unit": "", "a": a, "b": b, "mean": sum(found) / 2}
            | {"std": 0.01, "n_seeds": 3, "interval95": found, "seeds": [0, 1, 2], "protocol": {}}
            for (a, b), found in zip(pairs, (apart, same, same), strict=True)
        ]

    before = text_of(folder)
    assert "hardly overlap" not in before
    edit(folder / "results.json", limit)
    assert "Its accuracy separates" not in text_of(folder), "nothing was compared"
    edit(folder / "results.json", tested)
    text = text_of(folder, brief=True)
    assert "minus log 10 000, smaller with more images" in text
    kl = "KL(q(z)\N{DOUBLE VERTICAL LINE}p(z))"
    assert f"Its accuracy separates 1 of the 3 pairs of models; {kl} separates all." in text
    study = read_study(folder)
    two = [study.score(name, "kl-aggregate") for name in pairs[1]]
    assert _fewer_pairs(study, two) == f" Its accuracy does not separate the two models; {kl} does."
    for a, b in pairs[1:]:
        set_interval(folder, "classifier-accuracy", a, b, apart)
    assert "Its accuracy separates" not in text_of(folder), "as many as KL"
    (terse,) = (
        "".join(s for s in p.spans if isinstance(s, str))
        for p in discuss(read_study(folder), KEYS, brief=True, terse=True)
        if p.head.startswith("Prior")
    )
    assert f"hardly overlap: with more, {kl} would be smaller." in terse


def test_what_a_test_tells_apart_and_by_how_many_runs(folder):
    """Of three runs, one lies above its 5% level by chance in one study of seven; two rarely do."""
    above = {"vae-gaussian": 2, "vae-mixture": 0, "vae-flow": 1}

    def change(content):
        for score in content["scores"]:
            if score["metric"] == "classifier-accuracy":
                values = sorted(score["values"], reverse=True)
                n = above[score["model"]]
                score["protocol"]["null95"] = values[n] + 1e-9 if n < 3 else 0.0

    edit(folder / "results.json", change)
    assert (
        "A classifier tells q(z) from p(z) for the Gaussian prior (2 of 3 runs exceed their 95% "
        "null level), not for the mixture prior and the flow prior."
    ) in text_of(folder)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ([], "tells q(z) from p(z) for every model."),
        (["vae-maf"], "tells q(z) from p(z) for every model but the autoregressive flow prior."),
        (list(NINE)[2:], "tells q(z) from p(z) for the Gaussian prior and the mixture prior."),
        (list(NINE), "tells q(z) from p(z) for no model."),
    ],
)
def test_of_many_models_the_fewer_are_named(rest, said, tmp_path):
    def change(content):
        for score in content["scores"]:
            if score["metric"] == "classifier-accuracy":
                score["protocol"]["null95"] = math.inf if score["model"] in rest else 0.0

    folder = write_study(tmp_path / "nine", Synthetic(priors=NINE))
    edit(folder / "results.json", change)
    assert f"A classifier {said}" in text_of(folder, brief=True)


def test_runs_above_their_level_are_counted_where_no_model_is_told_apart(folder):
    """One of three is no evidence, and is not kept quiet."""

    def change(content):
        for score in content["scores"]:
            if score["metric"] == "classifier-accuracy":
                values = sorted(score["values"])
                score["protocol"]["null95"] = values[1] if score["model"] == "vae-flow" else 99.0

    edit(folder / "results.json", change)
    said = "tells q(z) from p(z) for no model (1 of 9 runs exceed their 95% null level)."
    assert said in text_of(folder)


@pytest.mark.parametrize("edition", ["2024", "2026"])
def test_the_tersest_text_leaves_out_intervals_that_hold_zero(edition, tmp_path):
    ask = Synthetic(pixel=OF_2026, edition=edition)
    folder = write_study(tmp_path, ask)
    for a, b in combinations(OF_2026, 2):
        set_interval(folder, "fid", a, b, (-3.0, 1.0))
    for a, b in combinations(PRIORS, 2):
        set_interval(folder, "elbo", a, b, (-3.0, 1.0) if "vae-flow" in (a, b) else (1.0, 2.0))
    text = discuss(read_study(folder), KEYS, brief=True, terse=True)
    said = " ".join(str(span) for paragraph in text for span in paragraph.spans)
    assert "do not separate" in said
    assert "The runs do not show the best to be better than any other." in said
    assert f"{MINUS}3.00 to" not in said
    assert f"{MINUS}3.00 to" in text_of(folder, brief=True)


def test_each_run_stands_against_its_own_level():
    """Two of three exceed the mean of their levels, one its own."""
    score = Summary("m", "energy-distance", "", 2.0, None, 3, [0, 1, 2], [1.8, 3.0, 1.9])
    means = replace(score, protocol={"null95": 1.85})
    assert exceeds_chance(means)
    assert not exceeds_chance(replace(means, levels=[1.9, 1.7, 1.95]))


@pytest.mark.parametrize(
    ("runs", "above", "told"),
    [(1, 1, True), (5, 1, False), (5, 2, True), (20, 3, False), (20, 4, True)],
)
def test_more_runs_above_their_level_than_chance_explains(runs, above, told):
    assert told == (binom.sf(above - 1, runs, 0.05) <= 0.05)
    values = [1.0] * above + [0.0] * (runs - above)
    seeds = list(range(runs))
    score = Summary("m", "mmd2", "", 0.5, None, runs, seeds, values, protocol={"null95": 0.5})
    assert exceeds_chance(score) is told


def test_fid_stands_beside_n_and_floor(folder):
    text = text_of(folder)
    assert "At N = 10 000 images the FID is" in text
    assert re.search(r"for the DDPM \(\d\.\d times its floor\)", text)


def test_fid_of_different_protocols_is_never_compared(folder):
    def change(content):
        for score in content["scores"]:
            if score["model"] == "ddpm" and score["metric"] == "fid":
                score["protocol"]["n"] = 64

    edit(folder / "results.json", change)
    with pytest.raises(UserError, match="differ in n"):
        text_of(folder)


def test_failures_are_told(folder):
    failed = [
        {"model": "vae-flow", "seed": s, "reason": "loss became nan.\n" * 20} for s in range(5)
    ]
    edit(folder / "results.json", lambda content: content.update(failures=failed))
    text = text_of(folder)
    assert "5 runs gave no score: the flow prior, seed 0 (loss became nan" in text
    assert "and 2 runs more" in text


def test_brief_keeps_every_comparison_of_part_a(folder):
    assert len(text_of(folder, brief=True)) < len(text_of(folder))
    study = read_study(folder)
    gain = study.score("vae-flow", "iwae-1000").mean - study.score("vae-flow", "elbo").mean
    assert gain > 0
    found = re.search(r"exceeds the ELBO by .* and ([\d.]+) for the flow", text_of(folder))
    assert float(found[1]) == pytest.approx(gain, abs=0.005)
    assert "exceeds the ELBO by" not in text_of(folder, brief=True)
    assert "higher for the flow prior" in text_of(folder, brief=True)


def test_own_text_replaces_all(folder):
    own = "# Ours\n\nWe **saw** *that* [@burda2016]\nand # not $5 to $6 2 * 3 * 4\n\nEnd."
    (folder / "discussion.md").write_text(own, encoding="utf-8")
    first, second, third = discuss(read_study(folder), KEYS)
    assert first.head == "Ours"
    assert second.spans == [
        "We ",
        {"strong": "saw"},
        " ",
        {"emph": "that"},
        " ",
        {"cite": "burda2016"},
        " and # not $5 to $6 2 * 3 * 4",
    ]
    assert third.spans == ["End."]


def test_a_heading_is_one_line_and_a_mark_of_the_encoding_no_letter(folder):
    (folder / "discussion.md").write_text("# Ours\nof us\n## Two\nof two", encoding="utf-8-sig")
    found = [(p.head, p.spans) for p in discuss(read_study(folder), KEYS)]
    assert found == [("Ours", []), ("", ["of us"]), ("Two", []), ("", ["of two"])]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("at $-72.9$ nats", "a formula"),
        ("the `prior`", "code"),
        ("> so they say", "a quotation"),
        ("it is __bold__", "underscores to emphasise"),
        ("it is _so_, we say", "underscores to emphasise"),
        (r"as \cite{ho2020} say", "LaTeX"),
        (r"q_\phi of \(x\)", "LaTeX"),
        (r"5\% of 3\sigma", "LaTeX"),
        (r"the model vae\_flow", "LaTeX"),
        ("beta = 10^{-6}", "LaTeX"),
        ("x_{t-1} of x_t", "LaTeX"),
        ("so 10$^3$", "a formula"),
        ("it is <b>bold</b>", "HTML"),
        ("so <!-- is it? -->", "HTML"),
    ],
)
def test_markup_that_would_be_printed_as_it_is_written_is_refused(folder, text, what):
    (folder / "discussion.md").write_text(f"We saw.\n{text}.")
    with pytest.raises(UserError, match=f"has {what}"):
        discuss(read_study(folder), KEYS)
    (folder / "discussion.md").write_text(
        r"vae_flow and a.org/_x_/y cost $5, not $6, if a > b, of <x>, {x}, x^2, "
        r"in C:\runs\demo or ..\up \ so." + "\nEs kostet 5$, nicht 6$."
    )
    assert len(discuss(read_study(folder), KEYS)) == 1


def test_numbered_items_are_paragraphs_too(folder):
    (folder / "discussion.md").write_text("We saw:\n1. one\n2) two\nIn\n12. Then\n\n3. three")
    found = [p.spans for p in discuss(read_study(folder), KEYS)]
    assert found == [["We saw:"], ["1. one"], ["2) two In 12. Then"], ["3. three"]]


@pytest.mark.parametrize("parts", [{"part_b": False}, {"priors": {}}, {}])
def test_the_rule_of_claims_is_said_once_wherever_the_first_is(tmp_path, parts):
    folder = write_study(tmp_path / "s", Synthetic(**parts))
    assert text_of(folder).count("Differences are claimed by Holm's test") == 1
    assert text_of(folder, brief=True).count("Differences: Holm's test over all pairs, 5%") == 1


def test_without_a_pair_there_is_no_rule(tmp_path):
    one = {"vae-flow": Synthetic().priors["vae-flow"]}
    assert "Holm" not in text_of(write_study(tmp_path / "s", Synthetic(priors=one, part_b=False)))


def test_items_of_a_list_are_paragraphs_of_their_own(folder):
    (folder / "discussion.md").write_text("We saw:\n- one\n  and more\n- *two*\n\nKL[q](z) - not.")
    said = discuss(read_study(folder), KEYS)
    assert [p.spans for p in said] == [
        ["We saw:"],
        ["\N{BULLET} one and more"],
        ["\N{BULLET} ", {"emph": "two"}],
        ["KL[q](z) - not."],
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Of\n| a | b |\n|---|---|", r"has a table, '\|---\|---\|'"),
        ("See ![x](y.png).", r"has an image, '!\[x\]\(y\.png\)'"),
        ("See [here](there.md).", r"has a link, '\[here\]\(there\.md\)'"),
        ("```\ncode\n```", "has a block of code"),
        ("# Of [@nope]\ntext", "cites in the heading"),
    ],
)
def test_markup_that_would_be_printed_as_it_is_is_refused(text, named, folder):
    (folder / "discussion.md").write_text(text)
    with pytest.raises(UserError, match=named):
        discuss(read_study(folder), ["nope"])


def test_own_text_that_is_empty_leaves_ours(folder):
    ours = discuss(read_study(folder), KEYS)
    (folder / "discussion.md").write_text("\n  \n")
    assert discuss(read_study(folder), KEYS) == ours


@pytest.mark.parametrize("cited", ["nobody2000", "burda2016; @tomczak2018", ""])
def test_a_paper_that_is_not_known_is_refused(folder, cited):
    (folder / "discussion.md").write_text(f"As [@{cited}] say.")
    with pytest.raises(UserError, match=r"of burda2016, tomczak2018$") as caught:
        discuss(read_study(folder), KEYS)
    assert f"cites [@{cited}]" in str(caught.value)


def test_own_text_that_is_not_text(folder):
    (folder / "discussion.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"discussion\.md cannot be read"):
        discuss(read_study(folder), KEYS)


@pytest.mark.parametrize(("shares", "said"), [((0.02, 0.05), ""), ((0.4, 0.9), "40 to 90%")])
def test_a_heavy_tail_of_the_weights_is_warned_of(folder, shares, said):
    def add(content):
        (model,) = [s for s in content["scores"] if (s["model"], s["metric"]) == FLOW_IWAE]
        other = model | {"model": "vae-gaussian"}
        for row, share in zip((model, other), shares, strict=True):
            content["scores"].append(row | {"metric": "unreliable-share", "mean": share})

    edit(folder / "results.json", add)
    text = text_of(folder)
    assert ("Pareto" in text) == bool(said)
    assert said in text


FLOW_IWAE = ("vae-flow", "iwae-1000")


def test_many_models_are_compared_with_the_best_alone(tmp_path):
    """Spline -72.8, flow -72.9, MAF -73.5, ... : the paired intervals decide what is said."""
    folder = write_study(tmp_path / "nine", Synthetic(priors=NINE, jitter=0.02))
    best = "vae-spline"
    others = [name for name in NINE if name != best]
    for other in others:
        set_interval(folder, "elbo", best, other, (0.5, 0.7))
    set_interval(folder, "elbo", best, "vae-flow", (-0.1, 0.3))
    text = text_of(folder)
    assert re.search(
        r"The best mean ELBO is \N{MINUS SIGN}72\.\d+, for the spline flow prior, the worst "
        r"\N{MINUS SIGN}80\.\d+, for the Gaussian prior\. The runs do not show the best to be "
        r"better than "
        r"the flow prior; ELBO is higher for the spline flow prior than for the autoregressive "
        r"flow prior "
        r"by 0\.60 nats "
        r"\(95% interval 0\.50 to 0\.70, 3 paired runs\)\.",
        text,
    )
    set_interval(folder, "elbo", best, "vae-flow", (0.1, 0.3))
    assert re.search(
        r"The runs separate the best from every other; beside the next, ELBO is higher for the "
        r"spline flow prior than for the flow prior by 0\.20 nats \(95% interval 0\.10 to 0\.30, "
        r"3 paired runs\)\.",
        text_of(folder),
    )
    for other in others:
        set_interval(folder, "elbo", best, other, (-0.5, 0.7))
    assert "The runs do not show the best to be better than any other." in text_of(folder)


def test_brief_says_of_many_samplers_what_the_table_does_not(tmp_path):
    third = {"latent-mid": ("Latent, beta = 0.1", "latent", None, 7.7)}
    ask = Synthetic(latent_dim=32, pixel=OF_2026 | third, edition="2026")
    folder = write_study(tmp_path / "study", ask)
    said, whole = text_of(folder, brief=True), text_of(folder)
    fid = {s.model: s.mean for s in read_study(folder).scores if s.metric == "fid"}
    best, worst = min(fid.values()), max(fid.values())
    assert f"the lowest FID is {best:.2f} for" in said
    assert f"the highest {worst:.2f} for" in said
    prior = [s.mean for s in read_study(folder).scores if s.metric == "fid-prior"]
    assert f"{min(prior):.2f} to {max(prior):.2f}" in said
    assert all(f"{value:.2f}" in whole for value in (*fid.values(), *prior))


def test_a_product_in_own_text_is_not_emphasised(folder):
    (folder / "discussion.md").write_text("Of 2*3*4 (*three*) we\nsaw *all*, *most* and **none**.")
    [paragraph] = discuss(read_study(folder), KEYS)
    emphasised = [
        span["emph"] for span in paragraph.spans if isinstance(span, dict) and "emph" in span
    ]
    assert emphasised == ["three", "all", "most"]
    assert paragraph.spans[0] == "Of 2*3*4 ("


def test_fids_of_decoded_latents_are_of_all_models_or_of_none(tmp_path):
    folder = of_2026(tmp_path / "study", (0,))
    assert "; with latents of training images, " in text_of(folder)

    def one_missing(content):
        of = [s for s in content["scores"] if s["metric"] == "fid-reconstruction"]
        content["scores"].remove(of[0])

    edit(folder / "results.json", one_missing)
    assert "FID is" in text_of(folder)
    assert "with latents of training images" not in text_of(folder)


@pytest.mark.parametrize(("error", "open_"), [(1.0, False), (1.3, True), (None, False)])
def test_latents_that_their_errors_do_not_separate_are_left_open(error, open_, tmp_path):
    """6.2 and 9.4 are 3.2 apart; 2.1 errors of a difference are 2.97 and 3.86."""
    folder = write_study(tmp_path, Synthetic(pixel=OF_2026, seeds=(0,), edition="2026"))

    def change(content):
        for score in content["scores"]:
            if score["metric"] == "fid" and score["model"].startswith("latent"):
                score |= {"mean": OF_2026[score["model"]][3], "mc_std": error}

    edit(folder / "results.json", change)
    assert (
        "FID's error is too large to tell which latent DDPM is best." in text_of(folder)
    ) == open_


OF_PARTS = ("durkan2019", "kingma2018", "ho2019", "gulrajani2017", "higgins2017", "simard2003")
OF_PARTS += ("nichol2021", "salimans2022", "ma2019")


@pytest.mark.parametrize(
    ("recipe", "settings", "keys"),
    [
        ("pixelflow-spline", {}, {"durkan2019", "kingma2018", "ho2019", "ma2019"}),
        ("pixelflow", {"dequantization": "uniform"}, {"kingma2018"}),
        ("pixelflow", {"dequantization": "uniform", "network": "mlp"}, set()),
        (
            "pixelflow-spline",
            {"autoregressive_layers": 0},
            {"durkan2019", "kingma2018", "ho2019"},
        ),
        ("vae-gaussian", {"bent": 0}, set()),
        ("vae-gaussian", {"bent": 0.5}, {"simard2003"}),
        ("vae-gaussian", {"beta": 4.0}, {"higgins2017"}),
        ("vae-spline", {}, {"durkan2019"}),
        ("vae-gaussian", {"likelihood": "autoregressive"}, {"gulrajani2017"}),
        ("ddpm", {}, {"nichol2021", "salimans2022"}),
        ("ddpm", {"schedule": "linear", "prediction": "eps"}, set()),
        (
            "ddpm",
            {"schedule": "linear", "prediction": "eps", "variance": "learned"},
            {"nichol2021"},
        ),
        ("latent-ddpm", {"beta": 1e-3}, {"higgins2017", "nichol2021", "salimans2022"}),
        ("latent-ddpm", {"beta": 1.0}, {"nichol2021", "salimans2022"}),
        (
            "latent-ddpm",
            {"beta": 1.0, "vae_train": {"bent": 1.0}},
            {"simard2003", "nichol2021", "salimans2022"},
        ),
    ],
)
def test_papers_on_parts_are_of_the_settings(recipe, settings, keys, tmp_path):
    """As far as a model has such a part, whatever words describe it."""
    made = override(recipes_for("mnist")[recipe], **settings)
    plain = grid.study_json(grid.Study("one", "mnist", (grid.Plan(made, (0,)),)), (1, 28, 28), 256)
    (tmp_path / "study.json").write_text(json.dumps(plain))
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "scores": []}))
    spans = papers(read_study(tmp_path), False)
    assert keys == {s["cite"] for s in spans if not isinstance(s, str)}.intersection(OF_PARTS)


@pytest.mark.parametrize(
    ("names", "said"), [(["ddpm"], "is trained on"), (["ddpm", "vae-b"], "are trained on")]
)
def test_one_model_is_trained_and_several_are(names, said, tmp_path):
    pixel = {name: OF_2026[name] for name in names}
    study = read_study(write_study(tmp_path, Synthetic(priors={}, pixel=pixel)))
    assert said in " ".join(map(str, papers(study, False)))
