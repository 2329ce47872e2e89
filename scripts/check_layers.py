#!/usr/bin/env python3
"""Check the imports of glasskernel against docs/layers.toml.

Fails on: an import from a lower layer into a higher one, a cycle between files, a module
that is in no layer, and a package of `only_in` (unicorn, ctypes) imported elsewhere.

import-linter's own layer contract takes whole packages; ours splits Linux's directories
(fs/exec.c stands above fs/), so this uses grimp, the import graph underneath it.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import grimp

PACKAGE = "glasskernel"
ROOT = Path(__file__).resolve().parent.parent


def short(module: str) -> str:
    """The name as the table writes it."""
    return module.removeprefix(PACKAGE + ".")


def matches(pattern: str, module: str) -> bool:
    """True if `module` is what `pattern` names, or lies inside it."""
    want, have = pattern.split("."), module.split(".")
    return len(have) >= len(want) and all(fnmatchcase(h, w) for h, w in zip(have, want))


@dataclass
class Rules:
    """docs/layers.toml"""

    layer: list[dict[str, Any]]
    only_in: dict[str, list[str]] = field(default_factory=dict)
    allow: list[dict[str, str]] = field(default_factory=list)

    def place(self, module: str) -> tuple[int, str] | None:
        """Index of the layer and the pattern that put the module there."""
        for index, layer in enumerate(self.layer):
            for pattern in layer["modules"]:
                if matches(pattern, module):
                    return index, pattern
        return None


def unplaced(rules: Rules, graph: grimp.ImportGraph, internal: list[str], package_dir: Path) -> list[str]:
    problems = []
    for module in internal:
        # A bare package folder (kernel/__init__.py) has no imports to judge.
        bare = graph.find_children(module) and not graph.find_modules_directly_imported_by(module)
        if not bare and rules.place(short(module)) is None:
            problems.append(f"{module} is in no layer: add {short(module)!r} to one in docs/layers.toml")
    # A folder without __init__.py would escape every check unseen.
    for path in sorted(package_dir.rglob("*.py")):
        file = path.relative_to(package_dir.parent)
        parts = file.parent.parts if path.name == "__init__.py" else file.with_suffix("").parts
        if ".".join(parts) not in graph.modules and all(part.isidentifier() for part in parts):
            problems.append(f"{file} cannot be seen: no __init__.py in its folder?")
    return problems


def upward(rules: Rules, graph: grimp.ImportGraph, internal: list[str]) -> list[str]:
    problems = []
    allowed = {(a["importer"], a["imported"]): a.get("why", "") for a in rules.allow}
    used = set()
    for importer, imported in direct_imports(graph, internal):
        from_, to = rules.place(short(importer)), rules.place(short(imported))
        if from_ is None or to is None:
            continue  # unplaced() speaks of it
        (index, pattern), (index_, pattern_) = from_, to
        layer, layer_ = rules.layer[index], rules.layer[index_]
        if index_ < index:
            rule = f"'{layer['name']}' is below '{layer_['name']}'"
        elif index_ == index and pattern_ != pattern and layer.get("independent"):
            rule = f"'{layer['name']}' keeps its parts independent"
        else:
            continue
        pair = short(importer), short(imported)
        if allowed.get(pair):
            used.add(pair)
            continue
        details = graph.get_import_details(importer=importer, imported=imported)
        line = min(d["line_number"] for d in details)
        # grimp takes a module it cannot find for the package itself.
        what = f"{imported}'s __init__, or a module that does not exist" if imported == PACKAGE else imported
        problems.append(f"{importer}:{line} imports {what}: {rule}")
    for pair in sorted(allowed.keys() - used):
        problems.append(f"docs/layers.toml: exception {' -> '.join(pair)} is not needed, or has no why")
    return problems


def direct_imports(graph: grimp.ImportGraph, internal: list[str]) -> list[tuple[str, str]]:
    """Every (importer, imported) of the package's own modules."""
    files = set(internal)
    return [(m, n) for m in internal for n in sorted(graph.find_modules_directly_imported_by(m) & files)]


def cycles(graph: grimp.ImportGraph, internal: list[str]) -> list[str]:
    """The first cycle between files; the next shows once it is mended."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in direct_imports(graph, internal):
        sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as e:
        # CycleError lists each module before the one that imports it.
        return ["import cycle: " + " -> ".join(short(m) for m in reversed(e.args[1]))]
    return []


def confined(rules: Rules, graph: grimp.ImportGraph) -> list[str]:
    problems = []
    for package, homes in sorted(rules.only_in.items()):
        if package not in graph.modules:
            continue
        for importer in sorted(graph.find_modules_that_directly_import(package)):
            if not any(matches(home, short(importer)) for home in homes):
                problems.append(f"{importer} imports {package}: only {', '.join(homes)} may")
    return problems


def check(root: Path, table: Path) -> list[str]:
    """Everything wrong with the package in `root`, as messages."""
    rules = Rules(**tomllib.loads(table.read_text()))
    # This checkout, not whatever copy happens to be installed.
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph(
            PACKAGE, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
        )
    finally:
        sys.path.remove(str(root))
    internal = sorted(m for m in graph.modules if m == PACKAGE or m.startswith(PACKAGE + "."))
    return [
        *unplaced(rules, graph, internal, root / PACKAGE),
        *upward(rules, graph, internal),
        *cycles(graph, internal),
        *confined(rules, graph),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check imports against docs/layers.toml.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder that holds glasskernel/")
    parser.add_argument("--table", type=Path, default=ROOT / "docs/layers.toml")
    args = parser.parse_args()
    problems = check(args.root.resolve(), args.table)
    for problem in problems:
        print(f"layers: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
