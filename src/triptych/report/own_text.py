"""What the group writes itself, discussion.md and ai.md: paragraphs of the little Markdown that the
page can set. The rest is refused, as it would be printed as it is written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych.errors import UserError
from triptych.report.wording import Span

# What Markdown has and the page cannot set. The comments name what only looks like it.
NOT_SET = {
    "a table": r"^ *\|?( *:?-{3,}:? *\|)+.*",
    "an image": r"!\[[^\]]*\]\([^)]*\)",
    "a link": r"\[[^\]]*\]\([^)\s]*[/.:#][^)\s]*\)",  # KL[q](z)
    "a block of code": r"^ *```.*",
    "code": r"`[^`\n]+`",
    "a formula": r"\$(?=[^\s,.;:)])[^$\n]*(?<=\S)\$(?!\d)",  # $5 and $6; 5$, or 6$
    "a quotation": r"^ *> .*",
    # C:\runs; a backslash alone
    "LaTeX or an escape": r"(?<![A-Za-z:.\\])\\[A-Za-z()\[\]]\S*|\\[%&#_*$]\S*"
    r"|\\[A-Za-z]+\{.*?\}|\w*[\^_]\{.*?\}",
    "HTML": r"<!--.*|</?(?:b|i|em|strong|sub|sup|br|div|span|center) ?/?>",  # <x>, a mean
    "underscores to emphasise": r"(?<![\w/])(__?)(?=[^\W_])[^_\n]*[^\W_]\1(?![\w/])",
}


@dataclass(frozen=True)
class Paragraph:
    """A run-in heading (or none) and its text."""

    head: str
    spans: list[Span]


def read_own(path: Path, citations: Sequence[str]) -> list[Paragraph]:
    """Paragraphs of discussion.md: # Heading, - item, 1. item, **strong**, *emphasised* and
    [@key] are the only markup. Empty where there is no such file."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): save it as UTF-8 text.") from error
    for what, such in NOT_SET.items():
        if found := re.search(such, text, re.MULTILINE):
            raise UserError(
                f"{path} has {what}, {found[0]!r}, which would be printed as it is written; say it "
                f"in words"
            )
    text = re.sub(r"^(#+ .*)$", r"\n\1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ *[-*+] +(?=\S)", "\n\n\N{BULLET} ", text, flags=re.MULTILINE)
    text = _numbered_apart(text)
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    return [_own_paragraph(block, citations, path) for block in blocks if block]


def _numbered_apart(text: str) -> str:
    """With an empty line before each numbered item. Only number 1, or what follows an empty line or
    another item, is one: any other line that begins with a number goes on with its sentence."""
    lines, may_begin = [], True
    for line in text.split("\n"):
        numbered = re.match(r" *(\d{1,2})[.)] +\S", line)
        is_item = numbered is not None and (may_begin or numbered[1] == "1")
        lines += ["", line] if is_item else [line]
        may_begin = is_item or not line.strip()
    return "\n".join(lines)


def _own_paragraph(block: str, citations: Sequence[str], path: Path) -> Paragraph:
    heading = re.match(r"#+ (.*)", block)
    if heading:
        if "[@" in heading[1]:
            raise UserError(
                f"{path} cites in the heading {heading[1]!r}; cite in the text below it"
            )
        return Paragraph(heading[1].replace("**", ""), [])
    emphasised = r"(?<!\w)\*(?P<emph>[^*\s][^*]*)\*(?!\w)"  # and not 2*3*4
    pattern = rf"\*\*(?P<strong>[^*]+)\*\*|{emphasised}|\[@(?P<cite>[^\]]*)\]"
    spans: list[Span] = []
    end = 0
    for match in re.finditer(pattern, block):
        if (key := match["cite"]) is not None and key not in citations:
            raise UserError(
                f"{path} cites [@{key}], which the report does not know; write one key in each "
                f"pair of brackets, of {', '.join(citations)}"
            )
        spans.append(block[end : match.start()])
        kind = match.lastgroup or ""
        spans.append({kind: match[kind]})
        end = match.end()
    spans.append(block[end:])
    return Paragraph("", [span for span in spans if span])
