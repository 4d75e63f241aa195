"""The rooms of both packages and the arrows between them, read from the imports.

`make architecture` draws them into docs/architecture.md, as a Mermaid diagram for each package. A
room is a package or a module directly below the package of a distribution. An arrow says that one
room imports another one; imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "architecture.md"
PACKAGES: Final = {
    "stateport_exporter": ROOT / "exporter" / "stateport_exporter",
    "stateport": ROOT / "runtime" / "stateport",
}

Arrows = Mapping[str, frozenset[str]]


def main() -> None:
    """Draws the rooms of both packages into the page."""
    page = PAGE.read_text(encoding="utf-8")
    for package in PACKAGES:
        page = with_diagram(page, package, diagram(direct(arrows(package))))
    PAGE.write_text(page, encoding="utf-8")


def arrows(package: str) -> dict[str, frozenset[str]]:
    """For each room of a package, the rooms that it imports."""
    folder = PACKAGES[package]
    rooms: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        module = path.relative_to(folder).with_suffix("").parts
        if module == ("__init__",):
            continue  # the door: it names what is public
        imported = rooms.setdefault(module[0], set())
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for target in _imports(tree, (package, *module)):
            if target[0] == package and len(target) > 1:
                imported.add(target[1])
    return {room: frozenset(imported & rooms.keys()) - {room} for room, imported in rooms.items()}


def packages_imported_by(package: str) -> set[str]:
    """The packages that a package's modules name in an import, wherever that stands."""
    imported = set()
    for path in PACKAGES[package].rglob("*.py"):
        module = path.relative_to(PACKAGES[package]).with_suffix("").parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported |= {target[0] for target in _imports(tree, (package, *module))}
    return imported


def circle(graph: Arrows) -> list[str]:
    """The rooms of one circle of arrows; empty where there is none."""
    done: set[str] = set()

    def visit(room: str, way: list[str]) -> list[str]:
        if room in way:
            return [*way[way.index(room) :], room]
        if room in done:
            return []
        for target in sorted(graph[room]):
            found = visit(target, [*way, room])
            if found:
                return found
        done.add(room)
        return []

    for room in sorted(graph):
        found = visit(room, [])
        if found:
            return found
    return []


def direct(graph: Arrows) -> dict[str, frozenset[str]]:
    """The arrows without those that a longer way makes superfluous."""

    def reached(room: str) -> set[str]:
        beyond = set(graph[room])
        for target in graph[room]:
            beyond |= reached(target)
        return beyond

    kept = {}
    for room, targets in graph.items():
        longer = set().union(*(reached(target) for target in targets))
        kept[room] = frozenset(targets - longer)
    return kept


def diagram(graph: Arrows) -> list[str]:
    """The rooms and arrows as a Mermaid diagram."""
    lines = ["```mermaid", "flowchart TD"]
    for room in sorted(graph):
        for target in sorted(graph[room]):
            lines.append(f"    {room} --> {target}")
    return [*lines, "```"]


def with_diagram(page: str, package: str, lines: list[str]) -> str:
    """The page with a package's diagram between its marks."""
    begin, end = f"<!-- rooms of {package} -->", f"<!-- end of rooms of {package} -->"
    head, mark, rest = page.partition(begin)
    if not mark or end not in rest:
        raise SystemExit(f"{PAGE} has no place for the diagram: {begin} ... {end} was expected.")
    text = "\n".join(lines)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def _imports(tree: ast.Module, module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The absolute names of what a module imports when it runs."""
    for node in _run(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            name = tuple(node.module.split(".")) if node.module else ()
            # One dot is the module's own package.
            base = module[: len(module) - node.level] if node.level else ()
            for alias in node.names:
                yield (*base, *name, alias.name)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All parts of a module but those for type checkers."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types:
            yield child
            yield from _run(child)


if __name__ == "__main__":
    main()
