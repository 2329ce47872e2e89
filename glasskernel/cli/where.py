"""`glasskernel where`: from the name of a kernel function to its source."""
from __future__ import annotations

import inspect
import linecache
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from types import CodeType

import click

import glasskernel
from glasskernel.kernel.kallsyms import kallsyms_table


def show_where(name: str, source: bool) -> int:
    """Prints every function of that name. Raises click.UsageError when there is none."""
    symbols = [s for s in kallsyms_table().symbols if s.name == name and s.code is not None]
    if not symbols:
        near = get_close_matches(name, sorted({s.name for s in kallsyms_table().symbols}), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise click.UsageError(f"the kernel has no function {name!r}{hint}")
    package = Path(glasskernel.__file__).parent
    for symbol in symbols:
        code = symbol.code
        assert code is not None
        file = package / (symbol.module.replace(".", "/") + ".py")
        module = sys.modules[f"glasskernel.{symbol.module}"]
        print(f"{symbol.name} at {symbol.address:#x}")
        print(f"  here:  {file}:{symbol.first_line}")
        linux = linux_files(module.__doc__ or "")
        if linux:
            print(f"  Linux: {linux}")
        text = documentation(code)
        if text:
            print("\n" + "\n".join(f"  {line}".rstrip() for line in text.splitlines()))
        if source:
            print("\n" + source_of(file, symbol.first_line))
    return 0


def linux_files(docstring: str) -> str:
    """What a file says that it stands for: the sentence that begins with "Linux:"."""
    match = re.search(r"^Linux: (.*?)(?:\.\s|\.$|\n\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def documentation(code: CodeType) -> str:
    """A function's docstring."""
    first = code.co_consts[0] if code.co_consts else None
    return inspect.cleandoc(first) if isinstance(first, str) else ""


def source_of(file: Path, line: int) -> str:
    """The function that begins at a line."""
    return "".join(inspect.getblock(linecache.getlines(str(file))[line - 1 :]))
