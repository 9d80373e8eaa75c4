"""Do a run again from its config.json, and compare what comes out, to the bit."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from triptych.data import Dataset
from triptych.errors import UserError
from triptych.protocols import Score
from triptych.study.lock import locked
from triptych.study.run import Job, OnProgress, evaluate, train
from triptych.study.store import RunFolder
from triptych.train import checkpoint
from triptych.train.checkpoint import Checkpoint, Tensors
from triptych.train.determinism import deterministic

WALL_CLOCK = ("samples-per-second",)  # what no run can repeat


@dataclass(frozen=True)
class Row:
    """One thing that came out, then and now."""

    what: str
    first: str
    again: str
    equal: bool


def reproduce(
    run: RunFolder, out: Path, data: Dataset, features: Path | None, progress: OnProgress
) -> list[Row]:
    """Train and, if the run was judged, judge once more in a folder of `out`; or go on with that.

    Seeds that were trained side by side are so again, and with as many threads.
    """
    recipe, _, seed = run.config()
    run.check_data(data)
    first = checkpoint.load(run.path)
    run.check_trained()
    if first.loop.get("world", 1) != 1:
        raise UserError(
            f"{run.path} was trained by {first.loop['world']} processes together, and one of them "
            f"alone rounds sums differently; train it anew by as many to compare"
        )
    stack = tuple(first.loop.get("stack", (seed,)))
    job = Job(recipe, stack if seed in stack else (seed,), out)
    again = job.folder(seed)
    with ExitStack() as held:
        for folder in map(job.folder, sorted(job.seeds)):
            held.enter_context(locked(folder.path))
            check_not_done(folder, run)
        threads = first.loop.get("threads")  # sums are rounded differently by another number
        if isinstance(threads, int) and 0 < threads <= 1024:
            torch.set_num_threads(threads)
        deterministic(first.loop.get("deterministic") is True)
        train(job, data, progress=progress)
        rows = compare_training(run, first, again)
        # Before they were noted with the scores, they were those of the study.
        if run.finished and (how := run.judged_how() or run.study_judges()):
            evaluate(again, data, how, features)
            rows += compare_scores(run, again)
    return rows


def check_not_done(folder: RunFolder, run: RunFolder) -> None:
    """UserError for a folder that already has all that the run has; one that was only begun is gone
    on with."""
    judged = folder.finished or not run.finished
    if not (checkpoint.exists(folder.path) and judged) or folder.unfinished_at():
        return
    if folder.path.resolve() == run.path.resolve():
        raise UserError(f"{folder.path} is the run itself; choose another --out")
    raise UserError(f"{folder.path} exists; delete it, or choose another --out")


def compare_training(run: RunFolder, first: Checkpoint, again: RunFolder) -> list[Row]:
    """All that a checkpoint holds, and the log but for its clock."""
    second = checkpoint.load(again.path)
    names = [*checkpoint.FILES]
    if first.early or second.early:
        names.append("early")
    rows = []
    for name in names:
        then, now = digest(getattr(first, name)), digest(getattr(second, name))
        rows.append(Row(name, then[:12], now[:12], then == now))
    then, now = logged(run), logged(again)
    known = {key for line in then for key in line}  # an earlier version logged less
    now = [{k: v for k, v in line.items() if k in known} for line in now]
    return [*rows, Row("metrics", f"{len(then)} lines", f"{len(now)} lines", then == now)]


def digest(tensors: Tensors) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their seconds."""
    try:
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{run.path}/metrics.jsonl cannot be read ({error}); restore it") from None


def compare_scores(run: RunFolder, again: RunFolder) -> list[Row]:
    """Every score with its protocol, but those of a clock."""
    first, second = ({s.metric: s for s in folder.scores()} for folder in (run, again))
    rows = []
    for name in first | second:
        if name in WALL_CLOCK:
            continue
        then, now = first.get(name), second.get(name)
        # As text, because nan is not itself.
        same = then and now and json.dumps(asdict(then)) == json.dumps(asdict(now))
        rows.append(Row(name, _printed(then), _printed(now), bool(same)))
    return rows


def _printed(score: Score | None) -> str:
    return f"{score.value:.6g}" if score else "none"


def table(rows: Sequence[Row]) -> str:
    """The rows under a heading."""
    head = f"{'':20s} {'then':>14s} {'now':>14s}"
    lines = (
        f"{r.what:20s} {r.first:>14s} {r.again:>14s}  {'equal' if r.equal else 'DIFFERENT'}"
        for r in rows
    )
    return "\n".join([head, *lines])
