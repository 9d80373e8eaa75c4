"""The command line. Exit codes: 0 done; 2 the request is wrong; 1 it failed or was stopped; 75
(EX_TEMPFAIL of sysexits.h) SIGTERM stopped it, and a batch system should queue it again; 141, as of
a program that SIGPIPE ended, nobody reads what it prints any more."""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

import tyro

from triptych import __version__
from triptych.cli.data import Data, TrainFeatures
from triptych.cli.judging import Evaluate, Score
from triptych.cli.options import NUMBERS
from triptych.cli.refusals import options_in, refusal
from triptych.cli.reproduce import Reproduce
from triptych.cli.runs import Sample, Train
from triptych.cli.studies import Demo, Explore, Handin, Report, Study
from triptych.cli.words import check_command, mended, widen
from triptych.errors import FAILED, WRONG, UserError

REQUEUE, UNREAD = 75, 141
COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "study": Study,
    "train": Train,
    "evaluate": Evaluate,
    "sample": Sample,
    "score": Score,
    "reproduce": Reproduce,
    "report": Report,
    "explore": Explore,
    "handin": Handin,
    "data": Data,
    "train-features": TrainFeatures,
}


ABOUT = """VAEs with swappable priors, flows and diffusion models: train, judge, report.
--version in place of a command prints the version."""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `triptych`."""
    _use_streams()
    widen()
    try:
        try:
            code = run_words(words)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before there is a command
        code = told(FAILED, "stopped")
    except OSError as error:
        unread = isinstance(error, BrokenPipeError)
        if error.filename is not None or not (unread or error.errno == errno.ENOSPC):
            raise  # not of what is printed
        # Else Python complains when it flushes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNREAD if unread else told(FAILED, "no space left for the output; make room for it")
    if code:
        sys.exit(code)


def _use_streams() -> None:
    """Print to nowhere where there is no such stream, as under a daemon, and what an encoding lacks
    as an escape: neither is a reason to lose what was done."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run_words(words: Sequence[str] | None) -> int:
    """Run the command that the words ask for. Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if words == ["--version"]:
        print(f"triptych {__version__}")
        return 0
    if sys.platform == "win32":
        return told(WRONG, "triptych runs on Linux and macOS; on Windows install it in WSL")
    try:
        check_command(words, COMMANDS)
        command = command_of(mended(words))
    except UserError as error:
        return told(WRONG, str(error))
    return run(command)


def command_of(words: list[str]) -> Any:
    """The command that the words ask for. UserError if they ask for none."""
    drawn, shown = io.StringIO(), io.StringIO()
    try:
        with redirect_stderr(drawn):
            command = parse(words)
    except SystemExit as exit:
        if exit.code != WRONG:  # after its help
            raise
    else:
        sys.stderr.write(drawn.getvalue())
        return command
    with redirect_stdout(shown), suppress(SystemExit):
        parse([words[0], "--help"])
    raise UserError(refusal(drawn.getvalue(), words, options_in(shown.getvalue())))


def parse(words: list[str]) -> Any:
    """The command, by a parser that ends the process where there is none, and after its help."""
    with NUMBERS:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="triptych", description=ABOUT, args=words
        )


def run(command: Any) -> int:
    """Run a command; on a failure say in one sentence what it was. Returns the exit code."""
    from triptych.train.signals import SAVED, Stop, Stopped, stopped_by_sigterm

    several = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and not isinstance(command, Train):
        return told(WRONG, "torchrun works with triptych train only; leave it out")
    sigterm = Stop()
    try:
        with stopped_by_sigterm(sigterm):
            command.run()
        return 0
    except Stopped as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one more would end it without its code
        terminated = stop.number == signal.SIGTERM
        keeps, next_time = after(command)
        said = str(stop) if keeps else "stopped"
        code, words = (REQUEUE if terminated else FAILED), f"{said}; {next_time}"
    except KeyboardInterrupt:
        keeps, next_time = after(command)
        where = " from the last checkpoint, if there is one" if keeps else ""
        code, words = FAILED, f"stopped; {next_time}{where}"
    except BrokenPipeError:  # of what is printed, which is no fault
        raise
    except Exception as error:
        from triptych.train.faults import explain

        keeps, next_time = after(command)
        said = SAVED if keeps else "stopped"
        known = (REQUEUE, f"{said}; {next_time}") if sigterm.requested else explain(error)
        if known is None:
            raise
        code, words = known
    return told(code, words)


def after(command: Any) -> tuple[bool, str]:
    """Whether a command that was stopped leaves something, and what it does the next time."""
    if isinstance(command, Train) and command.begun():
        return True, "the same command with --resume goes on"
    if isinstance(command, Study | Demo | Reproduce):
        return True, "the same command goes on"
    return False, "the same command begins anew"


def told(code: int, words: str) -> int:
    """The exit code, once its reason is said in a line."""
    print(f"triptych: {' '.join(words.split())}", file=sys.stderr)
    return code
