"""What is on disk: a study's folder, its runs, their configs and scores."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from triptych.data import Dataset
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.protocols import Score
from triptych.study.recipes import Recipe, from_dict, to_dict
from triptych.study.uses import judged_by
from triptych.train import checkpoint
from triptych.train.files import read_json, sealed, write_bytes, write_text
from triptych.validation import validated

SCHEMA = 1


@dataclass(frozen=True)
class RunFolder:
    """`STUDY/MODEL/seed-S`: one training run."""

    path: Path

    @classmethod
    def of(cls, study: Path, model: str, seed: int) -> "RunFolder":
        """Where a study has this run."""
        return cls(study / model / f"seed-{seed}")

    @property
    def finished(self) -> bool:
        """Scores are written last: a run that has them, and the arrays that came with them, is
        whole."""
        return (self.path / "scores.json").is_file() and not self.lost

    @property
    def lost(self) -> list[str]:
        """Files of the arrays that came with its scores and are gone."""
        arrays = noted(self.path / "scores.json", "arrays") or []
        return [f"{name}.npz" for name in arrays if not (self.path / f"{name}.npz").is_file()]

    def claim(self, recipe: Recipe, data: Dataset, seed: int) -> None:
        """Write config.json, or refuse if the folder belongs to another configuration."""
        self.check_config(recipe, data.name, seed)
        self.check_data(data)
        target = self.path / "config.json"
        if not target.exists():
            if checkpoint.exists(self.path):  # of a model that nothing describes
                raise UserError(
                    f"{self.path} has a checkpoint, and no config.json that says what it is of; "
                    f"restore that, or delete the folder, and it is trained anew"
                )
            plain = {
                "schema": SCHEMA,
                "dataset": data.name,
                "data_sha256": data.sha256,
                "seed": seed,
                "recipe": to_dict(recipe),
            }
            write_text(target, pretty(sealed(plain)))

    def check_data(self, data: Dataset) -> None:
        """UserError for a run that was trained on other images of this name, as far as its
        config.json says."""
        theirs = noted(self.path / "config.json", "data_sha256")
        if theirs not in (None, data.sha256):
            raise UserError(
                f"{self.path} was trained on other images called {data.name} (sha256 "
                f"{theirs}, not {data.sha256}); give those with --data, or train "
                f"into another --out"
            )

    def check_config(self, recipe: Recipe, dataset: str, seed: int) -> None:
        """UserError for a run that was trained with other settings, its title apart."""
        if not (self.path / "config.json").exists():
            return
        was, its_dataset, its_seed = self.config()
        theirs = {"dataset": its_dataset, "seed": its_seed} | to_dict(was)
        theirs["title"] = recipe.title
        mine = {"dataset": dataset, "seed": seed} | to_dict(recipe)
        if found := first_difference(theirs, mine):
            raise UserError(
                f"{self.path} was trained with {found}; delete that folder, or choose another with "
                f"--out"
            )

    def check_judged(self, recipe: Recipe, how: Evaluation) -> None:
        """UserError for a run that was judged otherwise."""
        if found := self.judged_otherwise(recipe, how):
            raise UserError(
                f"{self.path} was judged with {found}; add --rejudge, which judges such runs anew "
                f"without training them, or choose another folder with --out"
            )

    def judged_otherwise(self, recipe: Recipe, how: Evaluation) -> str:
        """The first setting by which its scores would be others, as far as scores.json says how it
        was judged; nothing where there is none."""
        was = self.judged_how()
        return first_difference(judged_by(recipe, was), judged_by(recipe, how)) if was else ""

    def check_weights(self) -> None:
        """UserError for a run that can be judged anew only if it is trained anew."""
        if not checkpoint.loops(self.path):
            raise UserError(
                f"{self.path} has no whole checkpoint left, and --rejudge cannot judge it anew; "
                f"choose another folder with --out, or delete this one, and it is trained anew"
            )

    def forget_scores(self) -> None:
        """Drop the scores and their arrays, before the run is judged anew."""
        for name in noted(self.path / "scores.json", "arrays") or []:
            (self.path / f"{name}.npz").unlink(missing_ok=True)
        (self.path / "scores.json").unlink(missing_ok=True)

    def check_resume(self, resume: bool) -> None:
        """UserError where a run would be overwritten, or gone on with that never began."""
        begun = checkpoint.exists(self.path)
        if resume and not begun and not (self.path / "config.json").exists():
            raise UserError(f"{self.path} has no checkpoint to go on from; leave out --resume")
        if begun and not resume:
            raise UserError(
                f"{self.path} exists; go on with --resume, or choose another --out or --seed"
            )

    def config(self) -> tuple[Recipe, str, int]:
        """(recipe, data set, seed) of a run that exists."""
        if (self.path / "study.json").is_file():
            raise UserError(f"{self.path} is a study; name one of its runs, STUDY/MODEL/seed-S")
        plain = of_this_version(self.path / "config.json")
        try:
            return from_dict(plain["recipe"]), str(plain["dataset"]), int(plain["seed"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}/config.json is not a run's config ({error})") from None

    @property
    def readable(self) -> bool:
        """Whether it has a config.json that is one."""
        try:
            return (self.path / "config.json").exists() and bool(self.config())
        except UserError:
            return False

    def write_judgement(self, judgement: Judgement, how: Evaluation) -> None:
        """Arrays first, scores last, with how they were judged.

        Until all arrays are on the disk, an earlier judging stays as it is; then nothing of it is
        left beside them.
        """
        fresh = [self.path / f"{name}.npz.new" for name in judgement.arrays]
        try:
            for path, arrays in zip(fresh, judgement.arrays.values(), strict=True):
                raw = BytesIO()
                np.savez_compressed(raw, allow_pickle=False, **arrays)
                write_bytes(path, raw.getvalue())
            self.forget_scores()
            for path in fresh:
                path.replace(path.with_suffix(""))
        finally:
            for path in fresh:
                path.unlink(missing_ok=True)
        made = {"evaluation": asdict(how), "arrays": sorted(judgement.arrays)}
        write_scores(self.path / "scores.json", judgement.scores, made)

    def scores(self) -> list[Score]:
        """The scores of a finished run."""
        plain = of_this_version(self.path / "scores.json")
        rows = plain.get("scores") if isinstance(plain, dict) else plain
        return validated(list[Score], rows, f"{self.path}/scores.json")

    def unfinished_at(self) -> str:
        """ "step 3 of 9" of a training that is not at its end; else nothing."""
        loop = checkpoint.load(self.path).loop
        steps = loop.get("steps", 0)  # which earlier versions did not note
        return f"step {loop['step']} of {steps}" if loop["step"] < steps else ""

    def check_trained(self) -> None:
        """UserError for a training that is not at its end."""
        if at := self.unfinished_at():
            raise UserError(f"{self.path} is at {at}; train it to its end first")

    def judged_how(self) -> Evaluation | None:
        """The settings noted with its scores, if there are any."""
        return evaluation_in(self.path / "scores.json")

    def other_features(self, feature_hash: str) -> str:
        """The name of the features that it was judged on, if it was and they are others."""
        protocols = [score.protocol for score in self.scores()] if self.finished else []
        others = [p for p in protocols if p.get("feature_hash", feature_hash) != feature_hash]
        return str(others[0].get("features")) if others else ""

    def study_judges(self) -> Evaluation | None:
        """How the study that the run is part of judges it; None if it is part of none."""
        how = evaluation_in(self.path.resolve().parent.parent / "study.json")
        if how is None or how.latent is None:
            return how
        return how.of_latents(self.config()[0].model.kind == "latent")

    def write_failure(self, reason: str, final: bool = True) -> None:
        """Note why the run has no scores: `final` if it would fail again, as mathematics does."""
        plain = {"schema": SCHEMA, "reason": reason, "final": final}
        write_text(self.path / "failure.json", pretty(plain))

    def failure(self) -> str | None:
        """Why the run failed, if it did."""
        return self._failure().get("reason")

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to do: the run is finished, or failed for good."""
        return self.finished or bool(self._failure().get("final", False))

    def forget_failure(self) -> None:
        """Drop the note of a failure, before another try."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def _failure(self) -> dict[str, Any]:
        """failure.json; empty if there is none. Before `final` was noted, its words tell."""
        path = self.path / "failure.json"
        if not path.is_file():
            return {}
        plain = read_json(path)
        if not isinstance(plain, dict) or "reason" not in plain:
            raise UserError(
                f"{path} is not what a run writes; delete it, and the run is tried again"
            )
        reason = str(plain["reason"])
        return {"final": "not finite" in reason} | plain | {"reason": reason}


def of_this_version(path: Path) -> Any:
    """What a file of a run holds; UserError where a later version has written it, by which its
    words may mean something else."""
    plain = read_json(path)
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{path} is of schema {schema}, and this version reads {SCHEMA}; install a later one"
        )
    return plain


def write_scores(path: Path, scores: Sequence[Score], made: dict[str, Any] | None = None) -> None:
    """Scores with their protocols, and what is to be noted of how they were made."""
    plain = {"schema": SCHEMA, **(made or {}), "scores": [asdict(s) for s in scores]}
    write_text(path, pretty(sealed(plain)))


def noted(path: Path, key: str) -> Any:
    """What a JSON file has under a key; None where there is no such file, or nothing there."""
    plain = read_json(path) if path.is_file() else {}
    return plain.get(key) if isinstance(plain, dict) else None


def evaluation_in(path: Path) -> Evaluation | None:
    """The settings of judging that a study's or a run's file holds, if it does."""
    plain = noted(path, "evaluation")
    return None if plain is None else validated(Evaluation, plain, str(path))


def first_difference(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """ "epochs = 5, and 20 is asked for": the first setting in which two of them differ, those in
    tables too; nothing where they are alike."""
    for key in dict.fromkeys((*mine, *theirs)):
        old, new = theirs.get(key), mine.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if found := first_difference(old, new):
                return found
        elif old != new:
            return f"{key} = {old!r}, and {new!r} is asked for"
    return ""


def pretty(value: Any) -> str:
    """JSON as a person would like to read it."""
    return json.dumps(value, indent=1) + "\n"
