"""A column holds one protocol; what is printed is what was stored."""

import pytest
from synthetic import OF_2026, Synthetic, edit, write_study

from triptych.errors import UserError
from triptych.report.discussion import discuss
from triptych.report.likelihood_table import likelihood_table
from triptych.report.load import read_study
from triptych.report.sampling_table import sampling_table
from triptych.report.tables import DASH
from triptych.report.wording import MINUS, NARROW_SPACE, number, spread, two_digits


def change_protocol(folder, model, metric, **values):
    def change(content):
        for score in content["scores"]:
            if (score["model"], score["metric"]) == (model, metric):
                score["protocol"] |= values

    edit(folder / "results.json", change)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.04, "0.0"),
        (-2.75e12, f"{MINUS}2.8e12"),  # of a run that diverged, as wide as the page if written out
        (999_999.0, f"999{NARROW_SPACE}999.0"),
    ],
)
def test_numbers_have_signs_and_an_end(value, text):
    assert number(value, 1) == text


@pytest.mark.parametrize(
    ("key", "value"),
    [("n", 1000), ("split", "train"), ("view", "dynamic"), ("dataset", "kmnist"), ("samples", 7)],
)
def test_bounds_of_different_protocols_never_share_a_column(folder, key, value):
    change_protocol(folder, "vae-flow", "iwae-1000", **{key: value})
    with pytest.raises(UserError, match=f"vae-flow.*differ in {key}"):
        likelihood_table(read_study(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 5000),
        ("split", "train"),
        ("view", "threshold"),
        ("feature_hash", "0"),
        ("features", ""),
    ],
)
def test_fid_of_different_protocols_never_shares_a_column(folder, key, value):
    change_protocol(folder, "ddpm", "fid", **{key: value})
    with pytest.raises(UserError, match=f"fid of .*differ in {key}"):
        sampling_table(read_study(folder))


def test_a_key_that_only_one_score_has_is_a_difference(folder):
    change_protocol(folder, "ddpm", "fid", crop=24)
    with pytest.raises(UserError, match="differ in crop"):
        sampling_table(read_study(folder))


@pytest.mark.parametrize(
    "own", [{"floor": 3}, {"temperature": 3}, {"sampler": "ddim", "steps": 3, "eta": 1}]
)
def test_what_belongs_to_the_model_may_differ(folder, own):
    change_protocol(folder, "pixelflow", "fid", **own)
    assert sampling_table(read_study(folder)) is not None


def test_runs_of_one_model_under_two_protocols_are_refused(folder):
    def split(content):
        (score,) = [s for s in content["scores"] if (s["model"], s["metric"]) == ("ddpm", "fid")]
        content["scores"].append(score | {"protocol": score["protocol"] | {"n": 5}})

    edit(folder / "results.json", split)
    with pytest.raises(UserError, match="fid of ddpm was measured under 2 protocols"):
        sampling_table(read_study(folder))


def test_likelihood_table(folder):
    study = read_study(folder)
    table = likelihood_table(study)
    assert table is not None
    assert table.header[1:3] == ["ELBO", "IWAE-1000"]
    assert [row[0] for row in table.rows] == [r.title for r in study.part("A")]
    score = study.score("vae-flow", "elbo")
    assert score is not None
    assert score.std is not None
    expected = f"\u2212{abs(score.mean):.2f} \u00b1 {score.std:.2f}"
    assert table.rows[2][1] == expected
    assert "(0.512)" in table.rows[0][5]


def test_the_caption_of_the_likelihoods_says_what_they_are_of(folder):
    """And explains the columns that there are."""

    def said() -> str:
        caption = likelihood_table(read_study(folder)).caption
        return "".join(s if isinstance(s, str) else s.get("strong", "") for s in caption)

    assert said().replace("\u00a0", " ").replace("\u202f", " ") == (
        "Test-set log-likelihood and match. MNIST, test split, n = 10 000, binarized at 0.5; mean "
        "± standard deviation over 3 runs. In nats; I: mutual information; told apart : a "
        "classifier's accuracy between q(z) and p(z) (its 95% level if they are equal); IWAE-1000: "
        "."
    )

    def without(content):
        gone = ("classifier-accuracy", "mutual-information")
        content["scores"] = [s for s in content["scores"] if s["metric"] not in gone]
        for score in content["scores"]:
            score["protocol"].pop("dataset")

    edit(folder / "results.json", without)
    assert said().startswith("Test-set log-likelihood and match. test split")
    assert "In nats; IWAE-1000" in said()


