"""What the parser of the command line refuses, in a sentence where it draws a frame."""

import re
from difflib import get_close_matches

FRAME = re.compile("[│╭╮╰╯─]+|-{3,}")  # the second where the encoding lacks the first
WITHOUT_VALUE = re.compile(r"Missing value for argument [('\"]*([\w-]+)")
MISSING = re.compile(r"^.*Missing from [^:]+: ")
REQUIRED = re.compile(r"((?:--\S+ )?(?:{.*?}|\S+)) (.*?) \(required\)")
UNKNOWN = re.compile(r"Unrecognized (?:or misplaced )?options: ([^\s,]+)")
SUGGESTED = re.compile(". {5}(--[a-z0-9-]+)")


def refusal(drawn: str, command: str) -> str:
    """The sentence for what was `drawn` when the words of a command were refused; of another
    refusal than the three that there are, its text."""
    said = " ".join(FRAME.sub(" ", drawn).split())
    who = command or "triptych"
    listed = f"{' '.join(['triptych', command]).strip()} --help lists what there is"
    if found := WITHOUT_VALUE.search(said):
        name = found[1]
        needs = f"{name} needs a value" if name.startswith("-") else f"{who} needs a {name} first"
        return f"{needs}; {listed}"
    if found := REQUIRED.findall(MISSING.sub("", said)):
        return f"{who} needs {' and '.join(f'{name} ({what})' for name, what in found)}; {listed}"
    if found := UNKNOWN.search(said):
        word = found[1]
        if not word.startswith("-"):
            return f"{who} does nothing with {word!r}; {listed}"
        near = get_close_matches(word, suggested(drawn, command), 1)
        return f"{who} has no option {word}{', but ' + near[0] if near else ''}; {listed}"
    return said


def suggested(drawn: str, command: str) -> list[str]:
    """Options of the command that the parser finds near to one that there is not."""
    option, found = "", []
    for line in drawn.splitlines():
        if begun := SUGGESTED.match(line):
            option = begun[1]
        if f" in triptych {command} --help" in line:
            found.append(option)
    return found
