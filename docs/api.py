"""The page of the public names, docs/api.md, written from their signatures and docstrings.

`make api` writes it; a test holds it against the packages. Docstrings are Google's style: text,
then sections such as `Args:`, whose entries become lists.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import stateport
import stateport.ray
import stateport_exporter

PAGE: Final = Path(__file__).with_name("api.md")

_HEAD: Final = """\
<!-- Written by docs/api.py from the docstrings: run `make api` after a change. -->

# API

These are the public names of both packages. They are typed, and the [changelog](../CHANGELOG.md)
tells every change to them. Everything else is internal and may change in any version: modules
below the two packages, names that begin with an underscore, and constructors that are not shown.

An `Array` is a NumPy array. Nothing is cast: an array of another dtype than the contract's is an
error.
"""


@dataclass(frozen=True)
class Section:
    """Some public names of one package, under a heading."""

    package: ModuleType
    heading: str
    introduction: str
    names: tuple[str, ...]


SECTIONS: Final = (
    Section(
        stateport,
        "Run a model",
        "Load a file once, and run it as whole sequences, as streams or as a pool of streams.",
        ("load", "Model", "Stream", "Pool", "PoolStream", "AsyncPool", "State"),
    ),
    Section(
        stateport,
        "Read a contract",
        "`model.contract` says what a file takes and gives ([how](contract.md)).",
        ("Contract", "ArraySpec", "StateSpec", "Streaming"),
    ),
    Section(
        stateport,
        "Verify a file",
        "`verify` compares a file with PyTorch's recorded answers ([how](parity.md)).\n"
        "`EngineChoice` names an engine with options; all other classes are what `verify` returns.",
        (
            "verify",
            "EngineChoice",
            "Matrix",
            "EngineVerdict",
            "EngineReport",
            "Measurement",
            "ErrorCurve",
            "CarriedStream",
            "LocatedFault",
        ),
    ),
    Section(
        stateport,
        "Errors",
        "Every error that stateport raises on purpose is a `StateportError`.",
        (
            "StateportError",
            "FileError",
            "ContractError",
            "InputError",
            "StateError",
            "StreamingError",
            "EngineError",
            "EngineUnavailable",
        ),
    ),
    Section(
        stateport.ray,
        "On a Ray cluster",
        "These are the names of `stateport.ray`: whole data sets ([how](datasets.md#ray)), and\n"
        "live streams ([how](replicas.md#ray-serve)).",
        ("predict", "deployment"),
    ),
    Section(
        stateport_exporter,
        "Make a file",
        "These are the names of `stateport_exporter`. Each function verifies what it wrote before\n"
        "the file appears.",
        (
            "export",
            "Spec",
            "ExportResult",
            "lift",
            "LiftResult",
            "LiftedOperator",
            "add_contract",
            "ContractResult",
            "quantize",
            "QuantizeResult",
            "QuantizedOperator",
            "emit_c",
            "EmitResult",
            "PossibleState",
            "ExportError",
        ),
    ),
)

#: Classes that are constructed by their user; all others come from a function or a property.
CONSTRUCTED: Final = frozenset(["State", "EngineChoice", "Spec"])
#: Special methods that are part of the interface.
SPECIAL: Final = ("__call__", "__len__", "__contains__", "__getitem__")
#: Names of the source for types that a reader knows by another name.
ALIASES: Final = {
    "NDArray[Any]": "Array",
    "Rows": "Array",
    "ModelFile": "str | PathLike[str] | bytes",
    "Axis": "int | str",
    "Declared": "Mapping[str, str | int | None]",
    "ExampleLike": "Callable[[int, int], Any] | Sequence[Any] | Mapping[str, Any] | Spec",
}

_LINE: Final = 100
_SECTION: Final = re.compile(r"^(Args|Attributes|Returns|Raises):$", re.MULTILINE)
_ENTRY: Final = re.compile(r"^(\w+): (.*)$")


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_HEAD.rstrip(), "\n".join(_contents())]
    for section in SECTIONS:
        parts += [f"## {section.heading}", section.introduction]
        for name in section.names:
            parts.append(f"### {name}")
            parts += _described(section.package, name)
    return "\n\n".join(parts) + "\n"


def _contents() -> Iterator[str]:
    for section in SECTIONS:
        links = ", ".join(f"[{name}](#{name.lower()})" for name in section.names)
        yield f"- {section.heading}: {links}"


def _described(package: ModuleType, name: str) -> Iterator[str]:
    """The paragraphs on one public name."""
    value = getattr(package, name)
    full = f"{package.__name__}.{name}"
    if not inspect.isclass(value):
        yield _code(_signature(full, value))
        yield from _rendered(_docstring(value))
    elif issubclass(value, Exception):
        bases = [f"`{base.__name__}`" for base in value.__bases__]
        yield f"Base{'s' if len(bases) > 1 else ''}: {', '.join(bases)}."
        yield from _rendered(_docstring(value))
    else:
        if name in CONSTRUCTED:
            yield _code(_construction(full, value))
        yield from _class(name, value)


def _class(name: str, value: type) -> Iterator[str]:

    text, sections = _parsed(_docstring(value))
    yield from _paragraphs(text)
    if "Args" in sections:
        yield "Arguments:"
        yield _list(_entries(sections["Args"]))
    attributes = [*_fields(value, sections.get("Attributes", "")), *_properties(value)]
    if attributes:
        yield "Attributes:"
        yield "\n".join(attributes)
    if "Raises" in sections:
        yield "Raises:"
        yield _list(_entries(sections["Raises"]))

    for method, function in _methods(value):
        yield f"#### `{name}.{method}`"
        yield _code(_signature(f"{name}.{method}", function))
        yield from _rendered(_docstring(function))


def _fields(value: type, described: str) -> Iterator[str]:
    """The fields of a dataclass, with what its docstring says of each."""
    if not is_dataclass(value):
        return
    texts = dict(_entries(described))
    for field in fields(value):
        kind = _typed(str(field.type))
        yield _item(f"{field.name}: {kind}", texts.get(field.name, ""))


def _properties(value: type) -> Iterator[str]:
    for name, member in vars(value).items():
        if isinstance(member, property) and not name.startswith("_"):
            getter = member.fget
            assert getter is not None
            text, sections = _parsed(_docstring(getter))
            for error, when in _entries(sections.get("Raises", "")):
                text = f"{text} Raises `{error}`: {when}"
            yield _item(f"{name}: {_typed(getter.__annotations__['return'])}", _lowered(text))


def _methods(value: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        public = name in SPECIAL or not name.startswith("_")
        if public and inspect.isfunction(function) and function.__doc__:
            yield name, function


def _construction(name: str, value: Any) -> str:
    """The call that makes an object of a class."""
    parameters = getattr(value, "__dataclass_params__", None)
    if parameters is not None and parameters.init:
        return _call(name, [_as_argument(field) for field in fields(value)], "")
    return _signature(name, value.__init__)


def _as_argument(field: Field[Any]) -> str:
    """A field of a dataclass as an argument of its constructor."""
    argument = f"{field.name}: {_typed(str(field.type))}"
    if field.default_factory is not MISSING:
        return f"{argument} = {field.default_factory()!r}"
    return argument if field.default is MISSING else f"{argument} = {field.default!r}"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """A call of a function, with its types as they are written."""
    function = inspect.unwrap(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (node,) = tree.body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if isinstance(node, ast.AsyncFunctionDef):
        name = f"await {name}"
    returns = "" if node.returns is None or node.name == "__init__" else _typed(node.returns)
    return _call(name, [*_arguments(node, function.__globals__)], returns)


def _call(name: str, arguments: list[str], returns: str) -> str:
    """On one line where it fits, else with one argument on each line."""
    arrow = f" -> {returns}" if returns else ""
    line = f"{name}({', '.join(arguments)}){arrow}"
    if len(line) <= _LINE:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines}){arrow}"


def _arguments(
    node: ast.FunctionDef | ast.AsyncFunctionDef, names: Mapping[str, Any]
) -> Iterator[str]:
    """The arguments as they are written; a default that has a name is shown by its value."""
    given = node.args
    assert not given.posonlyargs
    defaults: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    for argument, default in zip(given.args, [*defaults, *given.defaults], strict=True):
        if argument.arg not in ("self", "cls"):
            yield _argument(argument, default, names)
    if given.vararg is not None:
        yield f"*{_argument(given.vararg, None, names)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default, names)
    if given.kwarg is not None:
        yield f"**{_argument(given.kwarg, None, names)}"


def _argument(argument: ast.arg, default: ast.expr | None, names: Mapping[str, Any]) -> str:
    kind = "" if argument.annotation is None else f": {_typed(argument.annotation)}"
    if default is None:
        return f"{argument.arg}{kind}"
    value = repr(names[default.id]) if isinstance(default, ast.Name) else ast.unparse(default)
    value = value.replace("'", '"')
    return f"{argument.arg}{kind} = {value}" if kind else f"{argument.arg}={value}"


def _typed(annotation: ast.expr | str) -> str:
    text = annotation if isinstance(annotation, str) else ast.unparse(annotation)
    for alias, meaning in ALIASES.items():
        text = re.sub(rf"(?<![\w.]){re.escape(alias)}(?!\w)", meaning, text)
    return text


def _docstring(value: object) -> str:
    return inspect.getdoc(value) or ""


def _rendered(docstring: str) -> Iterator[str]:
    """A docstring as paragraphs and lists."""
    text, sections = _parsed(docstring)
    yield from _paragraphs(text)
    for title, heading in (("Args", "Arguments"), ("Returns", "Returns"), ("Raises", "Raises")):
        if title == "Returns" and title in sections:
            yield f"{heading}:"
            yield _item("", sections[title])
        elif title in sections:
            yield f"{heading}:"
            yield _list(_entries(sections[title]))


def _parsed(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring before its sections, and these by their titles."""
    text, *rest = _SECTION.split(docstring)
    sections: dict[str, str] = {}
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        indented, _, after = f"{body.strip(chr(10))}\n\n".partition("\n\n")
        sections[title] = textwrap.dedent(indented)
        text = f"{text.rstrip()}\n\n{after.strip()}"
    return text.strip(), sections


