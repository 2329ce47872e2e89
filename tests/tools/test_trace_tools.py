"""Traces on the host's side: the file format, reports, differences, and other programs' formats."""
import gzip
import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasskernel.tools.trace.export import FORMATS, writer_for
from glasskernel.tools.trace.export.folded import folded
from glasskernel.tools.trace.model import (
    ENTER,
    EVENT,
    KERNEL,
    LEAVE,
    USER,
    Record,
    Task,
    Trace,
    TraceError,
    call_trees,
    load,
)
from glasskernel.tools.trace.report import changed, compare, summary
from glasskernel.tools.trace.text import CallGraphWriter

NAMES = ("main", "vfs_read", "free", "<lambda>", "operator;")


def trace_of(text):
    """One word a record: +name enters, - leaves, !name is an event; one microsecond each."""
    trace = Trace(["program", "a&b"], "5.3.0", 2, {7: Task(7, 7, "prog"), 8: Task(8, 7, "thread")})
    stacks = {7: [], 8: []}
    tid = 7
    for i, word in enumerate(text.split()):
        if word.isdigit():
            tid = int(word)
            continue
        kind = {"+": ENTER, "-": LEAVE, "!": EVENT}[word[0]]
        name = word[1:]
        if kind == ENTER:
            stacks[tid].append(name)
        elif kind == LEAVE:
            name = stacks[tid].pop()
        side = USER if name == "main" else KERNEL
        trace.records.append(Record(1000 * i, tid & 1, tid, kind, side, name, "x=1" if kind == EVENT else ""))
    return trace


@st.composite
def traces(draw):
    """Any mixture of calls and events of two tasks, with calls left open, and leaves without an entry."""
    trace = Trace(["p"], "5.3.0", 2, {7: Task(7, 7, "prog"), 8: Task(8, 7, "thread")})
    now = 0
    for _ in range(draw(st.integers(0, 30))):
        now += draw(st.integers(0, 5000))
        kind = draw(st.sampled_from((ENTER, ENTER, LEAVE, EVENT)))
        trace.records.append(Record(now, 0, draw(st.sampled_from((7, 8))), kind, draw(st.sampled_from((KERNEL, USER))),
                                    draw(st.sampled_from(NAMES)), draw(st.sampled_from(("", "a=1")))))
    return trace


@given(traces())
def test_a_saved_trace_is_the_same_again_and_so_is_its_file(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("t") / "a.gkt"
    trace.save(path)
    first = path.read_bytes()
    again = load(path)
    assert again == trace
    again.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"{}\n", mtime=0), gzip.compress(b"[1]\n", mtime=0),
                                     gzip.compress(b"\xff", mtime=0)[:-9]])
def test_what_is_no_trace_is_refused_in_words(tmp_path, content):
    path = tmp_path / "x.gkt"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"x\.gkt"):
        load(path)


def test_a_truncated_trace_is_damaged(tmp_path):
    path = tmp_path / "x.gkt"
    trace_of("+main -main").save(path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TraceError, match="damaged"):
        load(path)


def test_summary_counts_calls_and_splits_time():
    functions = {f.name: f for f in summary(trace_of("+main +vfs_read +free -free -vfs_read +free -free -main"))}
    assert (functions["main"].calls, functions["main"].total_ns, functions["main"].self_ns) == (1, 7000, 3000)
    assert (functions["free"].calls, functions["free"].total_ns, functions["free"].callers) == (
        2, 2000, {"vfs_read": 1, "main": 1})
    assert functions["vfs_read"].callees == {"free": 1}


def test_recursion_counts_its_time_once_and_may_be_deep():
    deep = trace_of("+main " * 5000 + "- " * 5000)
    (main,) = summary(deep)
    assert (main.calls, main.total_ns, main.self_ns) == (5000, 9_999_000, 9_999_000)
    assert [line.change for line in compare(deep, deep)] == ["="] * 5000


