"""Named pieces of source, cut out of the real files. Nothing is imported to be shown."""

import ast
import copy
import importlib.util
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from triptych.errors import UserError

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Ask:
    """One heading of the snippets page; `optional` pieces are shown as far as they fit, the first
    of each heading before the second of any."""

    title: str
    names: tuple[str, ...]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snippet:
    """Dedented source without docstrings, its first line without annotations; `numbers` are the
    lines' own in the file."""

    name: str
    file: str
    numbers: list[int]
    lines: list[str]


# Notes to the type checker, the linter and autograd say nothing about the method.
NO_GRAD = "torch.no_grad()"
TOOL_NOTE = re.compile(r"\s*# (?:pyright: ignore|type: ignore|noqa)\b.*$")
SNIPPETS = (
    Ask(
        "The ELBO, the mean of log w; a mixture prior",
        ("triptych.vae:VAE.log_weight", "triptych.maths:mixture_log_prob"),
    ),
    Ask(
        "The flow: an affine coupling and the density of the whole",
        (
            "triptych.flows.coupling:Coupling.inverse",
            "triptych.flows.coupling:Affine.inverse",
            "triptych.flows.flow:Flow.log_prob",
        ),
        ("triptych.flows.flow:Flow.inverse", "triptych.flows.coupling:Coupling.theta"),
    ),
    Ask(
        "The DDPM's ELBO",
        (
            "triptych.ddpm:DDPM.bound",
            "triptych.ddpm:DDPM.diffusion_term",
            "triptych.ddpm:DDPM.gaussian_kl",
        ),
        ("triptych.ddpm:DDPM.diffuse",),
    ),
    Ask(
        "The DDPM's sampling algorithm (ancestral)",
        ("triptych.ddpm:DDPM.sample", "triptych.ddpm:DDPM.step"),
        ("triptych.ddpm:DDPM.mu",),
    ),
)


def cut(name: str) -> Snippet:
    """The source of "module:Class.method". UserError when there is no such thing."""
    module, _, qualified = name.partition(":")
    path = _source_file(module, name)
    text = path.read_text(encoding="utf-8")
    source = text.split("\n")  # as Python counts lines; splitlines() parts at form feeds too
    node = _find(ast.parse(text), qualified.split("."))
    if node is None:
        raise UserError(f"{name} is not defined in {path.name}: name a function, class or method.")
    kept = range(_first_line(node), (node.end_lineno or 0) + 1)
    hidden = _docstring_lines(node, source)
    bare = _bare_signature(node)
    hidden |= set(range(node.lineno + 1, node.body[0].lineno)) if bare else set()
    numbers = [no for no in kept if no not in hidden]
    shown = {no: TOOL_NOTE.sub("", source[no - 1]) for no in numbers}
    if bare:
        shown[node.lineno] = " " * node.col_offset + bare
    lines = list(shown.values())
    dedented = textwrap.dedent("\n".join(lines)).split("\n")
    return Snippet(qualified, module.replace(".", "/") + ".py", numbers, dedented)


def _bare_signature(node: Definition) -> str:
    """A function's first line without its annotations; nothing for a class, or for a function that
    is a single line."""
    if isinstance(node, ast.ClassDef) or node.body[0].lineno == node.lineno:
        return ""
    arguments = copy.deepcopy(node.args)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{kind} {node.name}({ast.unparse(arguments)}):"


def _source_file(module: str, name: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"{name} cannot be shown: there is no module {module} with source.")
    return Path(spec.origin)


def _find(tree: ast.Module, path: list[str]) -> Definition | None:
    body: list[ast.stmt] = tree.body
    found: Definition | None = None
    for part in path:
        named = [n for n in body if isinstance(n, Definition) and n.name == part]
        if not named:
            return None
        # The last definition of a name is the one that Python keeps.
        found = named[-1]
        body = found.body
    return found


def _first_line(node: Definition) -> int:
    """Its first decorator's, but for that of autograd."""
    said = [d.lineno for d in node.decorator_list if ast.unparse(d) != NO_GRAD]
    return min([node.lineno, *said])


def _docstring_lines(node: Definition, source: list[str]) -> set[int]:
    """Line numbers to leave out: the docstrings at any depth, with the blank line that follows."""
    hidden: set[int] = set()
    for inner in ast.walk(node):
        if not isinstance(inner, Definition) or ast.get_docstring(inner) is None:
            continue
        first = inner.body[0]
        # A body that is its docstring alone, or shares a line with it, would no longer parse.
        if len(inner.body) == 1 or first.lineno == inner.lineno:
            continue
        end = first.end_lineno or first.lineno
        hidden.update(range(first.lineno, end + 1))
        if end < len(source) and not source[end].strip():
            hidden.add(end + 1)
    return hidden
