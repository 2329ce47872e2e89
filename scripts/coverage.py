#!/usr/bin/env python3
"""Print docs/coverage.toml as a table; with --check, see that it tells the truth.

--check fails when an id is missing, a status is unknown, a row marked "works" names no
test or one that does not exist, or a row marked "partial" does not say what is missing.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections import Counter
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
STATUSES = {"works": "green", "partial": "yellow", "not yet": "red", "background only": "dim"}
IDS = [f"A{n:03}" for n in range(1, 312)] + [f"B{n:02}" for n in range(1, 93)]
FIELDS = {"title": str, "group": str, "status": str, "tests": list, "note": str}

Rows = dict[str, dict[str, Any]]


@cache
def test_names(path: Path) -> frozenset[str]:
    """Names a test id may end in: `test_x`, `TestY::test_z`. Empty if there is no such file."""
    if not path.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{sub.name}" for sub in node.body if isinstance(sub, ast.FunctionDef)}
    return frozenset(found)


def test_exists(root: Path, test_id: str) -> bool:
    path, _, name = test_id.partition("::")
    return name.partition("[")[0] in test_names(root / path)


def check(rows: Rows, root: Path) -> list[str]:
    """Everything wrong with the table, as messages."""
    problems = [f"{id_}: missing" for id_ in IDS if id_ not in rows]
    problems += [f"{id_}: unknown id" for id_ in rows if id_ not in set(IDS)]
    for id_, row in rows.items():
        if {k: type(v) for k, v in row.items()} != FIELDS:
            problems.append(f"{id_}: needs exactly {', '.join(FIELDS)} (tests a list, the rest strings)")
            continue
        if row["status"] not in STATUSES:
            problems.append(f"{id_}: unknown status {row['status']!r}, not one of {', '.join(STATUSES)}")
        if row["status"] == "works" and not row["tests"]:
            problems.append(f"{id_}: works, but names no test")
        if row["status"] == "partial" and not row["note"].strip():
            problems.append(f"{id_}: partial, but no note says what is missing")
        problems += [f"{id_}: no such test: {t}" for t in row["tests"] if not test_exists(root, t)]
    return problems


def show(rows: Rows) -> None:
    # rich drops colours by itself when piped; frames and wrapping are dropped here, for grep.
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200)
    for group, members in groupby(rows.items(), key=lambda item: item[1]["group"]):
        table = Table(title=group, title_justify="left", box=box.SIMPLE if terminal else None)
        # On a narrow terminal the system's title and the note give way, nothing else.
        for column, width in {"id": 4, "system": 20, "status": 15, "tests": 5, "note": 10}.items():
            table.add_column(column, no_wrap=column != "note", overflow="ellipsis", min_width=width)
        for id_, row in members:
            style = STATUSES.get(row["status"], "bold red")
            status = f"[{style}]{row['status']}[/]"
            table.add_row(id_, row["title"], status, str(len(row["tests"]) or ""), row["note"])
        console.print(table)
    count = Counter(row["status"] for row in rows.values())
    console.print(f"{len(rows)} rows: " + ", ".join(f"{count[s]} {s}" for s in STATUSES))


def main() -> int:
    parser = argparse.ArgumentParser(description="Print or check docs/coverage.toml.")
    parser.add_argument("--check", action="store_true", help="print what is wrong, fail if anything is")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder that test ids start from")
    parser.add_argument("--file", type=Path, default=ROOT / "docs/coverage.toml")
    args = parser.parse_args()
    rows = tomllib.loads(args.file.read_text())
    if not args.check:
        show(rows)
        return 0
    problems = check(rows, args.root)
    for problem in problems:
        print(f"coverage: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