@pytest.mark.parametrize(
    ("mean", "std", "cell"),
    [(123.4, 5.0, "120 ± <10"), (9.97, 0.06, "10 ± <1"), (0.0997, 0.0006, "0.10 ± <0.01")],
)
def test_a_rates_spread_is_given_to_the_place_of_its_mean(tmp_path, mean, std, cell):
    folder = write_study(tmp_path / "2026", Synthetic(pixel=OF_2026, edition="2026"))

    def timed(content):
        for score in content["scores"]:
            if score["metric"] == "samples-per-second":
                score |= {"mean": mean, "std": std}

    edit(folder / "results.json", timed)
    assert {row[-1] for row in sampling_table(read_study(folder)).rows} == {cell}


def test_all_distances_have_as_many_decimals(tmp_path):
    table = sampling_table(read_study(write_study(tmp_path / "2026", Synthetic(pixel=OF_2026))))
    column = table.header.index("FID")
    for row in table.rows:
        for cell in row[column : column + 2]:
            assert all(len(n.partition(".")[2]) == 2 for n in cell.split(" ± ") if n != DASH)


def test_sampling_table_has_floor_and_n(folder):
    table = sampling_table(read_study(folder))
    assert table is not None
    assert table.header == ["Model", "bits/dim", "FID", "floor"]
    assert [row[3] for row in table.rows] == ["1.08"] * 3
    assert table.rows[0][1] == "\u2013"
    caption = "".join(span for span in table.caption if isinstance(span, str))
    assert "n\u00a0=\u00a010\u202f000" in caption
    assert "DDIM, 50 steps, eta\u00a0=\u00a01" in caption
    assert {"cite": "song2021"} in table.caption


def test_one_run_each_has_the_error_of_its_distance(tmp_path):
    """And several runs their spread, beside which an error would be taken for one."""
    for seeds, ends in (((0,), "\u00b1 0.37"), ((0, 1, 2), "")):
        folder = write_study(tmp_path / str(len(seeds)), Synthetic(seeds=seeds))
        before = sampling_table(read_study(folder))

        def change(content):
            for score in content["scores"]:
                score["mc_std"] = 0.37 if score["metric"] == "fid" else None

        edit(folder / "results.json", change)
        table = sampling_table(read_study(folder))
        assert table is not None
        assert all(row[2].endswith(ends) for row in table.rows)
        assert ("the estimate's standard error" in str(table.caption)) == bool(ends)
        assert ends or table == before


def test_a_sampling_table_says_of_what_features_its_distances_are(folder):
    assert "features classifier (ab12cd34)" in str(sampling_table(read_study(folder)))
    for model in ("ddpm", "pixelflow", "vae-b"):
        change_protocol(folder, model, "fid", features=None, feature_hash="")
    assert "features" not in str(sampling_table(read_study(folder)))


def test_the_2026_edition_has_samples_a_second_without_latents_too(tmp_path):
    folder = write_study(tmp_path / "study", Synthetic(edition="2026"))
    table = sampling_table(read_study(folder))
    assert table is not None
    assert table.header == ["Model", "FID", "1/s"]
    caption = "".join(span for span in table.caption if isinstance(span, str))
    assert "; floor: FID of as many training images, 1.08." in caption
    assert "1/s: samples a second (cpu, 1 thread, batches of 64)." in caption
    assert "own prior" not in caption.lower()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9962, "1.0"), (0.94, "0.94"), (9.96, "10"), (2345, f"2{NARROW_SPACE}300")],
)
def test_a_clock_is_good_for_two_digits(value, text):
    assert two_digits(value) == text


