"""kernel.trace(): what the Python API shows of a run."""
import pytest

from glasskernel import Kernel
from glasskernel.tools.trace.model import TraceError, load


@pytest.fixture
def kernel():
    with Kernel(cmdline="oops=panic") as k:
        yield k


def test_calls_with_arguments_and_times(kernel, tmp_path):
    with kernel.trace(["vfs_rename", "do_renameat2"], arguments=True) as t:
        assert kernel.run(["/bin/sh", "-c", "cd /tmp; echo > a; mv a b"]).status == 0
    (call,) = [c for c in t.calls("vfs_rename") if "old_dentry=a" in c.text]
    assert "new_dentry=b" in call.text and call.end_ns > call.start_ns
    (outer,) = [c for c in t.calls("do_renameat2") if call in c.children]
    assert outer.start_ns < call.start_ns and outer.end_ns > call.end_ns
    t.save(tmp_path / "x.gkt")
    assert load(tmp_path / "x.gkt").records == [record._replace(fields=None) for record in t]


def test_events_are_objects_with_fields_and_come_at_once(kernel):
    heard = []
    with kernel.trace(events="sched:sched_process_*", on_record=heard.append) as t:
        kernel.run(["/bin/sh", "-c", "true & wait"])
    forks = t.events("sched:sched_process_fork")
    assert [e.fields["parent_comm"] for e in forks] == [b"sh"]
    exits = [e.fields["pid"] for e in t.events("sched:sched_process_exit")]
    assert forks[0].fields["child_pid"] in exits and heard == t.records
    assert not t.calls()                                   # events were asked for, functions were not


def test_nothing_is_recorded_before_or_after(kernel):
    with kernel.trace("vfs_read") as t:
        pass
    kernel.run(["/bin/cat", "/etc/hostname"])
    assert t.records == []


def test_functions_of_programs_too(kernel):
    with kernel.trace(["strlen", "ksys_write"], user=True) as t:
        kernel.run(["/bin/echo", "hello"])
    assert t.calls("strlen") and len(t.calls("ksys_write")) == 1


def test_a_pattern_that_matches_nothing_is_an_error(kernel):
    with pytest.raises(TraceError, match="no kernel function matches nosuch"), kernel.trace("nosuch"):
        pass
