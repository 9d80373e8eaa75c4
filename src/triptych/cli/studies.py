"""Commands about a whole study: run it, report it, hand it in."""

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from triptych.cli.options import (
    IMAGES,
    Judged,
    Judging,
    Preset,
    Trackers,
    choice,
    one_of,
    usually,
)
from triptych.errors import RunFailed, UserError


@dataclass(frozen=True)
class Demo:
    """Train, judge and report everything on the embedded digits, in minutes."""

    where: Judging = field(default_factory=Judged)
    out: Path = Path("runs/demo")
    """folder to write"""
    workers: int = 0
    """processes; 0: one for each core"""

    def run(self) -> None:
        Study("demo", self.where, self.out, workers=self.workers).run()


@dataclass(frozen=True)
class Study:
    """Run a study, built-in or from a file: train, judge, report. Resumes by itself."""

    name: Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """demo, brief-2024, brief-2026, priors, or the path of a .toml file or a study.json"""
    where: Judging = field(default_factory=Judged)
    out: Annotated[Path | None, usually("PATH", "runs/NAME")] = None
    """folder to write"""
    dataset: Annotated[str | None, usually(IMAGES, "the study's own")] = None
    """data set; or OWN: the file OWN.npz in --data"""
    preset: Annotated[Preset | None, choice(Preset), usually(one_of(Preset), "cpu")] = None
    """size of a built-in study"""
    seeds: Annotated[int | None, usually("INT", "the study's own number")] = None
    """number of runs of every model"""
    workers: int = 0
    """processes; 0: one for each core, and one on a GPU"""
    rejudge: bool = False
    """judge anew, without training, runs that were judged otherwise"""
    on: Annotated[str | None, usually("STR", "here, without Ray")] = None
    """ray: each run a task on this machine; ray://HOST:PORT: on that cluster"""
    gpus_per_run: Annotated[float | None, usually("FLOAT", "1")] = None
    """GPUs for each run on Ray with --device cuda; 0.5: two share one"""
    track: Trackers = ()
    """also log to tensorboard, wandb or mlflow, the scores too"""

    def run(self) -> None:
        import torch

        from triptych.report import write_report
        from triptych.study.builtin import named_study
        from triptych.study.display import Bars
        from triptych.study.execute import device_named, execute
        from triptych.study.grid import with_seeds
        from triptych.study.local import Place
        from triptych.study.lock import locked
        from triptych.study.on_ray import cluster_named
        from triptych.study.trackers import Track, check_trackers

        check_trackers(self.track)
        study = with_seeds(named_study(self.name, self.preset, self.dataset), self.seeds)
        if self.where.features is None:
            tell_of_classifier(study)
        folder = self.out or Path("runs") / study.name
        where = self.where
        cluster = cluster_named(self.on, self.workers, self.gpus_per_run)
        device = torch.device(where.device) if cluster else device_named(where.device)
        place = Place(
            study.dataset,
            where.data,
            where.features,
            device,
            track=Track(self.track, folder),
            deterministic=where.deterministic,
        )
        outcome = execute(study, folder, place, Bars(), self.workers, cluster, self.rejudge)
        print(f"wrote {folder / 'results.json'}")
        for failure in outcome.results["failures"]:
            print(f"failed: {failure['model']} seed {failure['seed']}: {failure['reason']}")
        if outcome.results["scores"]:
            with locked(folder, wait=True):
                print(f"wrote {write_report(folder)} and report.html")
        check_whole(outcome)


@contextmanager
def alone_in(study: Path) -> Iterator[None]:
    """While nobody else writes there: a study at its end, or the report in another window."""
    from triptych.report.load import read_study
    from triptych.study.lock import locked

    read_study(study)  # or there would be a lock in what is no study
    with locked(study, wait=True):
        yield


def tell_of_classifier(study: Any) -> None:
    """Say so where the study's edition asks for FID on the course's own classifier."""
    from triptych.report.edition import edition_named

    wanted = edition_named(study.edition).classifier
    samples = study.dataset == "mnist" and any(p.recipe.part == "B" for p in study.plans)
    if wanted and samples:
        print(
            f"the {study.edition} edition asks for FID on the course's classifier: if you have "
            f"it, add --features {wanted}; on ours, FIDs are not comparable with those of others"
        )


def check_whole(outcome: Any) -> None:
    """RunFailed for a study some of whose runs are not finished, or have failed."""
    if outcome.unfinished:
        raise RunFailed(
            f"not finished: {outcome.unfinished} of the runs of {outcome.folder}; what they have "
            f"is saved, and the same command goes on with them"
        )
    if failures := outcome.results["failures"]:
        raise RunFailed(
            f"{len(failures)} of the runs of {outcome.folder} failed, as listed above; the others "
            f"are saved. Delete the folders of the failed ones, change their settings or leave "
            f"them out, and give the same command again"
        )


@dataclass(frozen=True)
class Report:
    """Write report.pdf, report.html and the figures of a study that has results."""

    study: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    """folder of a study"""

    def run(self) -> None:
        from triptych.report import not_their_own, write_report
        from triptych.report.load import read_study
        from triptych.study.store import RunFolder

        study = read_study(self.study)
        runs = study.scored_runs()
        if runs and not any(path.is_dir() for path in runs):
            raise UserError(
                f"{self.study} has the scores of {len(runs)} runs but not the runs, so its "
                f"report would have no figures; copy their folders too, or look at it with "
                f"triptych explore"
            )
        for path in runs:
            if not path.is_dir():
                print(f"without the figures of {path}, which is not there")
            elif lost := RunFolder(path).lost:
                gone = f"without {', '.join(lost)} of {path}, deleted since"
                print(f"{gone}; `triptych study` judges that run anew")
        with alone_in(self.study):
            print(f"wrote {write_report(self.study)} and report.html")
        for told in not_their_own(study):
            print(told)


@dataclass(frozen=True)
class Explore:
    """Write report.html of a study that has results: every score, run and sample on one page."""

    study: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    """folder of a study"""
    open: bool = False
    """also open it in the browser"""

    def run(self) -> None:
        from triptych.report import write_explorer

        with alone_in(self.study):
            path = write_explorer(self.study)
        print(f"wrote {path}")
        if self.open:
            webbrowser.open(path.absolute().as_uri())


@dataclass(frozen=True)
class Handin:
    """Pack the code and the configuration of a study with its report into handin.zip."""

    study: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    """folder of a study"""

    def run(self) -> None:
        from triptych.report import handin, not_their_own, other_features
        from triptych.report.check import POINTS_PER_CM
        from triptych.report.load import read_study

        with alone_in(self.study):
            path, report = handin(self.study)
        margin, font = report.smallest_margin / POINTS_PER_CM, report.smallest_font
        print(
            f"{self.study / 'report.pdf'} keeps the limits: {report.pages} pages, letters of "
            f"{font:.1f} pt and margins of {margin:.1f} cm or more"
        )
        print(f"wrote {path}; hand it in beside the report")
        for told in not_their_own(read_study(self.study)):
            print(told)
        if other := other_features(self.study):
            print(
                f"but FID is on {other}, and the assignment asks for the course's classifier: if "
                f"you have it, run the study again with --features mnist_classifier.pth --rejudge"
            )
