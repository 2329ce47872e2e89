"""preempt=none|voluntary|full: how long a woken FIFO task waits while another task is in the kernel. Times are virtual."""
from __future__ import annotations

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_trylock, mutex_unlock
from glasskernel.kernel.sched.core import cond_resched, msleep
from glasskernel.kernel.sched.policy import SCHED_FIFO
from glasskernel.kernel.sched.types import preempt_dynamic_full, preempt_dynamic_none, preempt_dynamic_voluntary
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.kernel.workqueue import WorkStruct, schedule_work

FIFO = r"""
import os, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
late = 0
for _ in range(200):
    begin = time.monotonic_ns()
    time.sleep(0.0005)
    late = max(late, time.monotonic_ns() - begin - 500_000)
print(late)
"""


def hog_with(lock, unlock):
    """A kernel thread that is busy for 25 ms, again and again; every 100 us it passes lock() and unlock()."""

    def hog(_data):
        mutex = Mutex()
        for _ in range(12):
            for _ in range(250):
                lock(mutex)
                register.task.kernel.machine.charge(100_000)
                unlock(mutex)
            msleep(8)
        return 0

    return hog


def worst_latency(boot, mode, hog):
    kernel = boot(cpus=1, cmdline=f"oops=panic preempt={mode}")
    irqs_in_the_kernel = []

    def on_expiry(_timer, *_rest):
        if register.task.comm == b"hog":
            irqs_in_the_kernel.append(register.task.preempt_count)

    tracepoint_probe_register(kernel, "hrtimer_expire_entry", on_expiry)
    register.task = kernel.pids.idle_tasks[0]
    schedule_work(WorkStruct(lambda _work: kthread_run(hog, None, "hog") and None))
    result = kernel.run(["python3", "-c", FIFO])
    assert result.status == 0, result.stderr
    return int(result.stdout), irqs_in_the_kernel


@pytest.mark.parametrize("mode, preempts", [("none", False), ("voluntary", True), ("full", True)])
def test_taking_a_lock_is_a_point_where_others_may_run_from_voluntary_on(boot, mode, preempts):
    late, irqs = worst_latency(boot, mode, hog_with(mutex_lock, lambda mutex: setattr(mutex, "owner", None)))
    assert (late < 300_000) == preempts
    assert bool(irqs) == preempts
    assert all(count & 0xF0000 for count in irqs)              # do_IRQ in kernel mode: hardirq bits are set


@pytest.mark.parametrize("mode, preempts", [("none", False), ("voluntary", False), ("full", True)])
def test_giving_a_lock_back_is_one_in_a_preemptible_kernel(boot, mode, preempts):
    late, _ = worst_latency(boot, mode, hog_with(mutex_trylock, mutex_unlock))
    assert (late < 300_000) == preempts
    if not preempts:
        assert late > 10_000_000


@pytest.mark.parametrize("mode", ["none", "voluntary", "full"])
def test_cond_resched_is_one_in_every_kernel(boot, mode):
    late, _ = worst_latency(boot, mode, hog_with(mutex_trylock, lambda mutex: (setattr(mutex, "owner", None), cond_resched())))
    assert late < 300_000


@pytest.mark.parametrize("mode", ["none", "full"])
def test_nobody_runs_while_preemption_is_off(boot, mode):
    def lock(mutex):
        register.task.preempt_count += 1
        mutex_trylock(mutex)

    def unlock(mutex):
        mutex_unlock(mutex)
        cond_resched()
        register.task.preempt_count -= 1

    late, irqs = worst_latency(boot, mode, hog_with(lock, unlock))
    assert late > 10_000_000
    assert not irqs


@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_read_of_64_mb_does_not_hold_up_a_fifo_task(boot, mode):
    """read(2) of /dev/zero and write(2) to /dev/null are loops over pages, with a cond_resched() each."""
    kernel = boot(cpus=1, cmdline=f"oops=panic preempt={mode}")
    result = kernel.run(["sh", "-c", 'dd if=/dev/zero of=/dev/null bs=64M count=2 2>/dev/null & exec python3 -c "$0"', FIFO])
    assert result.status == 0, result.stderr
    assert int(result.stdout) < 100_000


def test_the_boot_option_sets_the_model_and_the_configuration_says_so(boot):
    for mode, number, option in (("none", preempt_dynamic_none, b"CONFIG_PREEMPT_NONE"),
                                 ("voluntary", preempt_dynamic_voluntary, b"CONFIG_PREEMPT_VOLUNTARY"),
                                 ("full", preempt_dynamic_full, b"CONFIG_PREEMPT")):
        kernel = boot(cmdline=f"oops=panic preempt={mode}")
        assert kernel.sched.preempt_dynamic_mode == number
        assert option + b"=y\n" in kernel.run(["zcat", "/proc/config.gz"]).stdout
        assert f"Dynamic Preempt: {mode}" in kernel.dmesg()
    kernel = boot()
    assert kernel.sched.preempt_dynamic_mode == preempt_dynamic_none
    assert b"rcu_preempt" not in kernel.run(["sh", "-c", "cat /proc/*/comm"]).stdout
    assert SCHED_FIFO == 1


def test_programs_run_alike_in_a_preemptible_kernel(boot):
    script = "seq 1 2000 | sort -n | tail -1; for i in 1 2 3 4; do (echo $i | cat) & done; wait; find /proc/self >/dev/null"
    outputs = {mode: boot(cmdline=f"oops=panic preempt={mode}").run(["bash", "-c", script]) for mode in ("none", "full")}
    assert sorted(outputs["none"].stdout.split()) == sorted(outputs["full"].stdout.split())
    assert {r.status for r in outputs.values()} == {0}
