"""The command line. Exit codes: 0 done; 2 the request is wrong; 1 it failed or was stopped."""

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from triptych.cli.data import Data, TrainFeatures
from triptych.cli.runs import Evaluate, Sample, Train
from triptych.cli.studies import Demo, Handin, Report, Study
from triptych.protocols import RunFailed, UserError

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "study": Study,
    "train": Train,
    "evaluate": Evaluate,
    "sample": Sample,
    "report": Report,
    "handin": Handin,
    "data": Data,
    "train-features": TrainFeatures,
}


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `triptych`."""
    command: Any = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="triptych",
        description="VAEs with swappable priors, flows and diffusion models: train, judge, report.",
        args=words,
    )
    try:
        command.run()
    except UserError as error:
        sys.exit(_say(2, f"triptych: {error}"))
    except RunFailed as error:
        sys.exit(_say(1, f"triptych: {error}"))
    except KeyboardInterrupt:
        sys.exit(_say(1, "triptych: stopped; the same command goes on from the last checkpoint"))
    except Exception as error:
        from triptych.train.signals import StopRequested

        if isinstance(error, StopRequested):
            sys.exit(_say(1, f"triptych: {error}; go on with the same command and --resume"))
        raise


def _say(code: int, words: str) -> int:
    print(words, file=sys.stderr)
    return code
