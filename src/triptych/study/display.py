"""Progress bars: one for each job that is running, with time left and the current loss."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from triptych.study.local import EVALUATING
from triptych.study.run import Job
from triptych.train.fit import Progress


class Bars:
    """Shows what the engines tell of jobs, as their `Display`. Where nobody watches, a bar seldom
    (`pause`), and a line when a job has ended."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, job: Job, said: Progress | str) -> None:
        """Take in one message of a job."""
        name = label(job)
        if isinstance(said, Progress):
            if name not in self.bars:
                self.bars[name] = of_steps(name, said, leave=False)
            advance(self.bars[name], said)
        elif said.startswith(EVALUATING):
            if name not in self.bars:
                self.bars[name] = line(name)
            self.bars[name].set_postfix_str(said, refresh=sys.stderr.isatty())
        else:
            if name in self.bars:
                self.bars.pop(name).close()
            tqdm.write(f"{name}: {said}", file=sys.stderr)


def pause() -> float:
    """Seconds from one drawing of a bar to the next: few lines in a log that nobody watches."""
    return 0.2 if sys.stderr.isatty() else 30.0


def label(job: Job) -> str:
    """ "vae-flow seed 0", or "vae-flow seeds 0, 1, 2" when they run side by side."""
    seeds = ", ".join(str(s) for s in job.seeds)
    return f"{job.recipe.name} seed{'s' if len(job.seeds) > 1 else ''} {seeds}"


def line(title: str) -> tqdm:
    """A line that says what is being done and for how long, where somebody watches."""
    return tqdm(
        desc=title,
        bar_format="{desc}{postfix} [{elapsed}]",
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def of_steps(title: str, said: Progress, leave: bool) -> tqdm:
    """The bar of a training that has come so far."""
    return tqdm(
        total=said.steps,
        desc=title,
        unit="step",
        initial=said.step,
        mininterval=pause(),
        leave=leave,
    )


def advance(bar: tqdm, said: Progress) -> None:
    """Move a bar to where the training is."""
    bar.set_postfix_str(str(said), refresh=said.loss is None)
    bar.update(said.step - bar.n)


@contextmanager
def line_for(title: str) -> Iterator[Callable[[str], None]]:
    """A single line, for a single run; called with what is being done."""
    with line(title) as bar:
        yield bar.set_postfix_str


def bar_for(title: str) -> Callable[[Progress], None]:
    """A single bar, for a single run."""
    bars: list[tqdm] = []

    def show(said: Progress) -> None:
        if not bars:
            bars.append(of_steps(title, said, leave=True))
        advance(bars[0], said)
        if said.step == said.steps:
            bars[0].close()

    return show
