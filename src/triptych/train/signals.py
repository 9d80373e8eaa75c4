"""Ctrl-C and SIGTERM ask a training to save and stop; a second Ctrl-C stops it at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SAVED = "stopped; what was finished before is saved"


class Stopped(BaseException):
    """A signal asked to stop. Like KeyboardInterrupt no error, and not to be caught as one."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class StopRequested(Stopped):
    """A training was asked to stop and has saved its checkpoint."""

    def __init__(self, step: int, steps: int, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped at step {step} of {steps}; everything is saved", number)
        self.step, self.steps = step, steps


@dataclass
class Stop:
    """Set by the signal handler, read by the loop between two steps."""

    number: int = 0

    @property
    def requested(self) -> bool:
        return self.number != 0


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request; restore the handlers afterwards.

    A batch system may repeat its SIGTERM; only a second SIGINT means that saving takes too long.
    """
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        if stop.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = stop.number or number

    with handling(handle, signal.SIGINT, signal.SIGTERM):
        yield stop


@contextmanager
def stopped_by_sigterm(stop: Stop) -> Iterator[None]:
    """While nothing is being trained, let SIGTERM raise `Stopped`, as Ctrl-C raises
    KeyboardInterrupt, and note it in `stop` too: the code that is interrupted may turn the
    exception into an error of its own.

    One that comes while another stop is on its way is passed over: it would break off the cleaning
    up. With several processes that is usual, for one is told by the others before its own signal.
    """

    def handle(number: int, frame: Any) -> None:
        stop.number = number
        if not isinstance(sys.exception(), Stopped):
            raise Stopped(SAVED, number)

    with handling(handle, signal.SIGTERM):
        yield


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Let SIGTERM wait until what must not be left half done is done."""
    told: list[int] = []
    try:
        with handling(lambda number, frame: told.append(number), signal.SIGTERM):
            yield
    finally:
        for number in told[:1]:
            signal.raise_signal(number)


@contextmanager
def handling(handle: Any, *numbers: int) -> Iterator[None]:
    """Handle these signals so for a while; a thread that is not the main one cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
