"""Who takes part in a race, each in a process of its own, as its users run it: what one does with
the memory that it frees makes no other faster, and each has a peak of its own."""

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from anatomy import anatomy
from where import ON_GPU, finish

FORK = None if ON_GPU else multiprocessing.get_context("fork")  # CUDA does not survive one
PEAK = Path("/proc/self/clear_refs")  # Linux's; writing 5 has the peak counted from then on
KNOWS_PEAK = FORK is not None and PEAK.exists() and hasattr(ctypes.CDLL(None), "malloc_trim")


class Contender:
    """`round_` is the work; forked when it is built, so that it need not be sent."""

    def __init__(self, round_: Callable[[], None]) -> None:
        self.round_, self.process, self.before = round_, None, 0.0
        if FORK:
            self.end, there = FORK.Pipe()
            self.process = FORK.Process(target=self._serve, args=(there,), daemon=True)
            self.process.start()
            there.close()

    def lap(self) -> float:
        """Seconds of a round."""
        return self._ask("lap")

    def megabytes(self) -> float:
        """Peak memory of its own since the start, beyond what it started with, where Linux knows
        it; of libraries, which are files, nothing."""
        return self._ask("megabytes")

    def anatomy(self, seconds: float) -> str:
        """Where the `seconds` of a round go."""
        return self._ask("anatomy", seconds)

    def close(self) -> None:
        """Ends the process."""
        if self.process:
            self.process.terminate()
            self.process.join()

    def _ask(self, *asked: Any) -> Any:
        if not self.process:
            return self._answer(*asked)
        self.end.send(asked)
        return self.end.recv()

    def _serve(self, end: Connection) -> None:
        self.end.close()  # else the parent's end would never be seen to be gone
        if KNOWS_PEAK:
            gc.collect()  # what the parent had freed before would be had for nothing
            ctypes.CDLL(None).malloc_trim(0)
            PEAK.write_text("5")
            self.before = memory("RssAnon")
        while True:
            try:
                end.send(self._answer(*end.recv()))
            except EOFError:
                return

    def _answer(self, what: str, *given: float) -> float | str:
        if what == "anatomy":
            return anatomy(self.round_, *given)
        if what == "megabytes":
            return memory("VmHWM") - memory("RssFile") - self.before
        finish()
        began = time.perf_counter()
        self.round_()
        finish()
        return time.perf_counter() - began


def memory(what: str) -> float:
    """A line of this process's status, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024 / 1e6
