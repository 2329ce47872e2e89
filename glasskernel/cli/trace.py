"""`glasskernel trace`: a program's call graph, live on stderr or saved to a file.

Invariants: thin. What is recorded is tools.trace.recorder's, how it looks tools.trace.text's.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glasskernel.cli.run import _write_all, run_command

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.tools.trace.model import Record


def run_trace(
    command: list[str],
    *,
    depth: int,
    min_ns: int,
    only: Sequence[tuple[str, ...]],
    never: Sequence[tuple[str, ...]],
    events: Sequence[tuple[str, ...]],
    stacks: Sequence[tuple[str, ...]],
    arguments: bool,
    kernel: bool,
    user_functions: bool,
    output: str | None,
    **options: Any,
) -> int:
    """Runs the command; its exit status is ours."""
    from glasskernel.tools.trace.export import writer_for
    from glasskernel.tools.trace.model import TraceError
    from glasskernel.tools.trace.recorder import Recorder, What

    try:
        save = writer_for(output) if output is not None else None
    except TraceError as e:
        raise click.UsageError(f"-o {e}") from None
    if output is not None and not os.access(os.path.dirname(os.path.abspath(output)), os.W_OK):
        raise click.UsageError(f"-o {output}: cannot be written there")
    what = What(
        only=[p for group in only for p in group], never=[p for group in never for p in group], depth=depth,
        kernel=kernel, user=user_functions, arguments=arguments, events=[p for group in events for p in group],
        stacks=[p for group in stacks for p in group],
    )

    def watch(machine: Kernel, stack: ExitStack) -> None:
        records: list[Record] = []
        sink = records.append if save is not None else live(stack, min_ns)
        try:
            recorder = Recorder(machine, what, sink)
        except TraceError as e:
            raise click.UsageError(str(e)) from None

        def finish() -> None:
            recorder.stop()
            if save is not None and output is not None:
                save(recorder.trace(records, command), Path(output))
                print(f"glasskernel: {len(records)} records in {output}", file=sys.stderr)

        stack.callback(finish)

    return run_command([command], watch=watch, **options)


def live(stack: ExitStack, min_ns: int) -> Callable[[Record], None]:
    """Shows records as they come."""
    from glasskernel.tools.trace.text import CallGraphWriter

    terminal = os.isatty(2)
    pending: list[str] = []

    def write(text: str) -> None:
        # The guest may have put this terminal into raw mode.
        pending.append(text.replace("\n", "\r\n") if terminal else text)
        if terminal or len(pending) > 1000:
            flush()

    def flush() -> None:
        _write_all(2, "".join(pending))
        pending.clear()

    writer = CallGraphWriter(write, colour=terminal and "NO_COLOR" not in os.environ, min_ns=min_ns)
    stack.callback(flush)
    stack.callback(writer.close)
    return writer.add
