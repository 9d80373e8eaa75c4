"""The rounds of a measurement, and this project's own training as one of the contenders."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contender import KNOWS_PEAK, Contender
from peers import BATCH, STEPS
from torch import Tensor, nn
from where import DEVICE, ON_GPU

from triptych.data import view
from triptych.train.allocation import keep_freed_memory
from triptych.train.batches import TrainingData
from triptych.train.order import TrainConfig
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.train.trainer import Run, Trainer

ROUNDS = 5 if ON_GPU else 7


def our_rounds(
    model: nn.Module | list[Any],
    images: Tensor,
    bf16: bool = True,
    config: TrainConfig = TrainConfig(batch_size=BATCH),  # noqa: B008
    look: str = "threshold",
    steps: int = STEPS,
) -> Callable[[], None]:
    """Steps of the real trainer, of one model or of several side by side: order, view, clipping,
    schedule and average included."""
    models = [m.to(DEVICE) for m in (model if isinstance(model, list) else [model])]
    images = images.to(DEVICE)
    data = TrainingData(images, images[:1], view(look), 256)
    runs = [Run(seed, Path(".")) for seed in range(len(models))]
    trainer = Trainer(models, runs, data, config)
    # A training enters these once; entered in each round, they would be new to torch.compile.
    whole = ExitStack()
    for m in models:
        whole.enter_context(networks_in_bf16(m, bf16 and bf16_helps(DEVICE)))

    def round_(_: ExitStack = whole) -> None:  # held here: the contexts end with it
        keep_freed_memory()  # as triptych's commands do
        for _step in range(steps):
            trainer.train_step()

    return round_


def race(
    contenders: dict[str, Callable[[], None]],
    ratios: dict[str, list[str]],
    work: int = STEPS * BATCH,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """`work` a second of each contender; the last one's ratio to the best of those named, and
    where its time goes. Rounds alternate, the first is not counted, the median of the others is.
    """
    taking_part = {name: Contender(round_) for name, round_ in contenders.items()}
    laps: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, each in taking_part.items():
            laps[name].append(each.lap())
    seconds = {name: statistics.median(s[1:]) for name, s in laps.items()}
    *_, ours = contenders
    rows: dict[str, Any] = {name: float(f"{work / s:.4g}") for name, s in seconds.items()}
    for label, peers in ratios.items():
        rows[label] = round(min(seconds[peer] for peer in peers) / seconds[ours], 2)
    if KNOWS_PEAK:
        rows["MB beyond the start"] = {n: round(c.megabytes()) for n, c in taking_part.items()}
    rows[f"{ours}: products"] = taking_part[ours].anatomy(seconds[ours])
    for each in taking_part.values():
        each.close()
    return rows
