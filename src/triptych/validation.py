"""Plain data checked against types and ranges, what is wrong told in a sentence."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from triptych.errors import UserError

PYDANTIC_SAYS = {
    "a valid array": "a list, as [16, 32]",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "an object": "a table",
}


def validated(cls: Any, plain: Any, what: str) -> Any:
    """`plain` checked against the types and ranges of `cls`: "2" and true are no numbers."""
    try:
        return TypeAdapter(cls).validate_json(json.dumps(plain, default=str), strict=True)
    except UserError as error:  # of settings that do not go together
        raise UserError(f"{what}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        words, _ = _follow(cls, first["loc"])
        place = " ".join(".".join(words).split()) or what  # a key may hold line breaks
        if first["type"] == "unexpected_keyword_argument":
            _, known = _follow(cls, first["loc"][:-1])
            instead = f"it has {', '.join(known)}" if known else "leave it out"
            raise UserError(f"{what}: there is no setting {place}; {instead}") from None
        value = repr(first["input"])[:100]
        raise UserError(f"{what}: {place} = {value} is wrong: {_expected(first)}") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deeply; write it flat") from None


def _follow(cls: Any, path: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """Where pydantic's `path` into nested dataclasses leads.

    Returns the path in the words of the file, and the settings of the dataclass at its end (none
    where the end is not one known dataclass). Inside a choice between dataclasses pydantic's path
    names the `kind` of the one that was chosen; the file does not, so it is left out.
    """
    words, choices = list[str](), _dataclasses(cls)
    for part in path:
        if len(choices) > 1:
            choices = [c for c in choices if getattr(c, "kind", None) == part] or choices
            if len(choices) == 1:
                continue
        words.append(str(part))
        if isinstance(part, str):  # else an item of a list
            hints = get_type_hints(choices[0]) if len(choices) == 1 else {}
            choices = _dataclasses(hints.get(part))
    return words, [f.name for f in fields(choices[0])] if len(choices) == 1 else []


def _dataclasses(hint: Any) -> list[Any]:
    return [t for t in (hint, *get_args(hint)) if is_dataclass(t)]


def _expected(error: Any) -> str:
    """What pydantic wanted, in the words of who writes TOML."""
    kind, more = error["type"], error.get("ctx", {})
    if error["input"] != error["input"]:  # nan, which is on neither side of a limit
        return "it must be a number"
    if kind == "string_pattern_mismatch" and more["pattern"] == r"\S":
        return "it must not be blank"
    if kind == "string_pattern_mismatch":
        letters = "letters" if "A-Z" in more["pattern"] else "small letters"
        return (
            f"it names a folder; choose {letters}, digits, - and _, at most 64, the first a letter "
            f"or a digit"
        )
    if kind in ("too_short", "string_too_short") and more["min_length"] == 1:
        return "it must not be empty"
    if kind in ("too_long", "string_too_long"):
        items = "letters" if kind == "string_too_long" else "items"
        return f"it must have {more['max_length']} {items} at most"
    if kind == "union_tag_invalid":
        return f"its kind must be one of {more['expected_tags']}"
    text = error["msg"].replace("Input should be", "it must be")
    for theirs, ours in PYDANTIC_SAYS.items():
        text = text.replace(theirs, ours)
    return text
