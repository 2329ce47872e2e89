"""What events tell of a run: texts of Linux's shape, and numbers that are true."""
from __future__ import annotations

import pathlib
import re

import pytest

from glasskernel import Kernel
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from tests.trace.listening import Listener

SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "data" / "trace" / "event_samples.txt"
# Texts of 5.10 that 5.3 has otherwise.
CHANGED = {"workqueue_execute_end", "global_dirty_state"}


def samples():
    found = {}
    for line in SAMPLES.read_text().splitlines():
        if not line.startswith("#"):
            flags, _, rest = line.partition(" ")
            name, _, text = rest.partition(": ")
            found.setdefault(name, []).append((flags, text))
    return found


def shape(text):
    """The words of a text without its values."""
    return re.findall(r"\w+=|==>", text)


WORK = r"""
import os, signal, time, threading
pid = os.fork()
if pid == 0:
    os.execv("/bin/true", ["true"])
os.waitpid(pid, 0)
signal.signal(signal.SIGUSR1, lambda *a: None)
os.kill(os.getpid(), signal.SIGUSR1)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.signal(signal.SIGALRM, lambda *a: None)
time.sleep(0.02)
end = time.monotonic() + 0.03
while time.monotonic() < end: pass
open("/proc/self/oom_score_adj", "w").write("7")
open("/proc/self/comm", "w").write("renamed")
r, w = os.pipe()
t = threading.Thread(target=lambda: os.read(r, 1))
t.start()
time.sleep(0.005)
os.write(w, b"x")
t.join()
import mmap
m = mmap.mmap(-1, 65536)
m[0] = 1
m.close()
"""


@pytest.fixture(scope="module")
def heard():
    kernel = Kernel(cpus=2, cmdline="oops=panic")
    listener = Listener(kernel)
    result = kernel.run(["python3", "-S", "-c", WORK])
    listener.stop()
    assert result.status == 0, result.stderr
    yield listener
    kernel.close()


def test_texts_have_the_shape_of_linux(heard):
    compared = 0
    for name, examples in samples().items():
        if name in CHANGED or name not in heard.lines:
            continue
        wanted = {tuple(shape(text)) for _, text in examples}
        for line in heard.lines[name]:
            assert tuple(shape(line)) in wanted, f"{name}: {line}"
        compared += 1
    assert compared >= 25, sorted(heard.counts)


def test_interrupts_are_off_where_linux_has_them_off(heard):
    for name, examples in samples().items():
        theirs = {flags[0] in "dX" for flags, _ in examples}
        if name in heard.irqs_off and len(theirs) == 1:
            ours = heard.irqs_off[name]
            assert ours & theirs, f"{name}: Linux {theirs}, we {ours}"


def test_the_life_of_a_process(heard):
    assert "comm=python3 pid=" in heard.lines["sched_process_fork"][0] or heard.records["sched_process_fork"]
    execs = [r["filename"] for r in heard.records["sched_process_exec"]]
    assert b"/bin/true" in execs
    child = next(r for r in heard.records["sched_process_exec"] if r["filename"] == b"/bin/true")["pid"]
    for name, key in (("task_newtask", "pid"), ("sched_wakeup_new", "pid"), ("sched_process_exit", "pid"),
                      ("sched_process_free", "pid"), ("sched_process_fork", "child_pid")):
        assert child in [r[key] for r in heard.records[name]], name
    assert {"oldcomm": b"python3", "newcomm": b"true"}.items() <= next(
        r for r in heard.records["task_rename"] if r["pid"] == child).items()
    assert b"renamed" in [r["newcomm"] for r in heard.records["task_rename"]]


def test_every_switch_goes_on_where_the_last_one_ended(heard):
    """On one CPU next of a switch is prev of the next one; so both lists agree but for their ends."""
    switches = heard.records["sched_switch"]
    assert len(switches) > 20
    assert all(r["prev_pid"] != r["next_pid"] for r in switches)
    states = {r["prev_state"] for r in switches}
    assert {0, 1} <= states


def test_signals_are_generated_and_delivered(heard):
    sent = {(r["sig"], r["code"], r["result"]) for r in heard.records["signal_generate"]}
    assert ((10, 0, 0) in sent and (14, 128, 0) in sent and (17, 1, 1) in sent) or (17, 1, 0) in sent
    assert {10, 14} <= {r["sig"] for r in heard.records["signal_deliver"]}


def test_timers(heard):
    assert any("function=tick_sched_timer" in line for line in heard.lines["hrtimer_expire_entry"])
    assert any("function=hrtimer_wakeup" in line for line in heard.lines["hrtimer_start"])
    assert heard.records["itimer_state"][0] == {
        "which": 0, "expires": 0, "value_sec": 0, "value_usec": 10000, "interval_sec": 0, "interval_usec": 0}
    assert heard.counts["itimer_expire"] == 1
    entered = heard.counts["hrtimer_expire_entry"]
    assert entered == heard.counts["hrtimer_expire_exit"]
    assert heard.counts["local_timer_entry"] == heard.counts["local_timer_exit"] > 0


