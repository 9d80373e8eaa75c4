"""What the parser of the command line refuses, in a sentence where it draws a frame."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches

from triptych.cli.words import OPTION

LIKE = 0.75  # of 1, that of the same word: all begin with two dashes
COLOUR = re.compile(r"\x1b\[[\d;]*m")
FRAME = re.compile(r"[│╭╮╰╯─]+|(?<!\S)-{3,}(?!\S)")  # the second where the encoding has no others
WITHOUT_VALUE = re.compile(r"Missing argument .* argument [('\"]*(--?[\w-]+)")
NEEDED = re.compile(r"Required options Missing from [^:]+: (.*)")
EACH = re.compile(r"((?:--\S+ )?(?:{.*?}|\S+)) (.*?) \(required\)")
UNUSED = re.compile(r"Unrecognized options Unrecognized (?:or misplaced )?options: ([^\s,]+)")


def refusal(drawn: str, words: Sequence[str], known: Collection[str]) -> str:
    """The sentence for what was `drawn` when a command and its words were refused, of whose options
    these are `known`; of another refusal than the four that there are, its text."""
    command, *given = words
    listed = f"triptych {command} --help lists what there is"
    options = [word.partition("=")[0] for word in given if OPTION.match(word)]
    if unknown := [option for option in options if option.replace("_", "-") not in known]:
        near = get_close_matches(unknown[0], known, 1, LIKE)
        meant = f"; {near[0]} is the nearest" if near else ""
        return f"{command} has no option {unknown[0]}{meant}; {listed}"
    said = " ".join(FRAME.sub(" ", COLOUR.sub("", drawn)).split())
    if found := WITHOUT_VALUE.match(said):
        return f"{found[1]} needs a value; {listed}"
    if found := NEEDED.match(said):
        needed = [f"{name} ({what})" for name, what in EACH.findall(found[1])]
        return f"{command} needs {' and '.join(needed)}; {listed}"
    if found := UNUSED.match(said):
        word = next((word for word in given if word.startswith(found[1])), found[1])
        return f"{command} does nothing with {word!r}; {listed}"
    return said


def options_in(shown: str) -> set[str]:
    """Those that a command's help names."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", COLOUR.sub("", shown)))