@given(traces())
def test_a_trace_does_not_differ_from_itself_and_every_self_time_is_someones(trace):
    assert changed(list(compare(trace, trace))) in ([], [None])
    assert all(f.self_ns >= 0 and f.total_ns >= f.self_ns for f in summary(trace))
    assert sum(folded(trace).values()) == sum(f.self_ns for f in summary(trace))


def test_a_difference_is_shown_below_its_callers():
    cold = trace_of("+main +read +readpage -readpage -read +close -close -main")
    warm = trace_of("+main +read -read +close -close -main")
    lines = changed(list(compare(cold, warm)))
    assert [(line.change, line.depth, line.name) for line in lines if line] == [
        ("=", 0, "main"), ("=", 1, "read"), ("-", 2, "readpage")]
    assert lines[-1] is None                               # close() is the same


def text_of(trace, **options):
    out = []
    writer = CallGraphWriter(out.append, **options)
    for record in trace.records:
        writer.add(record)
    writer.close()
    return "".join(out)


def test_the_call_graph_in_text():
    assert text_of(trace_of("+main +free - !sched:switch - 8 +main")) == """\
# DURATION     TID      FUNCTION
            [     7] | main() {
   1.000 us [     7] |   free();
            [     7] |   /* sched:switch: x=1 */
   4.000 us [     7] | } /* main */

            [     8] | main() {
"""


def test_short_calls_are_left_out_but_not_what_contains_something():
    out = text_of(trace_of("+main +free - +vfs_read +free +free - - - -"), min_ns=3000)
    assert re.findall(r"\| (.*)", out) == ["main() {", "  vfs_read() {", "    free();", "  } /* vfs_read */", "} /* main */"]
    assert "\x1b" not in out and "\x1b[" in text_of(trace_of("+main -"), colour=True)


def decode(data):
    """A protobuf message: field number -> values."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            at, value = at + value, data[at : at + value]
        fields.setdefault(key >> 3, []).append(value)
    return fields


@given(traces())
def test_every_format_is_sound(tmp_path_factory, trace):
    folder = tmp_path_factory.mktemp("e")
    for ending in FORMATS:
        writer_for(f"x{ending}")(trace, folder / f"x{ending}")
    events = json.loads((folder / "x.json").read_text())["traceEvents"]
    for tid in (7, 8):
        depth = 0
        for event in events:
            if event["tid"] == tid and event["ph"] in "BE":
                depth += 1 if event["ph"] == "B" else -1
                assert depth >= 0
        assert depth == 0
    entered = sum(record.kind == ENTER for record in trace.records)
    packets = decode((folder / "x.pftrace").read_bytes())[1]
    kinds = [decode(decode(p)[11][0])[9][0] for p in packets if 11 in decode(p)]
    assert kinds.count(1) == entered and kinds.count(2) <= entered
    for profile in json.loads((folder / "x.speedscope.json").read_text())["profiles"]:
        at = [event["at"] for event in profile["events"]]
        assert at == sorted(at) and len(at) % 2 == 0 and profile["endValue"] >= at[-1]
    ElementTree.fromstring((folder / "x.svg").read_text())
    page = (folder / "x.html").read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1].replace("\\u003c", "<"))
    assert sum(len(task["calls"]) for task in data["tasks"]) == entered and "http" not in page


def test_names_become_part_of_a_page_but_never_of_its_code(tmp_path):
    trace = trace_of("+</script><script>alert(1)</script> -")
    trace.command = ["<b>"]
    writer_for("a.html")(trace, tmp_path / "a.html")
    writer_for("a.svg")(trace, tmp_path / "a.svg")
    assert "<script>alert" not in (tmp_path / "a.html").read_text() + (tmp_path / "a.svg").read_text()
    assert "<b>:" not in (tmp_path / "a.svg").read_text()


def test_an_unknown_ending_names_those_that_are_known():
    with pytest.raises(TraceError, match=r"x\.txt.*\.gkt, .*\.html"):
        writer_for("x.txt")


def test_a_call_left_open_has_no_end():
    root = call_trees(trace_of("+main +free"))[7]
    main = next(root.calls())
    assert main.end_ns is None and [c.name for c in main.calls()] == ["free"] and root.end_ns == 1000
