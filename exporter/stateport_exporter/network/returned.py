"""What the author calls the results of forward: by keys and fields, or by variables returned.

A tuple has no names for what is in it. The return statement often has: `return y, k, v`. These
names only break ties between results that are alike, so code that cannot be read does no harm.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Path = tuple[str, ...]


def named_results(function: Callable[..., Any], paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths of results, where a variable's name stands for its place in the return statement.

    ("1", "0") becomes ("state", "0") where the function ends in `return y, state`. A result that no
    name tells of keeps its path.
    """
    statements = list(_returns(function))
    return tuple(_named(path, statements) for path in paths)


def _named(path: Path, statements: Sequence[ast.expr]) -> Path:
    if any(not key.isdigit() for key in path):
        return path
    names = {name for value in statements if (name := _followed(value, path)) is not None}
    return names.pop() if len(names) == 1 else path


def _followed(value: ast.expr, path: Path) -> Path | None:
    """The variable at a place of a returned expression, and the rest of the way into it."""
    for depth, key in enumerate(path):
        if not isinstance(value, ast.Tuple | ast.List):
            return _variable(value, path[depth:])
        if int(key) >= len(value.elts) or any(isinstance(e, ast.Starred) for e in value.elts):
            return None
        value = value.elts[int(key)]
    return _variable(value, ())


def _variable(value: ast.expr, rest: Path) -> Path | None:
    if isinstance(value, ast.Name):
        return (value.id, *rest)
    return (value.attr, *rest) if isinstance(value, ast.Attribute) else None


def _returns(function: Callable[..., Any]) -> Iterator[ast.expr]:
    """The expressions that a function returns, its inner functions left out."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError):  # typed in, or generated
        return
    functions = [part for part in tree.body if isinstance(part, ast.FunctionDef)]
    todo: list[ast.AST] = [*functions[0].body] if functions else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
