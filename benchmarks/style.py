"""How dense the code is, beside five well-kept packages of the same trade.

    python -m benchmarks.style [FOLDER ...]

Without FOLDER it measures stateport and those of the packages below that are installed beside it:
`pip install --no-deps onnx-ir spox httpx click safetensors`. Generated code is left out.

What is counted, in each file:

- **decision points**: `if`, `elif`, `for`, `while`, `except`, `case`, a conditional expression, an
  `assert`, each `and` or `or`, and each `for` and `if` of a comprehension. A function's complexity
  is its decision points and one, with those of the functions inside it (McCabe 1976).
- **code lines**: lines that are neither blank nor a comment nor part of a docstring.
- **blank lines inside functions**: in per cent of all lines of functions, docstrings left out.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

PACKAGES: Final = ("onnx_ir", "spox", "httpx", "click", "safetensors")
_OURS: Final = ("runtime/stateport", "exporter/stateport_exporter")
# Written by a generator, or a copy of somebody else's.
_GENERATED: Final = ("opset", "_vendor")
_MOST_COMPLEX: Final = 10

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_BRANCHES: Final = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
    ast.IfExp,
    ast.Assert,
)


@dataclass
class Style:
    """The counts of one code base."""

    name: str
    files: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    decisions: int = 0
    comprehensions: int = 0
    function_lines: int = 0
    blank_lines: int = 0
    lengths: list[int] = field(default_factory=list)
    complexities: list[int] = field(default_factory=list)

    def row(self) -> list[str]:
        """The cells of the table, in the order of `_COLUMNS`."""
        complex_ones = sum(each > _MOST_COMPLEX for each in self.complexities)
        return [
            self.name,
            f"{self.files}",
            f"{self.code_lines:,}",
            f"{self._per_100_lines(self.decisions):.1f}",
            f"{self._per_100_lines(self.comprehensions):.1f}",
            f"{self._per_100_lines(self.comment_lines):.1f}",
            f"{100 * self.blank_lines / max(self.function_lines, 1):.1f} %",
            f"{100 * complex_ones / max(len(self.complexities), 1):.1f} %",
            f"{max(self.complexities, default=0)}",
            f"{statistics.median(self.lengths or [0]):.0f}",
        ]

    def _per_100_lines(self, count: int) -> float:
        return 100 * count / max(self.code_lines, 1)


_COLUMNS: Final = (
    "code base",
    "files",
    "code lines",
    "decision points per 100 lines",
    "comprehensions per 100 lines",
    "comments per 100 lines",
    "blank lines inside functions",
    f"functions above {_MOST_COMPLEX}",
    "most complex",
    "median lines of a function",
)


def main() -> None:
    """Prints the table."""
    table = Table(*_COLUMNS)
    for name, folders in _code_bases(sys.argv[1:]):
        table.add_row(*measure(name, folders).row())
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _code_bases(folders: list[str]) -> Iterator[tuple[str, list[Path]]]:
    if folders:
        for folder in folders:
            yield folder, [Path(folder)]
        return

    for folder in _OURS:
        yield Path(folder).name, [Path(folder)]
    yield "both", [Path(folder) for folder in _OURS]

    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            print(f"{package} is not installed and left out", file=sys.stderr)
        else:
            yield package, [Path(spec.origin).parent]


def measure(name: str, folders: list[Path]) -> Style:
    """Counts every Python file under `folders`."""
    style = Style(name)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).parts
            if not any(part.startswith(_GENERATED) for part in parts):
                count_file(path.read_text(encoding="utf-8"), style)
    return style


def count_file(source: str, style: Style) -> None:
    """Adds what one file holds to `style`."""
    tree = ast.parse(source)
    lines = source.splitlines()
    docstrings = _docstring_lines(tree)
    comments = _comment_lines(source)
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    left_out = docstrings | comments | blank

    style.files += 1
    style.code_lines += len(lines) - len(left_out)
    style.comment_lines += len(comments)
    style.decisions += decision_points(tree)
    style.comprehensions += sum(isinstance(node, _Comprehension) for node in ast.walk(tree))

    for function in _outer_functions(tree):
        body = set(range(function.lineno, (function.end_lineno or 0) + 1)) - docstrings
        style.function_lines += len(body)
        style.blank_lines += len(body & blank)
        style.lengths.append(len(body - left_out))
        style.complexities.append(1 + decision_points(function))


def decision_points(tree: ast.AST) -> int:
    """How many ways fork inside `tree`."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, _BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def _outer_functions(tree: ast.AST) -> Iterator[_Function]:
    """Functions and methods. One inside another is part of the outer one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Function):
            yield node
        else:
            yield from _outer_functions(node)


def _docstring_lines(tree: ast.Module) -> set[int]:
    numbers: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                numbers.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return numbers


def _comment_lines(source: str) -> set[int]:
    """Lines that hold nothing but a comment."""
    lines = source.splitlines()
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row = token.start[0]
        if token.type == tokenize.COMMENT and lines[row - 1].lstrip().startswith("#"):
            numbers.add(row)
    return numbers


if __name__ == "__main__":
    main()
