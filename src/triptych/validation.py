"""Plain data checked against types and ranges, what is wrong told in a sentence."""

import json
from collections.abc import Sequence
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
        place = " ".join(".".join(str(p) for p in first["loc"]).split()) or what
        if first["type"] == "unexpected_keyword_argument":
            known = _settings(cls, first["loc"][:-1])
            instead = f"it has {', '.join(known)}" if known else "leave it out"
            raise UserError(f"{what}: there is no setting {place}; {instead}") from None
        value = repr(first["input"])[:100]
        raise UserError(f"{what}: {place} = {value} is wrong: {_expected(first)}") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deeply; write it flat") from None


def _settings(cls: Any, path: Sequence[int | str]) -> list[str]:
    """Of the dataclass at this place inside of another, if it is one and no choice between some."""
    for part in path:
        hint = get_type_hints(cls).get(str(part))
        inner = [t for t in (hint, *get_args(hint)) if hasattr(t, "__dataclass_fields__")]
        if len(inner) != 1:
            return []
        (cls,) = inner
    return list(cls.__dataclass_fields__)


def _expected(error: Any) -> str:
    """What pydantic wanted, in the words of who writes TOML."""
    kind, more = error["type"], error.get("ctx", {})
    if error["input"] != error["input"]:  # nan, which is on neither side of a limit
        return "it must be a number"
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
