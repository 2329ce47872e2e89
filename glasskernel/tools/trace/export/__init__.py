"""Traces in other programs' formats. The name of the file says which: see FORMATS."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glasskernel.tools.trace.export.chrome import write_chrome
from glasskernel.tools.trace.export.folded import write_folded, write_speedscope
from glasskernel.tools.trace.export.html import write_html
from glasskernel.tools.trace.export.perfetto import write_perfetto
from glasskernel.tools.trace.export.svg import write_svg
from glasskernel.tools.trace.export.tracedat import write_tracedat
from glasskernel.tools.trace.export.uftrace import write_uftrace
from glasskernel.tools.trace.model import Trace, TraceError

# ending -> (writer, what reads it)
FORMATS: dict[str, tuple[Callable[[Trace, Path], None], str]] = {
    ".gkt": (lambda trace, path: trace.save(path), "glasskernel report, glasskernel diff"),
    ".speedscope.json": (write_speedscope, "speedscope.app"),
    ".json": (write_chrome, "chrome://tracing, ui.perfetto.dev"),
    ".pftrace": (write_perfetto, "ui.perfetto.dev, trace_processor"),
    ".perfetto-trace": (write_perfetto, "ui.perfetto.dev, trace_processor"),
    ".folded": (write_folded, "flamegraph.pl, inferno, speedscope.app"),
    ".svg": (write_svg, "a browser: a flame graph"),
    ".html": (write_html, "a browser: a timeline and a table of functions"),
    ".dat": (write_tracedat, "trace-cmd report, KernelShark"),
    ".uftrace": (write_uftrace, "uftrace replay -d, report, graph, tui, dump (a directory)"),
}


def writer_for(path: str) -> Callable[[Trace, Path], None]:
    """The writer that the name asks for. Raises TraceError for an ending that nobody knows."""
    for ending, (writer, _) in FORMATS.items():
        if path.rstrip("/").endswith(ending):
            return writer
    raise TraceError(f"{path}: the ending must say what to write: {', '.join(FORMATS)}")