def _entries(section: str) -> Iterator[tuple[str, str]]:
    """Each `name: text` of a section, with the lines that belong to it."""
    name, lines = "", list[str]()
    for line in section.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            lines.append(line.strip())
            continue
        if name:
            yield name, "\n".join(lines)
        name, lines = entry[1], [entry[2]]
    if name:
        yield name, "\n".join(lines)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\n+", text):
        if paragraph:
            yield _prose(paragraph)


def _list(entries: Iterator[tuple[str, str]]) -> str:
    return "\n".join(_item(name, text) for name, text in entries)


def _item(name: str, text: str) -> str:
    """One entry of a list: a name as code, and its description."""
    code = f"`{name}`" if name else ""
    said = textwrap.indent(_prose(text), "  ").strip()
    return f"- {': '.join(part for part in (code, said) if part)}"


def _lowered(text: str) -> str:
    """A sentence as it goes on after a colon."""
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text


def _prose(text: str) -> str:
    """Text of a docstring as Markdown: stars are stars, and pages are links."""
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        plain = re.sub(r"([*<])", r"\\\1", parts[place])
        parts[place] = re.sub(r"docs/([\w-]+)\.md", r"[\1](\1.md)", plain)
    return "`".join(parts)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


if __name__ == "__main__":
    main()
