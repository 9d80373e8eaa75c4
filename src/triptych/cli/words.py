"""The words of a command line, before a command is made of them."""

import os
import re
import shutil
from collections.abc import Collection, Sequence

from triptych.errors import UserError

NARROWEST = 40  # columns; at less than six the parser's help never ends
SEVERAL = ("--set", "--track")
OPTION = re.compile(r"-{1,2}[A-Za-z][\w-]*")


def check_command(words: Sequence[str], commands: Collection[str]) -> None:
    """UserError unless the first word is a command, asks for help, or is the parser's own."""
    listed = f"{', '.join(commands)}; triptych --help says what they do"
    if not words:
        raise UserError(f"a command is missing; choose one of {listed}")
    first = words[0]
    if first in commands or first in ("-h", "--help") or first.startswith("--tyro-"):
        return
    if first.startswith("-"):
        raise UserError(f"{first} stands where a command belongs; begin with one of {listed}")
    raise UserError(f"there is no command {first!r}; choose one of {listed}")


def mended(words: Sequence[str]) -> list[str]:
    """The same, but with ~ for one's home where the shell leaves it alone, in --out=~/runs.

    Raises:
        UserError: an option of several values that is given twice: only the last would count, as
            of any option, where one expects that all do.
    """
    options = [found[0] for word in words if (found := OPTION.match(word))]
    if twice := [option for option in SEVERAL if options.count(option) > 1]:
        raise UserError(f"{twice[0]} is given twice; give it once, with all its values after it")
    return [_at_home(word) if OPTION.match(word) else word for word in words]


def _at_home(word: str) -> str:
    """--out=~/runs with the home folder for ~, which a shell leaves there; as it is without one."""
    option, equals, value = word.partition("=")
    return option + equals + os.path.expanduser(value)


def widen() -> None:
    """Take a terminal for no narrower than help can be set in."""
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