def test_a_guided_sampler_is_said_to_be(folder):
    change_protocol(folder, "ddpm", "fid", guidance=2.0)
    table = sampling_table(read_study(folder))
    assert table is not None
    caption = "".join(span for span in table.caption if isinstance(span, str))
    assert "DDIM, 50 steps, eta\u00a0=\u00a01, autoguidance 2" in caption
    assert {"cite": "karras2024"} in table.caption
    change_protocol(folder, "ddpm", "fid", sampler="dpm-solver++", rho=7.0)
    caption = str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    assert "DPM-Solver++, 50 steps, eta = 1, rho = 7, autoguidance 2" in caption
    change_protocol(folder, "ddpm", "fid", noise_below=4.0)
    caption = str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    assert "eta = 1 below sigma/alpha = 4, rho = 7" in caption
    assert [caption.count(key) for key in ("lu2022", "karras2022", "karras2024")] == [1, 1, 1]


def test_latents_drawn_alike_are_named_together_and_papers_once(tmp_path):
    folder = write_study(tmp_path, Synthetic(pixel=OF_2026, edition="2026"))
    noisy = {"sampler": "dpm-solver++", "steps": 50, "eta": 1.0, "guidance": 2.0}
    for name in ("ddpm", "latent-small", "latent-one"):
        change_protocol(folder, name, "fid", **noisy)
    caption = str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    assert "3 models: DPM-Solver++, 50 steps, eta = 1, autoguidance 2" in caption
    change_protocol(folder, "ddpm", "fid", rho=7.0)
    caption = str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    assert "; Latent DDPMs: DPM-Solver++, 50 steps, eta = 1, autoguidance 2" in caption
    assert [caption.count(key) for key in ("lu2022", "karras2022", "karras2024")] == [1, 1, 1]
    change_protocol(folder, "latent-one", "fid", sampler="heun")
    caption = str(sampling_table(read_study(folder)))
    assert "Latent DDPMs" not in caption
    alone = {name: OF_2026[name] for name in OF_2026 if name != "latent-one"}
    folder = write_study(tmp_path / "alone", Synthetic(pixel=alone, edition="2026"))
    change_protocol(folder, "latent-small", "fid", **noisy)
    caption = str(sampling_table(read_study(folder)))
    assert "Latent DDPMs" not in caption
    assert alone["latent-small"][0] in caption


def test_mutual_information_that_can_be_no_higher_has_no_column(folder):
    def change(content):
        for score in content["scores"]:
            if score["metric"] == "mutual-information":
                score["mean"] = 9.2  # log 10,000 = 9.21

    before = likelihood_table(read_study(folder))
    edit(folder / "results.json", change)
    after = likelihood_table(read_study(folder))
    assert before is not None
    assert after is not None
    assert [h for h in before.header if h != "I(x; z)"] == after.header != before.header
    said = "".join(
        s for p in discuss(read_study(folder), ()) for s in p.spans if isinstance(s, str)
    )
    assert "smaller with more images" in said
    assert "ranks the models as the ELBO does" not in said

    def one_is_lower(content):
        found = (s for s in content["scores"] if s["metric"] == "mutual-information")
        next(found)["mean"] = 8.0

    edit(folder / "results.json", one_is_lower)
    assert likelihood_table(read_study(folder)).header == before.header


def test_the_error_of_bits_per_dim_is_said_where_it_shows(folder):
    def change(content):
        for score in content["scores"]:
            if score["metric"] == "bpd" and score["model"] == "ddpm":
                score["mc_std"] = 0.043

    edit(folder / "results.json", change)
    table = sampling_table(read_study(folder))
    caption = "".join(span for span in table.caption if isinstance(span, str))
    assert "DDPM: variational, Monte Carlo error 0.04)" in caption


def test_network_evaluations_are_said_where_a_step_takes_more_than_one(folder):
    change_protocol(folder, "ddpm", "fid", evaluations=50)
    assert "50 steps, eta" in str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    change_protocol(folder, "ddpm", "fid", evaluations=100)
    said = str(sampling_table(read_study(folder))).replace(r"\xa0", " ")
    assert "50 steps (100 evaluations), eta" in said


def test_nats_have_two_decimals_at_most(folder):
    def change(content):
        for score in content["scores"]:
            if score["metric"] in ("elbo", "classifier-accuracy"):
                score |= {"mean": -70.4921, "std": 0.0155}

    edit(folder / "results.json", change)
    table = likelihood_table(read_study(folder))
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["ELBO"] == "\N{MINUS SIGN}70.49 ± 0.02"
    assert row["Told apart (level)"].startswith("\N{MINUS SIGN}70.492 ± 0.015 ")


