"""Commands that judge: a trained run, images that any program has drawn."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from triptych.cli.options import (
    IMAGES,
    Judged,
    Judging,
    Sampling,
    Settings,
    check_data,
    check_out,
    merged,
    parsed,
    usually,
)
from triptych.errors import UserError


@dataclass(frozen=True)
class Evaluate:
    """Judge a trained run on the test set and write its scores.json."""

    path: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of a run, STUDY/MODEL/seed-S"""
    where: Judging = field(default_factory=Judged)
    importance_samples: int = 1000
    """K of the importance-weighted bound"""
    images: int = 10_000
    """test images, drawn at random"""
    ais_images: int = 0
    """images to anneal too, for a tight log p(x)"""
    ais_steps: int = 300
    """temperatures of the annealing"""
    ode_images: int = 0
    """images for a DDPM's likelihood by its ODE"""
    bf16: bool = True
    """decode and draw in bfloat16 where the hardware has it"""
    settings: Settings = ()
    """any other settings that a study's [evaluation] may have"""
    sampling: OmitArgPrefixes[Sampling] = field(default_factory=Sampling)

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.classifier import features_for
        from triptych.evaluate.evaluation import Evaluation
        from triptych.study.display import line_for
        from triptych.study.lock import locked
        from triptych.study.run import evaluate
        from triptych.study.store import RunFolder
        from triptych.study.uses import check_use, judged_by
        from triptych.validation import validated

        asked, folder = self.asked(), RunFolder(self.path)
        recipe, dataset, _ = folder.config()
        study = folder.study_judges()
        if study is None:
            check_use(recipe.model, asked, asked.get("sampler", Evaluation().sampler))
        how = validated(Evaluation, asked, "evaluate")
        if study is not None:
            theirs, ours = judged_by(recipe, study), judged_by(recipe, how)
            for name, value in theirs.items():
                if name not in ours or ours[name] != value:
                    raise self._of_a_study(f"with {name} = {value}, as its study.json says")
        if recipe.part == "A" and self.where.features is not None:
            raise UserError(
                f"--features {self.where.features} has no effect on {recipe.name}, whose samples "
                f"get no FID; leave it out, or evaluate a model of part B"
            )
        data = load(dataset, self.where.data).to(self.where.ready())
        if study is not None and recipe.part == "B":
            features = features_for(data, self.where.features)
            if theirs := folder.other_features(features.hash):
                raise self._of_a_study(f"on the features {theirs!r}")
        with locked(folder.path), line_for(f"evaluating {recipe.name}") as say:
            evaluate(folder, data, how, self.where.features, say=say)
        for score in folder.scores():
            print(said(score))
        print(f"wrote {self.path / 'scores.json'}")

    def asked(self) -> dict[str, Any]:
        """The settings of judging that are not as usual."""
        from triptych.evaluate.evaluation import Evaluation

        names = ("importance_samples", "images", "ais_images", "ais_steps", "ode_images", "bf16")
        usual = asdict(Evaluation())
        ours = {n: v for n in names if (v := getattr(self, n)) != usual[n]}
        return merged(ours | self.sampling.asked(), parsed(self.settings))

    def _of_a_study(self, judged: str) -> UserError:
        return UserError(
            f"{self.path} is a run of a study, which judges it {judged}; copy the folder to a "
            f"place outside of the study, and evaluate the copy"
        )


@dataclass(frozen=True)
class Score:
    """Score images from any program, as `evaluate` scores the samples of a model."""

    path: Positional[Annotated[Path, tyro.conf.arg(metavar="IMAGES")]]
    """.npz file, array `images`: [n, 1, H, W], bytes or floats of 0 to 1; or folder of .png"""
    where: Judging = field(default_factory=Judged)
    dataset: Annotated[str, tyro.conf.arg(metavar=IMAGES)] = "digits"
    """data set to compare with; or OWN: the file OWN.npz in --data"""
    out: Annotated[Path | None, usually("PATH", "none")] = None
    """.json file to write the scores to as well"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.data.drawn import read_drawn
        from triptych.evaluate.classifier import features_for
        from triptych.evaluate.judge import judge_samples
        from triptych.study.run import judging_device
        from triptych.study.store import write_scores

        if self.out is not None and self.out.suffix != ".json":
            raise UserError(f"--out {self.out} cannot be written; name a .json file")
        if self.out is not None:
            check_out(self.out)
        check_data(self.dataset, self.where.data)
        device = judging_device(self.where.ready())
        data = load(self.dataset, self.where.data)
        images, most = read_drawn(self.path, data.shape), len(data.test_images)
        features = features_for(data, self.where.features).to(device)
        scores = judge_samples(images.to(device), data.to(device), features)
        if self.out is not None:
            write_scores(self.out, scores)
        for score in scores:
            print(said(score))
        if len(images) > most:
            print(f"scored {most:,} of {len(images):,} images, at random: as many as test images")
        if self.out is not None:
            print(f"wrote {self.out}")


def said(score: Any) -> str:
    """A line of a score: its errors, and what real images or the null have, without which it may
    mean nothing."""
    from triptych.study.results import LEVELS

    notes = []
    if score.mc_std:
        notes.append(f"Monte Carlo error {score.mc_std:.2g}")
    if score.image_std:
        notes.append(f"error of images {score.image_std:.2g}")
    if "features" in score.protocol:
        notes.append(f"N = {score.protocol['n']}")
    found = ((words, score.protocol.get(key)) for key, words in LEVELS.items())
    notes += [f"{words} {value:.4g}" for words, value in found if value is not None]
    if score.metric == "fid" and score.protocol["n"] <= score.protocol.get("dimensions", 0):
        notes.append(f"N too small for {score.protocol['dimensions']} features: FID far too large")
    beside = f"   ({'; '.join(notes)})" if notes else ""
    return f"{score.metric:20s} {score.value:12.4f} {score.unit}{beside}"
