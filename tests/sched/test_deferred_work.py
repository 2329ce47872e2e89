"""Softirqs, tasklets, kernel threads, workqueues, interrupts."""
import pytest

from glasskernel.arch.x86.entry.irq import do_IRQ
from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import (
    IRQ_HANDLED,
    IRQ_NONE,
    IRQ_WAKE_THREAD,
    IRQF_SHARED,
    NET_RX_SOFTIRQ,
    NET_TX_SOFTIRQ,
    kstat_irqs,
)
from glasskernel.kernel.irq.manage import (
    disable_irq,
    enable_irq,
    free_irq,
    request_irq,
    request_threaded_irq,
)
from glasskernel.kernel.kthread import kthread_run, kthread_should_stop, kthread_stop
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.core import msleep, schedule
from glasskernel.kernel.softirq import (
    TaskletStruct,
    in_irq,
    in_serving_softirq,
    local_bh_disable,
    local_bh_enable,
    open_softirq,
    raise_softirq,
    tasklet_disable,
    tasklet_enable,
    tasklet_hi_schedule,
    tasklet_schedule,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.workqueue import (
    WQ_UNBOUND,
    DelayedWork,
    WorkStruct,
    alloc_ordered_workqueue,
    alloc_workqueue,
    cancel_delayed_work_sync,
    cancel_work_sync,
    drain_workqueue,
    flush_work,
    flush_workqueue,
    mod_delayed_work,
    queue_work,
    schedule_delayed_work,
    schedule_work,
    wq_worker_comm,
)
from glasskernel.lib.errno import EBUSY, KernelError
from tests.sched.sim import ms


# ---- interrupts -----------------------------------------------------------------------------------------------------
def test_an_interrupt_reaches_its_handler_in_interrupt_context(sim):
    s = sim()
    log = []

    def handler(irq, dev):
        log.append((irq, dev, bool(in_irq()), register.task.comm))
        return IRQ_HANDLED

    request_irq(s, 4, handler, 0, "ttyS0", "dev")
    s.spawn(lambda: s.burn(ms(5)), name="hog")
    s.machine.post_irq(4, ms(2))
    s.machine.post_irq(4, ms(500))                 # the CPU is idle then
    s.run(ms(600))
    assert log == [(4, "dev", True, b"hog"), (4, "dev", True, b"swapper/0")]
    assert kstat_irqs(s, 4) == 2


def test_shared_handlers_are_all_asked(sim):
    s = sim()
    log = []
    devices = ["a"], ["b"]
    for device in devices:
        request_irq(s, 9, lambda irq, dev: log.append(dev[0]) or IRQ_NONE, IRQF_SHARED, "x", device)
    with pytest.raises(KernelError) as error:
        request_irq(s, 9, lambda irq, dev: IRQ_NONE, 0, "c", "c")
    assert error.value.errno == EBUSY
    do_IRQ(9)
    free_irq(s, 9, devices[0])
    do_IRQ(9)
    assert log == ["a", "b", "b"]


def test_an_edge_while_disabled_is_delivered_at_enable(sim):
    s = sim()
    log = []
    request_irq(s, 3, lambda irq, dev: log.append(s.machine.now()) or IRQ_HANDLED, 0, "x", None)
    disable_irq(s, 3)
    s.machine.post_irq(3, ms(1))
    s.run(ms(5))
    assert not log
    enable_irq(s, 3)
    s.run(ms(5))
    assert len(log) == 1


def test_a_threaded_handler_works_in_its_thread(sim):
    s = sim(threads=True)
    log = []

    def work(irq, dev):
        msleep(10)
        log.append(register.task.comm)
        return IRQ_HANDLED

    s.spawn(lambda: request_threaded_irq(s, 5, lambda irq, dev: IRQ_WAKE_THREAD, work, 0, "slow", "d"))
    s.run(ms(5))
    s.machine.post_irq(5)
    s.run(ms(100))
    assert log == [b"irq/5-slow"]


def test_an_interrupt_without_descriptor_is_spurious(sim):
    s = sim()
    do_IRQ(33)
    assert s.irq.cpu_stat["SPU"] == [1]


# ---- softirqs -------------------------------------------------------------------------------------------------------
def test_a_softirq_raised_in_an_interrupt_runs_when_the_interrupt_ends(sim):
    s = sim()
    log = []
    open_softirq(s, NET_RX_SOFTIRQ, lambda k: log.append(("rx", bool(in_irq()), bool(in_serving_softirq()))))
    open_softirq(s, NET_TX_SOFTIRQ, lambda k: log.append(("tx", bool(in_irq()), bool(in_serving_softirq()))))

    def handler(irq, dev):
        raise_softirq(NET_RX_SOFTIRQ)
        raise_softirq(NET_TX_SOFTIRQ)
        log.append("handler")
        return IRQ_HANDLED

    request_irq(s, 7, handler, 0, "nic", None)
    do_IRQ(7)
    assert log == ["handler", ("tx", False, True), ("rx", False, True)]     # lowest vector first
    assert s.irq.softirqs[NET_RX_SOFTIRQ] == [1]


def test_softirqs_wait_while_bottom_halves_are_off(sim):
    s = sim()
    log = []
    open_softirq(s, NET_RX_SOFTIRQ, lambda k: log.append("rx"))
    local_bh_disable()
    raise_softirq(NET_RX_SOFTIRQ)
    do_IRQ(1)
    local_bh_disable()
    local_bh_enable()
    assert not log
    local_bh_enable()
    assert log == ["rx"]


def test_a_softirq_raised_by_a_task_runs_in_ksoftirqd(sim):
    s = sim(cpus=2, threads=True)
    log = []
    open_softirq(s, NET_RX_SOFTIRQ, lambda k: log.append(register.task.comm))
    s.spawn(lambda: raise_softirq(NET_RX_SOFTIRQ), cpu=1)
    s.run(ms(10))
    assert log == [b"ksoftirqd/1"]


def test_a_flood_of_softirqs_goes_to_ksoftirqd_and_lets_others_run(sim):
    s = sim(threads=True)
    ran_by = {}

    def rx(kernel):
        name = register.task.comm
        ran_by[name] = ran_by.get(name, 0) + 1
        s.machine.charge(50_000)
        if s.machine.now() < ms(400):
            raise_softirq(NET_RX_SOFTIRQ)

    open_softirq(s, NET_RX_SOFTIRQ, rx)
    hog = s.spawn(lambda: s.burn(ms(100)))
    request_irq(s, 7, lambda irq, dev: raise_softirq(NET_RX_SOFTIRQ) or IRQ_HANDLED, 0, "nic", None)
    s.machine.post_irq(7, ms(5))
    s.run(ms(390))
    assert ran_by[b"ksoftirqd/0"] > 1000
    assert hog.exit_state                          # it got its share beside the flood


# ---- tasklets -------------------------------------------------------------------------------------------------------
def test_a_tasklet_scheduled_twice_before_it_runs_runs_once(sim):
    s = sim()
    log = []
    tasklet = TaskletStruct(log.append, "ran")
    urgent = TaskletStruct(log.append, "urgent")

    def handler(irq, dev):
        tasklet_schedule(tasklet)
        tasklet_schedule(tasklet)
        tasklet_hi_schedule(urgent)
        return IRQ_HANDLED

    request_irq(s, 7, handler, 0, "isci", None)
    do_IRQ(7)
    assert log == ["urgent", "ran"]
    do_IRQ(7)
    assert log == ["urgent", "ran"] * 2


def test_a_disabled_tasklet_waits(sim):
    s = sim()
    log = []
    tasklet = TaskletStruct(log.append, 1)
    tasklet_disable(tasklet)
    request_irq(s, 7, lambda irq, dev: tasklet_schedule(tasklet) or IRQ_HANDLED, 0, "x", None)
    do_IRQ(7)
    assert not log
    tasklet_enable(tasklet)
    do_IRQ(1)
    assert log == [1]


# ---- kernel threads -------------------------------------------------------------------------------------------------
def test_a_kernel_thread_runs_until_it_is_stopped(sim):
    s = sim(threads=True)
    result = []

    def body(data):
        loops = 0
        while not kthread_should_stop():
            register.task.state = TASK_INTERRUPTIBLE
            if not kthread_should_stop():
                schedule()
            register.task.state = 0
            loops += 1
        return data + loops

    def owner():
        thread = kthread_run(body, 40, "worker/x")
        assert thread.comm == b"worker/x"
        msleep(20)
        result.append(kthread_stop(thread))

    s.spawn(owner)
    s.run(ms(200))
    assert result == [41]


def test_the_threads_of_a_booted_kernel_have_linux_names(sim):
    s = sim(cpus=2, threads=True)
    s.run(ms(10))
    names = {t.comm.decode() for t in s.tasks}
    assert {"kthreadd", "ksoftirqd/0", "ksoftirqd/1", "migration/0", "migration/1", "kworker/0:0", "kworker/1:0",
            "kworker/0:0H", "kworker/u4:0"} <= names


# ---- workqueues -----------------------------------------------------------------------------------------------------
def test_a_work_runs_once_per_queueing_in_a_kworker_of_its_cpu(sim):
    s = sim(cpus=2, threads=True)
    log = []
    work = WorkStruct(lambda w: log.append((register.task.comm, wq_worker_comm(register.task), w.data)), "data")

    def user():
        assert schedule_work(work) is True
        assert schedule_work(work) is False
        flush_work(work)
        log.append("flushed")
        assert schedule_work(work) is True
        flush_work(work)

    s.spawn(user, cpu=1)
    s.run(ms(100))
    entry = (b"kworker/1:0", b"kworker/1:0+events", "data")
    assert log == [entry, "flushed", entry]


def test_works_that_sleep_do_not_hold_up_others(sim):
    """Concurrency management: when a work sleeps, another worker takes the next."""
    s = sim(threads=True)
    log = []

    def slow(work):
        msleep(work.data)
        log.append(work.data)

    def user():
        works = [WorkStruct(slow, n) for n in (80, 40, 20)]
        for work in works:
            schedule_work(work)
        flush_workqueue(s.workqueues.system_wq)
        log.append("all")

    s.spawn(user)
    s.run(ms(1000))
    assert log == [20, 40, 80, "all"]


def test_a_work_never_runs_twice_at_once(sim):
    s = sim(cpus=4, threads=True)
    running, most = [0], [0]

    def slow(work):
        running[0] += 1
        most[0] = max(most[0], running[0])
        msleep(10)
        running[0] -= 1

    work = WorkStruct(slow)

    def user(cpu):
        for _ in range(5):
            schedule_work(work)
            msleep(5)

    for cpu in range(4):
        s.spawn(lambda cpu=cpu: user(cpu), cpu=cpu)
    s.run(ms(1000))
    assert most[0] == 1 and running[0] == 0


def test_max_active_bounds_how_many_run(sim):
    s = sim(threads=True)
    wq = alloc_workqueue(s, "bounded", WQ_UNBOUND, 2)
    running, most, done = [0], [0], []

    def slow(work):
        running[0] += 1
        most[0] = max(most[0], running[0])
        msleep(10)
        running[0] -= 1
        done.append(work.data)

    def user():
        for n in range(6):
            queue_work(wq, WorkStruct(slow, n))
        drain_workqueue(wq)
        done.append("drained")

    s.spawn(user)
    s.run(ms(1000))
    assert most[0] == 2
    assert done[-1] == "drained" and sorted(done[:-1]) == list(range(6))


def test_an_ordered_queue_keeps_the_order(sim):
    s = sim(cpus=4, threads=True)
    wq = alloc_ordered_workqueue(s, "ordered", 0)
    log = []

    def work(w):
        msleep(10 - w.data)
        log.append(w.data)

    def user():
        for n in range(8):
            queue_work(wq, WorkStruct(work, n))

    s.spawn(user)
    s.run(ms(2000))
    assert log == list(range(8))


def test_delayed_works_wait_can_be_changed_and_cancelled(sim):
    s = sim(threads=True)
    log = []
    first, second, third = (DelayedWork(lambda w: log.append((w.data, s.machine.now())), n) for n in "abc")

    def user():
        schedule_delayed_work(first, 25)
        schedule_delayed_work(second, 25)
        schedule_delayed_work(third, 25)
        assert mod_delayed_work(s.workqueues.system_wq, second, 5) is True
        assert cancel_delayed_work_sync(third) is True
        assert cancel_delayed_work_sync(third) is False

    s.spawn(user)
    start = s.machine.now()
    s.run(ms(1000))
    assert [name for name, _ in log] == ["b", "a"]
    for (_, when), delay in zip(log, (20, 100)):
        assert ms(delay) <= when - start <= ms(delay + 10)


def test_cancel_work_sync_waits_for_a_running_work(sim):
    s = sim(threads=True)
    log, started = [], Completion()

    def slow(work):
        complete(started)
        msleep(30)
        log.append("done")

    work = WorkStruct(slow)

    def user():
        schedule_work(work)
        wait_for_completion(started)
        schedule_work(work)                        # again, while it runs
        assert cancel_work_sync(work) is True
        log.append("cancelled")

    s.spawn(user)
    s.run(ms(500))
    assert log == ["done", "cancelled"]
