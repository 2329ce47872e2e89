"""RCU: callbacks wait for every CPU, and the machine pays nothing while it is idle."""
from __future__ import annotations

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu import update
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.rcu.rcu import RcuSegcblist, rcu_segcblist_accelerate, rcu_segcblist_advance, rcu_seq_snap
from glasskernel.kernel.rcu.update import rcu_barrier_at_rest


def pending(kernel):
    return [len(d.cblist.done) + len(d.cblist.wait) + len(d.cblist.next_ready) + len(d.cblist.next)
            for d in kernel.rcu.data]


def rcu_row(text):
    rows = [line for line in text.splitlines() if line.split()[:1] == ["RCU:"]]
    return [sum(map(int, row.split()[1:])) for row in rows]


def test_the_rcu_row_of_proc_softirqs_grows_after_processes_ended(run):
    result = run("cat /proc/softirqs; ls / >/dev/null; sleep 0.1; cat /proc/softirqs")
    before, after = rcu_row(result.stdout.decode())
    assert after > before


def test_objects_of_a_dead_process_are_freed_a_grace_period_later(boot):
    kernel = boot()
    assert kernel.run(["true"]).status == 0
    assert sum(pending(kernel))                              # its files, its pid, its task wait
    kernel.run(["sleep", "1"])
    done = kernel.rcu.invoked
    assert done
    kernel.run(["sleep", "1"])
    assert kernel.rcu.invoked > done


def test_a_task_gives_its_registers_back_in_the_softirq(boot):
    kernel = boot()
    seen = []

    def probe(task):
        seen.append((task.comm, bool(register.task.preempt_count & 0x100), task.usage))

    from glasskernel.kernel.tracepoint import tracepoint_probe_register
    tracepoint_probe_register(kernel, "sched_process_free", probe)
    kernel.run(["sh", "-c", "ls >/dev/null; sleep 0.1"])
    assert (b"ls", True, 1) in seen


def test_no_callback_runs_before_every_cpu_has_passed_a_quiescent_state(boot):
    """A callback queued while all CPUs run is called after each of them has ticked or switched at least once."""
    kernel = boot(cpus=4)
    called = []

    def probe(_preempt, prev, _next):
        if prev.comm == b"sh" and not called and not marks:
            marks.extend(d.dynticks for d in kernel.rcu.data)
            starts.append(kernel.rcu.gp_seq)
            call_rcu("object", lambda head: called.append((head, kernel.rcu.gp_seq)))

    marks, starts = [], []
    from glasskernel.kernel.tracepoint import tracepoint_probe_register
    tracepoint_probe_register(kernel, "sched_switch", probe)
    kernel.run(["sh", "-c", "true & true; sleep 0.2"])
    assert [head for head, _ in called] == ["object"]
    assert called[0][1] >= rcu_seq_snap(starts[0])           # a full grace period lies between


def test_membarrier_global_waits_for_a_grace_period(boot):
    kernel = boot(cpus=2)
    result = kernel.run(["python3", "-c", """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
start = time.monotonic()
assert libc.syscall(324, 1, 0) == 0
print(time.monotonic() - start)
"""])
    assert result.status == 0, result.stderr
    assert 0.001 < float(result.stdout) < 0.05


def test_synchronize_rcu_on_one_cpu_is_nothing(boot):
    kernel = boot(cpus=1)
    kernel.run(["true"])
    assert update.rcu_blocking_is_gp(kernel)


def test_an_idle_machine_is_not_kept_awake(boot):
    """NO_HZ: once the callbacks are called, no tick comes for RCU's sake."""
    kernel = boot()
    kernel.run(["sleep", "1"])
    ticks = sum(kernel.irq.cpu_stat["LOC"])
    grace_periods = kernel.rcu.gp_seq
    kernel.run(["sleep", "3600"])
    assert sum(kernel.irq.cpu_stat["LOC"]) - ticks < 60
    assert kernel.rcu.gp_seq - grace_periods <= 5 * 4


def test_a_hog_in_user_mode_does_not_hold_up_grace_periods(boot):
    kernel = boot(cpus=2)
    result = kernel.run(["sh", "-c", "python3 -c 'while True: pass' & sleep 0.3; ls >/dev/null; sleep 0.3; kill $!"])
    assert result.status == 0, result.stderr
    assert kernel.rcu.invoked


def test_a_flood_of_callbacks_is_called_completely(boot):
    kernel = boot()
    kernel.run(["sh", "-c", "cd /tmp && mkdir d && cd d && seq 1 3000 | xargs touch && rm -r ../d && sleep 1"])
    assert kernel.rcu.invoked > 3000
    assert max(pending(kernel)) < 100


def test_the_grace_period_thread_is_rcu_sched(run):
    result = run("cat /proc/*/comm | grep rcu")
    assert result.stdout == b"rcu_sched\n"


def test_rcu_barrier_returns_after_all_callbacks(boot):
    kernel = boot()
    order = []
    from glasskernel.kernel.kthread import kthread_run

    def thread(_data):
        for number in range(5):
            call_rcu(number, order.append)
        update.rcu_barrier()
        order.append("barrier")
        update.synchronize_rcu()
        order.append("synchronized")
        return 0

    from glasskernel.kernel.workqueue import WorkStruct, schedule_work
    work = WorkStruct(lambda _work: kthread_run(thread, None, "rcu_test") and None)
    register.task = kernel.pids.idle_tasks[0]
    schedule_work(work)
    kernel.run(["sleep", "1"])
    assert order == [0, 1, 2, 3, 4, "barrier", "synchronized"]


@pytest.mark.parametrize("cpus", [1, 3, 20])
def test_the_tree_has_leaves_of_16_cpus(boot, cpus):
    kernel = boot(cpus=cpus)
    assert len(kernel.rcu.leaves) == (cpus + 15) // 16
    kernel.run(["sh", "-c", "ls >/dev/null; sleep 0.2; ls >/dev/null; sleep 0.2"])
    assert kernel.rcu.invoked
    rcu_barrier_at_rest(kernel)
    assert not sum(pending(kernel))


def test_callbacks_move_through_the_segments():
    cblist = RcuSegcblist()
    cblist.next.append((print, 1))
    assert rcu_segcblist_accelerate(cblist, 8)
    cblist.next.append((print, 2))
    assert rcu_segcblist_accelerate(cblist, 12)
    assert [len(s) for s in (cblist.done, cblist.wait, cblist.next_ready, cblist.next)] == [0, 1, 1, 0]
    rcu_segcblist_advance(cblist, 8)
    assert [len(s) for s in (cblist.done, cblist.wait, cblist.next_ready, cblist.next)] == [1, 1, 0, 0]
    rcu_segcblist_advance(cblist, 12)
    assert [argument for _, argument in cblist.done] == [1, 2]


def test_rcu_utilization_says_what_rcu_does(run):
    result = run("mount -t tracefs t /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing; "
                 "echo 1 > events/rcu/enable; ls >/dev/null; sleep 0.1; cat trace; cat printk_formats")
    text = result.stdout.decode()
    for what in ("context switch", "scheduler-tick", "RCU core"):
        assert f"rcu_utilization: Start {what}" in text
        assert f"rcu_utilization: End {what}" in text
        assert f' : "Start {what}"' in text