def test_a_flows_temperature_is_said(folder):
    change_protocol(folder, "pixelflow", "fid", temperature=0.7)
    table = sampling_table(read_study(folder))
    caption = "".join(span for span in table.caption if isinstance(span, str))
    assert "Pixel flow: temperature 0.7;" in caption


def test_the_largest_importance_bound_is_shown(folder):
    def add(content):
        extra = [s for s in content["scores"] if s["metric"] == "iwae-1000"]
        content["scores"] += [s | {"metric": "iwae-64"} for s in extra]

    edit(folder / "results.json", add)
    table = likelihood_table(read_study(folder))
    assert table is not None
    assert "IWAE-1000" in table.header
    assert "IWAE-64" not in table.header


def test_one_run_has_no_spread(one_seed):
    table = likelihood_table(read_study(one_seed))
    assert table is not None
    assert "\u00b1" not in str(table.rows)
    assert "one run each" in str(table.caption)


@pytest.mark.parametrize(
    ("std", "shown"),
    [(0.0, "0.000"), (4e-4, "<0.001"), (5e-6, "<0.001"), (6e-4, "0.001"), (0.2, "0.200")],
)
def test_a_spread_that_is_only_small_is_not_said_to_be_nil(std, shown):
    assert spread(1.03, std, 3) == f"1.030 \u00b1 {shown}"
    assert spread(1.03, None, 3) == "1.030"


def test_rows_with_fewer_runs_say_so(folder):
    def drop(content):
        for score in content["scores"]:
            if score["model"] == "vae-flow":
                score["n_seeds"] = 2

    edit(folder / "results.json", drop)
    caption = str(likelihood_table(read_study(folder)))
    assert "3 runs (the Gaussian prior)" in caption
    assert "2 runs (the flow prior)" in caption


def test_a_model_without_scores_keeps_its_row(folder):
    def drop(content):
        content["scores"] = [s for s in content["scores"] if s["model"] != "vae-flow"]

    edit(folder / "results.json", drop)
    table = likelihood_table(read_study(folder))
    assert table is not None
    assert table.rows[2][1:] == ["\u2013"] * 5


def test_a_bound_on_fewer_images_says_so_beside_the_table(folder):
    before = str(likelihood_table(read_study(folder)).caption)
    assert "on the first" not in before
    for model in ("vae-gaussian", "vae-mixture", "vae-flow"):
        change_protocol(folder, model, "iwae-1000", n=1000)
    caption = str(likelihood_table(read_study(folder)).caption)
    assert "IWAE-1000 on 1\N{NARROW NO-BREAK SPACE}000" in caption.replace("\\u202f", "\u202f")


def test_bounds_are_said_to_be_bounds_with_their_values_where_speed_has_the_column(
    folder, tmp_path
):
    for name in ("ddpm", "pixelflow"):
        change_protocol(folder, name, "bpd", bound=f"that of {name}")
    caption = str(sampling_table(read_study(folder)).caption)
    of = "(pixel flow: that of pixelflow; DDPM: that of ddpm)."
    assert f" Bits/dim are upper bounds {of}" in caption
    folder = write_study(tmp_path / "s", Synthetic(pixel=OF_2026, edition="2026"))
    change_protocol(folder, "ddpm", "bpd", bound="that of ddpm")
    caption = str(sampling_table(read_study(folder)).caption)
    assert " Upper bounds on bits/dim (DDPM: 1.01, that of ddpm)." in caption


def test_a_row_has_as_many_runs_as_its_column_of_fewest(folder):
    def drop(content):
        for score in content["scores"]:
            if (score["model"], score["metric"]) == ("vae-flow", "iwae-1000"):
                score |= {"n_seeds": 2, "seeds": score["seeds"][:2], "values": score["values"][:2]}

    edit(folder / "results.json", drop)
    caption = str(likelihood_table(read_study(folder)).caption)
    assert "over 3 runs (the Gaussian prior), 3 runs (the mixture prior) and 2 runs (the" in caption
