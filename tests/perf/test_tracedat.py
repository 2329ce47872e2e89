"""trace.dat files as Debian's trace-cmd reads them, on the host and inside."""
import collections
import re
import subprocess
import sys

import pytest

from glasskernel import Kernel, Share
from glasskernel.tools.trace.model import ENTER, EVENT, LEAVE, load
from tests.conftest import need

pytestmark = pytest.mark.patience(180)


def record(path, *options):
    argv = [sys.executable, "-m", "glasskernel", "trace", "-o", str(path), *options, "--", "/bin/ls", "/etc/apt"]
    done = subprocess.run(argv, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same run as trace.dat and in our own format."""
    need("trace-cmd", "trace-cmd")
    folder = tmp_path_factory.mktemp("tracedat")
    for name in ("x.dat", "x.gkt"):
        record(folder / name, "--events", "sched", "--events", "irq")
    return folder


def report(path):
    done = subprocess.run(["trace-cmd", "report", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trace_cmd_reports_the_same_calls(files):
    """Names, kernel and user, and how often each was called."""
    ours = collections.Counter(r.name for r in load(files / "x.gkt").records if r.kind == ENTER)
    theirs = collections.Counter(re.findall(r"funcgraph_entry: .*\| +([^\s;{]+)\(\)", report(files / "x.dat")))
    assert len(ours) > 300
    assert theirs == ours


def test_trace_cmd_reports_the_same_events(files):
    """System events in their binary formats, with the text that the kernel itself would print."""
    trace = load(files / "x.gkt")
    ours = [r.name.split(":")[1] for r in trace.records if r.kind == EVENT]
    text = report(files / "x.dat")
    seen = re.findall(r"^ +\S+-\d+ +\[\d+\] +\d+\.\d+: (sched_\w+|softirq_\w+|irq_\w+): +(.*)$", text, re.MULTILINE)
    assert collections.Counter(name for name, _ in seen) == collections.Counter(ours)
    assert dict(seen)["sched_process_exec"] == "filename=/bin/ls pid=23 old_pid=23"


def test_the_times_and_tasks_are_ours(files):
    trace = load(files / "x.gkt")
    raw = subprocess.run(["trace-cmd", "report", "-t", "-R", files / "x.dat"], capture_output=True, text=True).stdout
    lines = re.findall(r"^ +(\S+)-(\d+) +\[(\d+)\] +(\d+)\.(\d{9}): funcgraph_exit:", raw, re.MULTILINE)
    ours = sorted((r.time_ns, r.cpu, r.tid) for r in trace.records if r.kind == LEAVE)
    assert sorted((int(s) * 10**9 + int(ns), int(cpu), int(tid)) for _, tid, cpu, s, ns in lines) == ours
    assert {name for name, *_ in lines} == {"ls"}


def test_a_saved_trace_can_be_converted(files):
    """Its events have text only: they become lines of trace_marker."""
    argv = [sys.executable, "-m", "glasskernel", "report", str(files / "x.gkt"), "-o", str(files / "y.dat")]
    assert subprocess.run(argv, capture_output=True).returncode == 0
    text = report(files / "y.dat")
    assert "sched:sched_process_exec: filename=/bin/ls" in text
    assert text.count("funcgraph_entry") == report(files / "x.dat").count("funcgraph_entry")


def test_trace_cmd_inside_reads_it_too(files):
    with Kernel(shares=[Share(str(files), "/mnt")], cmdline="oops=panic") as kernel:
        result = kernel.run(["trace-cmd", "report", "/mnt/x.dat"])
    assert result.status == 0, result.stderr.decode()
    assert result.stdout.decode() == report(files / "x.dat")
