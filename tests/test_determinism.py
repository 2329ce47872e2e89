"""The same command, seed and image give the same run, bit for bit, whatever the host's hash seed; watching changes nothing."""
import hashlib
import json
import os
import subprocess
import sys

import pytest

from glasskernel import Kernel, Share
from tests.conftest import ENV, PROGRAMS

BUSY = """
    for i in 1 2 3 4 5; do (echo child $i; exec sleep 0.0$i) & done; wait
    seq 2000 | sort -n | gzip -c | gunzip | md5sum; head -c 100 /dev/urandom | od -An -tx1 | tail -2
    mkdir d; for i in 1 2 3; do echo $i >d/$i; done; find d | sort; (while :; do :; done) & sleep 0.02; kill $!; wait $!; echo $?
    timeout 0.05 yes | head -c 10000 | wc -c; date +%s.%N; cat /proc/self/stat /proc/uptime /proc/stat | md5sum
    perl -e 'print join(",", map {rand} 1..3), "\\n"; my %h = map {$_ => 1} 1..20; print join(" ", keys %h), "\\n"'
"""


class Recorder:
    """A log of system calls, page faults and task switches, each with its virtual time and CPU."""

    def __init__(self, kernel, monkeypatch):
        self.kernel = kernel
        self.log = []
        from glasskernel.arch.x86.entry import common
        from glasskernel.kernel.current import current
        from glasskernel.kernel.sched import core
        from glasskernel.kernel.tracepoint import tracepoint_probe_register

        def note(kind, *details):
            machine = kernel.machine
            self.log.append((kind, machine.this_cpu.id, machine.this_cpu.clock_ns, *details))

        self.note = note
        page_fault, context_switch = common.do_page_fault, core.context_switch

        def do_page_fault(task, error_code, address):
            note("fault", task.pid, error_code, address)
            return page_fault(task, error_code, address)

        def recorded_switch(*args):
            note("switch", *(a.pid for a in args if hasattr(a, "pid")))
            return context_switch(*args)

        monkeypatch.setattr(common, "do_page_fault", do_page_fault)
        monkeypatch.setattr(core, "context_switch", recorded_switch)
        tracepoint_probe_register(
            kernel, "sys_enter", lambda regs, nr: note("enter", current().pid, nr, tuple(regs)))
        tracepoint_probe_register(
            kernel, "sys_exit", lambda regs, ret: note("exit", current().pid, current().thread.orig_ax, ret))


def record(seed=0, script=BUSY):
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = Kernel(seed=seed, cmdline="oops=panic")
        recorder = Recorder(kernel, monkeypatch)
        result = kernel.run(["/bin/bash", "-c", script], env=ENV, cwd="/tmp")
        assert result.status == 0, result
        end = kernel.now_ns
    kernel.close()
    return recorder.log, result, end


def test_two_runs_are_the_same_event_by_event():
    first, result, end = record()
    second, again, end_again = record()
    kinds = {event[0] for event in first}
    assert kinds == {"enter", "exit", "fault", "switch"}
    assert len(first) > 5000
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        assert a == b, f"event {number} of {len(first)}: after {first[max(0, number - 5):number]}"
    assert len(first) == len(second)
    assert (result, end) == (again, end_again)


def digest():
    """What the runs in processes of their own print."""
    log, result, end = record()
    text = repr((log, result.stdout, result.stderr, end))
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_seed_of_python_does_not_matter():
    digests = set()
    for seed in ("1", "2"):
        code = "from tests.test_determinism import digest; print(digest())"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=100)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_another_seed_is_another_run():
    """Addresses (ASLR) and random bytes follow the seed."""
    script = "head -c 8 /dev/urandom | od -An -tx8; head -1 /proc/self/maps; grep stack /proc/self/maps"
    runs = [record(seed, script)[1].stdout for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    for first, other in zip(runs[0].splitlines(), runs[2].splitlines(), strict=True):
        assert first != other


def run_times(attach):
    kernel = Kernel(cmdline="oops=panic")
    if attach:
        attach(kernel)
    result = kernel.run(["/bin/bash", "-c", BUSY], env=ENV, cwd="/tmp")
    from glasskernel.kernel.sched.core import nr_context_switches

    figures = kernel.now_ns, kernel.syscall_counts, nr_context_switches(kernel), result
    kernel.close()
    return figures


def test_watching_does_not_change_the_run():
    """strace attached, and Python's own profiler on: the virtual times stay as they were."""
    from glasskernel.cli.strace import attach_strace

    lines = []
    plain = run_times(None)
    assert run_times(lambda kernel: attach_strace(kernel, lines.append, True)) == plain
    assert len(lines) > 1000
    sys.setprofile(lambda *_: None)
    try:
        assert run_times(None) == plain
    finally:
        sys.setprofile(None)


def test_the_number_of_cpus_and_memory_is_part_of_the_machine_and_nothing_else_is(build_c, tmp_path):
    """The host's directory, time and environment do not matter."""
    binary = build_c(PROGRAMS / "threads.c")
    ends = []
    for number in range(2):
        os.environ["GLASSKERNEL_NOISE"] = "x" * 1000 * number
        kernel = Kernel(shares=[Share(str(binary.parent), "/programs")])
        kernel.run([f"/programs/{binary.name}"])
        ends.append((kernel.now_ns, json.dumps(kernel.syscall_statistics())))
        kernel.close()
    del os.environ["GLASSKERNEL_NOISE"]
    assert ends[0] == ends[1]
