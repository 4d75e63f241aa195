# SPDX-License-Identifier: Apache-2.0
"""Names of the results of forward: keys and fields, or the variables that it returns.

A tuple has no names for its items, but the return statement often has: `return y, k, v`. These
names only break ties between results that are alike, so code that cannot be read does no harm.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stateport.picking import instances_of

Path = tuple[str, ...]


def named_results(function: Callable[..., Any], paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths of results, with names of variables in place of positions.

    ("1", "0") becomes ("state", "0") where the function ends in `return y, state`. A path does not
    change if the results already have names, or if there is no variable, or several.
    """
    expressions = list(_returned_expressions(function))
    return tuple(_named_path(path, expressions) for path in paths)


def _named_path(path: Path, expressions: Sequence[ast.expr]) -> Path:
    if not all(key.isdigit() for key in path):
        return path

    named_paths = set()
    for expression in expressions:
        named_path = _path_from_variable(expression, path)
        if named_path is not None:
            named_paths.add(named_path)
    if len(named_paths) == 1:
        return named_paths.pop()
    return path


def _path_from_variable(expression: ast.expr, path: Path) -> Path | None:
    """The variable that a path leads to in an expression, and the rest of the path inside it."""
    for depth, key in enumerate(path):
        if not isinstance(expression, ast.Tuple | ast.List):
            return _variable_path(expression, path[depth:])

        # Behind a starred item the positions are unknown.
        is_starred = any(isinstance(item, ast.Starred) for item in expression.elts)
        if is_starred or int(key) >= len(expression.elts):
            return None
        expression = expression.elts[int(key)]

    return _variable_path(expression, ())


def _variable_path(expression: ast.expr, rest: Path) -> Path | None:
    if isinstance(expression, ast.Name):
        return (expression.id, *rest)
    if isinstance(expression, ast.Attribute):
        return (expression.attr, *rest)

    return None


def _returned_expressions(function: Callable[..., Any]) -> Iterator[ast.expr]:
    """The expressions that a function returns, without those of its inner functions."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError):  # typed in, or generated
        return

    functions = instances_of(ast.FunctionDef, tree.body)

    waiting: list[ast.AST] = [*functions[0].body] if functions else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
