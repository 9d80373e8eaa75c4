"""Progress bars: one for each job that is running, with time left and the current loss."""

import sys
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from triptych.study.run import Job
from triptych.train.fit import Progress


class Bars:
    """Shows what `run_here` and `run_processes` tell. Where nobody watches, a line at each end."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self.stream = stream
        self.bars: dict[str, tqdm] = {}

    def __call__(self, job: Job, said: Progress | str) -> None:
        """Take in one message of a job."""
        name = label(job)
        if isinstance(said, Progress):
            bar = self.bars.get(name) or self._open(name, said)
            bar.set_postfix_str(f"loss {said.loss:.4g}", refresh=False)
            bar.update(said.step - bar.n)
        elif said.startswith("evaluating"):
            if name in self.bars:
                self.bars[name].set_postfix_str(said)
        else:
            self._close(name)
            tqdm.write(f"{name}: {said}", file=self.stream)

    def _open(self, name: str, said: Progress) -> tqdm:
        # Redrawing is for eyes; a log gets a line every half minute.
        pause = 0.2 if self.stream.isatty() else 30.0
        bar: tqdm = tqdm(
            total=said.steps,
            initial=said.step,
            desc=name,
            unit="step",
            file=self.stream,
            mininterval=pause,
            leave=False,
        )
        self.bars[name] = bar
        return bar

    def _close(self, name: str) -> None:
        if bar := self.bars.pop(name, None):
            bar.close()


def label(job: Job) -> str:
    """ "vae-flow seed 0", or "vae-flow seeds 0-4" when they run side by side."""
    seeds = ", ".join(str(s) for s in job.seeds)
    return f"{job.recipe.name} seed{'s' if len(job.seeds) > 1 else ''} {seeds}"


def bar_for(title: str) -> Callable[[Progress], None]:
    """A single bar, for a single run."""
    bars: list[tqdm] = []

    def show(said: Progress) -> None:
        if not bars:
            bars.append(tqdm(total=said.steps, desc=title, unit="step", initial=said.step))
        bars[0].set_postfix_str(f"loss {said.loss:.4g}", refresh=False)
        bars[0].update(said.step - bars[0].n)
        if said.step == said.steps:
            bars[0].close()

    return show
