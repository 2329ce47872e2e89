"""The format file of every event is that of a real kernel: offsets, sizes, signs, the text of its print fmt.

The references are of Linux 5.10; where 5.3 differs, changed_since_5_3() says how.
"""
from __future__ import annotations

import lzma
import pathlib
import re

import pytest

from glasskernel.kernel.kallsyms import syscall_source_name
from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.trace.print_fmt import compile_print_fmt
from glasskernel.kernel.trace.syscall_prototypes import PROTOTYPES
from glasskernel.kernel.trace.trace_syscalls import _PROTOTYPE, _arguments
from glasskernel.lib.syscalls import DECLARED

FORMATS = pathlib.Path(__file__).resolve().parent.parent / "data" / "trace" / "formats"
ENTRY = re.compile(r"^### events/(\w+)/(\w+)/format\n(name: .*?\nprint fmt: .*?\n)(?=\n?###|\Z)", re.S | re.M)
FIELD = re.compile(r"\tfield:(.*?);\toffset:(\d+);\tsize:(\d+);\tsigned:(\d);")
# Not in the captures: Debian has CONFIG_LEGACY_VSYSCALL_XONLY, but no trace of it was taken.
WITHOUT_REFERENCE = {"emulate_vsyscall", "xdp_exception", "xdp_redirect", "xdp_redirect_err", "xdp_redirect_map",
                     "xdp_redirect_map_err", "cpuhp_enter", "cpuhp_exit"}

DEV = "((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1)))"
HARD_MODES = (', { HRTIMER_MODE_ABS_HARD, "ABS|HARD" }, { HRTIMER_MODE_REL_HARD, "REL|HARD" }, '
              '{ HRTIMER_MODE_ABS_PINNED_HARD, "ABS|PINNED|HARD" }, { HRTIMER_MODE_REL_PINNED_HARD, "REL|PINNED|HARD" }')


def changed_since_5_3(system, name, fields, text):
    """(fields, print fmt) of 5.3, from those of 5.10."""
    if name in ("hrtimer_init", "hrtimer_start"):           # hard timers came with 5.4
        text = text.replace(HARD_MODES, "")
    elif name == "itimer_state":                            # 5.3 takes timevals
        fields = [f.replace("nsec", "usec") for f in fields]
        text = text.replace("%06ld", "%ld").replace("nsec / 1000L", "usec")
    elif name == "mm_vmscan_lru_isolate":                   # renamed with 5.8
        fields = [f.replace("highest_zoneidx", "classzone_idx") for f in fields]
        text = text.replace("REC->highest_zoneidx", "REC->classzone_idx")
    elif name == "workqueue_execute_end":                   # the function came with 5.6
        fields, text = ["void * work"], '"work struct %p", REC->work'
    elif name == "global_dirty_state":                      # unstable pages of NFS went with 5.8
        fields = [*fields[:2], "unsigned long nr_unstable", *fields[2:]]
        text = text.replace("writeback=%lu bg", "writeback=%lu unstable=%lu bg").replace(
            "REC->nr_writeback, REC->back", "REC->nr_writeback, REC->nr_unstable, REC->back")
    elif name == "ext4_discard_preallocations":             # len and needed came with 5.9
        fields, text = fields[:2], f'"dev %d,%d ino %lu", {DEV}, (unsigned long) REC->ino'
    elif name == "ext4_journal_start":                      # revoke credits came with 5.5
        fields = fields[:4]
        text = text.replace("blocks %d, rsv_blocks %d, revoke_creds %d, caller", "blocks, %d rsv_blocks, %d caller")
        text = text.replace(" REC->revoke_creds,", "")
    elif name == "ext4_read_block_bitmap_load":             # prefetching came with 5.9
        fields, text = fields[:2], text.replace(" prefetch %d", "").replace(", REC->prefetch", "")
    if system == "writeback":                               # inode numbers became ino_t with 5.5
        fields = ["unsigned int cgroup_ino" if f == "ino_t cgroup_ino" else f.replace("ino_t ino", "unsigned long ino")
                  for f in fields]
        text = text.replace("cgroup_ino=%lu", "cgroup_ino=%u").replace("(unsigned long)REC->cgroup_ino", "REC->cgroup_ino")
        text = text.replace("(unsigned long)REC->ino", "REC->ino")
        text = text.replace('"I_DIRTY_TIME"}, ', '"I_DIRTY_TIME"}, {(1 << 12), "I_DIRTY_TIME_EXPIRED"}, ')    # went with 5.9
    if system == "cgroup":                                  # ids became those of kernfs with 5.5
        fields = [re.sub("^u64 (.*id)$", r"int \1", f) for f in fields if not f.endswith("level")]
        if "int id" in fields or "int dst_id" in fields:
            fields.insert(2, "int level" if "int id" in fields else "int dst_level")
        text = text.replace("id=%llu", "id=%d")
    if system == "jbd2":                                    # transaction numbers became tid_t with 5.17, and stable 5.10
        fields = [{"tid_t transaction": "int transaction", "tid_t head": "int head", "tid_t tid": "unsigned long tid"}.get(f, f)
                  for f in fields]
        text = text.replace("transaction %u", "transaction %d").replace("head %u", "head %d")
        text = text.replace('"dev %d,%d tid %u', '"dev %d,%d tid %lu')
    return fields, text