def test_softirqs(heard):
    assert "vec=1 [action=TIMER]" in heard.lines["softirq_raise"]
    assert heard.counts["softirq_entry"] == heard.counts["softirq_exit"] > 0


def test_page_faults_tell_address_and_ip(heard):
    assert any(re.fullmatch(r"address=0x[0-9a-f]+ ip=0x[0-9a-f]+ error_code=0x[0-9a-f]+", line)
               for line in heard.lines["page_fault_user"])
    fetched = [r for r in heard.records["page_fault_user"] if r["error_code"] == 0x14]
    # An instruction may begin on the page before.
    assert fetched and all(0 <= r["address"] - r["ip"] < 15 for r in fetched)
    assert all(r["ip"] >> 47 for r in heard.records["page_fault_kernel"])


def test_frames_are_freed_that_were_allocated(heard):
    assert any("gfp_flags=GFP_HIGHUSER_MOVABLE" in line for line in heard.lines["mm_page_alloc"])
    assert any("GFP_KERNEL_ACCOUNT|__GFP_ZERO" in line or "GFP_KERNEL|__GFP_ZERO" in line
               for line in heard.lines["mm_page_alloc"])
    assert heard.counts["mm_page_free"] > 0


def test_an_object_keeps_its_address(heard):
    started = [r["hrtimer"] for r in heard.records["hrtimer_start"]]
    expired = [r["hrtimer"] for r in heard.records["hrtimer_expire_entry"]]
    assert set(expired) <= set(started) and all(address >> 40 == 0xFFFF88 for address in started)


def test_listening_does_not_change_the_run():
    command = ["sh", "-c", "for i in 1 2 3; do /bin/true; done; sleep 0.01; date +%N"]
    plain = Kernel(cpus=2).run(command)
    kernel = Kernel(cpus=2)
    listener = Listener(kernel)
    assert kernel.run(command).stdout == plain.stdout
    listener.stop()


def test_works_and_the_timer_wheel():
    """From inside: a work, a delayed work and a kthread that is stopped."""
    from glasskernel.kernel.kthread import kthread_run, kthread_should_stop, kthread_stop
    from glasskernel.kernel.sched.core import schedule_timeout_interruptible
    from glasskernel.kernel.workqueue import (
        DelayedWork,
        WorkStruct,
        flush_delayed_work,
        flush_work,
        schedule_delayed_work,
        schedule_work,
    )

    kernel = Kernel(cpus=2, cmdline="oops=panic")
    listener = Listener(kernel)
    done = []

    def body(_arg):
        work = WorkStruct(lambda w: done.append("work"))
        schedule_work(work)
        flush_work(work)
        delayed = DelayedWork(lambda w: done.append("delayed"))
        schedule_delayed_work(delayed, 3)
        schedule_timeout_interruptible(10)
        flush_delayed_work(delayed)

        def idle(_):
            done.append("running")
            while not kthread_should_stop():
                schedule_timeout_interruptible(2)
            return 7

        thread = kthread_run(idle, None, "stopme")
        schedule_timeout_interruptible(3)
        assert kthread_stop(thread) == 7
        done.append("end")
        return 0


    def start(task, comm):
        if comm == b"sleep":
            tracepoint_probe_unregister(kernel, "task_rename", start)
            kthread_run(body, None, "body")

    tracepoint_probe_register(kernel, "task_rename", start)
    assert kernel.run(["sleep", "0.3"]).status == 0
    assert done == ["work", "delayed", "running", "end"]
    for name in ("workqueue_queue_work", "workqueue_activate_work", "workqueue_execute_start", "workqueue_execute_end",
                 "timer_init", "timer_start", "timer_cancel", "timer_expire_entry", "timer_expire_exit",
                 "sched_kthread_stop", "sched_kthread_stop_ret"):
        assert listener.counts[name], name
    assert listener.lines["sched_kthread_stop_ret"] == ["ret=7"]
    assert any("function=process_timeout" in line for line in listener.lines["timer_start"])
    assert re.fullmatch(r"work struct=[0-9a-f]{16} function=\S+ workqueue=[0-9a-f]{16} req_cpu=\d+ cpu=\d+",
                        listener.lines["workqueue_queue_work"][0])
    listener.stop()


def test_scheduler_statistics_are_switched_on_by_a_sysctl():
    kernel = Kernel(cpus=1)
    names = ("sched_stat_wait", "sched_stat_sleep", "sched_stat_blocked")
    listener = Listener(kernel, names)
    work = "sleep 0.005; (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done); wait"
    assert kernel.run(["sh", "-c", work]).status == 0
    assert not listener.counts
    assert kernel.run(["sh", "-c", "echo 1 > /proc/sys/kernel/sched_schedstats;" + work]).status == 0
    assert all(listener.counts[name] for name in names[:2])
    slept = [r["delay"] for r in listener.records["sched_stat_sleep"] if r["comm"] == b"sleep"]
    assert slept and 5_000_000 <= max(slept) < 6_000_000
    assert max(r["delay"] for r in listener.records["sched_stat_wait"]) < 100_000_000
    listener.stop()
