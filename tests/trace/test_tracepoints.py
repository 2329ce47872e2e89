"""Tracepoints are all there: declared, raised somewhere, and free while nobody listens."""
from __future__ import annotations

import pathlib
import re

from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.tracepoint import Tracepoints

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent / "glasskernel"
# Declared, so that their formats can be read, but not raised yet.
# Declared, as in Linux, and raised nowhere: why.
AWAITED = {
    "napi_gro_frags_entry": "no driver here receives into bare pages (napi_gro_frags(): e1000 with jumbo frames)",
    "napi_gro_frags_exit": "the same",
    "block_sleeprq": "5.3 raises it nowhere: only the old request queues did, and they went in 5.0",
}
METHODS = {"kaddrs", "listeners", "next_kaddr"}


def sources():
    return {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def declared():
    return {name for name in vars(Tracepoints) if not name.startswith("_")}


def test_every_call_site_names_a_tracepoint():
    for path, text in sources().items():
        here = r"\.tp\.(\w+)" if path.name.startswith("tcp") else r"\btp\.(\w+)"      # TCP has Linux's tp: a tcp_sock
        for name in re.findall(here, text):
            assert name in declared() | METHODS, f"{path}: kernel.tp.{name}"


def test_every_tracepoint_is_raised_somewhere():
    text = "\n".join(t for p, t in sources().items() if p.name != "tracepoint.py")
    for name in declared():
        assert (re.search(rf"\btp\.{name}\b", text) is None) == (name in AWAITED), name


def test_every_tracepoint_has_an_event_and_the_contrary():
    events = {call.tracepoint for call in event_calls() if call.system != "ftrace"}
    assert declared() == events