def references():
    """{event: (system, format text)}"""
    found = {}
    for path in sorted(FORMATS.iterdir()):
        raw = path.read_bytes()
        text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
        for system, name, body in ENTRY.findall(text):
            found[name] = (system, re.sub(r"\nID: \d+\n", "\nID: 0\n", body.rstrip("\n") + "\n"))
    return found


REFERENCES = references()
EVENTS = [call for call in event_calls() if call.system != "ftrace"]


@pytest.mark.parametrize("call", [c for c in EVENTS if c.system != "syscalls"], ids=lambda c: c.name)
def test_the_format_of_an_event_is_linux_s(call):
    if call.name in WITHOUT_REFERENCE:
        return
    system, text = REFERENCES[call.name]
    assert call.system == system
    fields = [f[0] for f in FIELD.findall(text) if "common_" not in f[0]]
    print_fmt = text.partition("\nprint fmt: ")[2].removesuffix("\n")
    changed = changed_since_5_3(system, call.name, fields, print_fmt)
    if changed == (fields, print_fmt):
        assert re.sub(r"\nID: \d+\n", "\nID: 0\n", call.format_text()) == text
    else:
        assert ([f.declaration for f in call.fields], call.print_fmt) == changed


def test_every_print_fmt_is_understood():
    for call in EVENTS:
        compile_print_fmt(call.print_fmt, call.helpers)


def test_the_formats_of_system_calls_are_linux_s():
    by_name = {call.name: call for call in EVENTS if call.system == "syscalls"}
    compared = 0
    for name, (system, text) in REFERENCES.items():
        if system == "syscalls" and name in by_name:
            assert re.sub(r"\nID: \d+\n", "\nID: 0\n", by_name[name].format_text()) == text
            compared += 1
    assert compared > 40


def test_prototypes_agree_with_our_declarations():
    """A wrong name in the table would be a wrong field in the format file."""
    prototypes = dict(_PROTOTYPE.findall(PROTOTYPES))
    renamed = {("sched_setaffinity", "length"): "len", ("sched_getaffinity", "length"): "len"}   # len() is Python's
    for name, call in DECLARED.items():
        if call.arguments:
            theirs = [argument for _, argument in _arguments(prototypes[syscall_source_name(name)])]
            assert theirs == [renamed.get((name, argument), argument) for argument, _ in call.arguments], name


def test_numbers_are_unique_and_in_order():
    numbers = [call.id for call in EVENTS]
    assert numbers == sorted(set(numbers))
    assert len({(call.system, call.name) for call in EVENTS}) == len(EVENTS)
