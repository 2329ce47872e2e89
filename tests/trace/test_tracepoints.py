"""Tracepoints are all there: declared, raised somewhere, and free while nobody listens."""
from __future__ import annotations

import pathlib
import re

from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.tracepoint import Tracepoints

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent / "glasskernel"
# Declared, so that their formats can be read, but not raised yet.
AWAITED = frozenset([
    "block_sleeprq", "ext4_begin_ordered_truncate", "ext4_drop_inode", "ext4_es_find_extent_range_enter",
    "ext4_es_find_extent_range_exit", "ext4_es_lookup_extent_enter", "ext4_es_lookup_extent_exit", "ext4_es_shrink",
    "ext4_es_shrink_count", "ext4_es_shrink_scan_enter", "ext4_es_shrink_scan_exit",
    "ext4_ext_convert_to_initialized_fastpath", "ext4_ext_remove_space_done", "ext4_ext_show_extent",
    "ext4_journal_start_reserved", "ext4_mb_bitmap_load", "ext4_mb_release_group_pa", "ext4_mb_release_inode_pa",
    "ext4_mballoc_alloc", "ext4_mballoc_discard", "ext4_mballoc_free", "ext4_mballoc_prealloc",
    "ext4_other_inode_update_time", "ext4_shutdown", "ext4_trim_all_free", "ext4_trim_extent", "ext4_zero_range",
])
METHODS = {"kaddrs", "listeners", "next_kaddr"}


def sources():
    return {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def declared():
    return {name for name in vars(Tracepoints) if not name.startswith("_")}


def test_every_call_site_names_a_tracepoint():
    for path, text in sources().items():
        for name in re.findall(r"\btp\.(\w+)", text):
            assert name in declared() | METHODS, f"{path}: kernel.tp.{name}"


def test_every_tracepoint_is_raised_somewhere():
    text = "\n".join(t for p, t in sources().items() if p.name != "tracepoint.py")
    for name in declared():
        assert (re.search(rf"\btp\.{name}\b", text) is None) == (name in AWAITED), name


def test_every_tracepoint_has_an_event_and_the_contrary():
    events = {call.tracepoint for call in event_calls() if call.system != "ftrace"}
    assert declared() == events
