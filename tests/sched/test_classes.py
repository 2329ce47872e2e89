"""Real-time tasks, moving tasks between CPUs and classes: sched(7), sched_setaffinity(2)."""
import itertools

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    do_sched_yield,
    nr_running,
    schedule,
    set_user_nice,
    wake_up_new_task,
    wake_up_process,
)
from glasskernel.kernel.sched.policy import SchedAttr, __sched_setscheduler, sched_setaffinity
from glasskernel.kernel.sched.rt import rt_sched_class
from glasskernel.kernel.sched.types import (
    SCHED_BATCH,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RR,
)
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.hrtimer import CLOCK_MONOTONIC, HRTIMER_MODE_ABS, hrtimer_nanosleep
from glasskernel.lib.errno import EBUSY, EINVAL, EPERM, KernelError
from tests.sched.sim import ms


def set_policy(policy, priority=0, nice=0, task=None):
    return __sched_setscheduler(task or register.task, SchedAttr(policy, 0, nice, priority), True)


def test_a_fifo_task_preempts_every_normal_task_at_wakeup(sim):
    s = sim()
    log = []

    def realtime():
        set_policy(SCHED_FIFO, 10)
        register.task.state = TASK_UNINTERRUPTIBLE
        schedule()
        log.append(s.machine.now())

    rt = s.spawn(realtime)
    s.run(ms(1))
    for _ in range(4):
        s.spawn(lambda: s.burn(ms(100)), nice=-20)

    def waker():
        s.burn(ms(10))
        log.append(s.machine.now())
        wake_up_process(rt)
        s.border()

    s.spawn(waker)
    s.run(ms(500))
    woken, ran = log
    assert 0 <= ran - woken < 50_000


def test_fifo_runs_until_it_sleeps_and_higher_priority_first(sim):
    s = sim()
    order = []

    def realtime(priority):
        set_policy(SCHED_FIFO, priority)
        s.burn(ms(30))
        order.append(priority)

    def start():
        set_policy(SCHED_FIFO, 99)
        for priority in (10, 30, 20):
            child = s.spawn(lambda p=priority: realtime(p), wake=False)
            set_policy(SCHED_FIFO, priority, task=child)
            wake_up_new_task(child)

    s.spawn(start)
    s.run()
    assert order == [30, 20, 10]


def test_round_robin_takes_turns_of_100_ms_and_fifo_does_not(sim):
    for policy, switches in ((SCHED_RR, range(6, 16)), (SCHED_FIFO, range(0, 5))):
        s = sim()

        def start(s=s, policy=policy):
            set_policy(SCHED_FIFO, 99)
            for _ in range(2):
                child = s.spawn(lambda: s.burn(ms(400)), wake=False)
                set_policy(policy, 5, task=child)
                wake_up_new_task(child)

        s.spawn(start)
        s.run(ms(10))
        before = s.sched.rqs[0].nr_switches
        s.run(ms(790))
        assert s.sched.rqs[0].nr_switches - before in switches


def test_a_realtime_hog_leaves_five_percent_to_others(sim):
    s = sim()

    def realtime():
        set_policy(SCHED_FIFO, 50)
        s.burn(ms(10_000))

    normal = s.spawn(lambda: s.burn(ms(10_000)))
    s.spawn(realtime)
    s.run(ms(5000))
    assert ms(150) <= normal.se.sum_exec_runtime <= ms(350)


def test_two_realtime_tasks_run_on_two_cpus(sim):
    s = sim(cpus=2)
    ended = []

    def realtime():
        set_policy(SCHED_FIFO, 5)
        s.burn(ms(100))
        ended.append(s.machine.now())

    for _ in range(2):
        s.spawn(realtime)
    s.run()
    assert max(ended) < ms(130)


def test_an_idle_policy_task_gets_next_to_nothing_beside_a_normal_one(sim):
    s = sim()

    def idle():
        set_policy(SCHED_IDLE)
        s.burn(ms(50_000))

    weak = s.spawn(idle)
    s.spawn(lambda: s.burn(ms(50_000)))
    s.run(ms(100))
    before = weak.se.sum_exec_runtime
    s.run(ms(10_000))
    assert 0 < weak.se.sum_exec_runtime - before < ms(10_000) * 3 / 1027 * 1.5


def test_batch_tasks_do_not_preempt_at_wakeup_but_share_equally(sim):
    s = sim()

    def batch():
        set_policy(SCHED_BATCH)
        s.burn(ms(9000))

    tasks = [s.spawn(batch), s.spawn(lambda: s.burn(ms(9000)))]
    s.run(ms(4000))
    assert tasks[0].se.sum_exec_runtime == pytest.approx(tasks[1].se.sum_exec_runtime, rel=0.02)


def test_a_task_that_leaves_realtime_is_not_boosted(sim):
    """Its vruntime is taken along relative to the queue's."""
    s = sim()

    def mixed():
        s.burn(ms(500))
        set_policy(SCHED_FIFO, 1)
        s.burn(ms(10))
        set_policy(SCHED_NORMAL)
        s.burn(ms(9000))

    tasks = [s.spawn(mixed), s.spawn(lambda: s.burn(ms(9000)))]
    s.run(ms(1500))
    before = [t.se.sum_exec_runtime for t in tasks]
    s.run(ms(2000))
    after = [t.se.sum_exec_runtime - b for t, b in zip(tasks, before)]
    assert after[0] == pytest.approx(after[1], rel=0.02)


@pytest.mark.parametrize(("policy", "priority"), [(SCHED_FIFO, 0), (SCHED_FIFO, 100), (SCHED_NORMAL, 1), (6, 0), (4, 0)])
def test_impossible_policies_are_einval(sim, policy, priority):
    s = sim()
    errors = []

    def go():
        try:
            set_policy(policy, priority)
        except KernelError as error:
            errors.append(error.errno)

    s.spawn(go)
    s.run()
    assert errors == [EINVAL]


def test_an_ordinary_user_may_lower_but_not_raise(sim):
    s = sim()
    log = []

    def go():
        cred = register.task.cred
        cred.cap_effective = 0
        cred.uid = cred.euid = 1000
        for policy, priority, nice in ((SCHED_FIFO, 1, 0), (SCHED_NORMAL, 0, -1), (SCHED_NORMAL, 0, 5), (SCHED_IDLE, 0, 0)):
            try:
                log.append(set_policy(policy, priority, nice))
            except KernelError as error:
                log.append(error.errno)

    s.spawn(go)
    s.run()
    assert log == [EPERM, EPERM, 0, 0]


def test_setting_the_affinity_of_a_running_task_moves_it(sim):
    s = sim(cpus=4, threads=True)
    seen = []

    def wanderer():
        for cpu in (2, 0, 3, 3, 1):
            sched_setaffinity(register.task, 1 << cpu)
            seen.append(register.task.cpu == cpu == s.machine.this_cpu.id)
            s.burn(ms(1))

    task = s.spawn(wanderer)
    s.run(ms(100))
    assert seen == [True] * 5
    assert task.se.nr_migrations >= 4


def test_setting_the_affinity_of_a_waiting_task_moves_it(sim):
    s = sim(cpus=2, threads=True)
    first = s.spawn(lambda: s.burn(ms(300)), cpu=0)
    waiting = s.spawn(lambda: s.burn(ms(100)), cpu=0)
    s.run(ms(20))
    s.spawn(lambda: (sched_setaffinity(waiting, 2), sched_setaffinity(first, 2)))
    s.run(ms(10))
    assert waiting.cpu == 1 and first.cpu == 1
    s.run(ms(1000))
    assert waiting.exit_state and first.exit_state


def test_an_affinity_without_a_cpu_that_exists_is_einval(sim):
    s = sim(cpus=2)
    errors = []

    def go():
        try:
            sched_setaffinity(register.task, 0b100)
        except KernelError as error:
            errors.append(error.errno)

    s.spawn(go)
    s.run()
    assert errors == [EINVAL]


# ---- SCHED_DEADLINE ---------------------------------------------------------------------------------------------
def reserve(runtime_ms, period_ms, deadline_ms=0):
    attr = SchedAttr(SCHED_DEADLINE, 0, 0, 0, ms(runtime_ms), ms(deadline_ms or period_ms), ms(period_ms))
    return __sched_setscheduler(register.task, attr, True)


def test_a_deadline_hog_gets_what_it_reserved_and_no_more(sim):
    s = sim()

    def hog():
        reserve(20, 100)
        s.burn(ms(9000))

    dl = s.spawn(hog)
    normal = s.spawn(lambda: s.burn(ms(9000)))
    s.run(ms(1000))
    before = [dl.se.sum_exec_runtime, normal.se.sum_exec_runtime]
    s.run(ms(4000))
    used = [dl.se.sum_exec_runtime - before[0], normal.se.sum_exec_runtime - before[1]]
    assert used[0] == pytest.approx(ms(800), rel=0.05)
    assert used[1] == pytest.approx(ms(3200), rel=0.05)


def test_a_deadline_task_runs_before_a_fifo_task_of_the_highest_priority(sim):
    s = sim()
    late = []

    def periodic():
        reserve(10, 50)
        for _ in range(20):
            start = s.machine.now()
            s.burn(ms(5))
            late.append(s.machine.now() - start)
            do_sched_yield()                       # until the next period

    def fifo():
        set_policy(SCHED_FIFO, 99)
        s.burn(ms(3000))

    s.spawn(periodic)
    s.run(ms(10))                                      # between two of its periods
    s.spawn(fifo)
    s.run(ms(1500))
    assert len(late) >= 20 and max(late) < ms(6)


def test_yielding_waits_for_the_next_period(sim):
    s = sim()
    began = []

    def periodic():
        reserve(10, 50)
        do_sched_yield()
        for _ in range(6):
            began.append(s.machine.now())
            s.burn(ms(2))
            do_sched_yield()

    s.spawn(periodic)
    s.run(ms(1000))
    gaps = [b - a for a, b in itertools.pairwise(began)]
    assert len(gaps) == 5
    for gap in gaps:
        assert gap == pytest.approx(ms(50), abs=100_000)


def test_the_earliest_deadline_runs_first(sim):
    s = sim()
    order = []

    def job(name, period):
        reserve(20, period)
        hrtimer_nanosleep(ms(50), 0, HRTIMER_MODE_ABS, CLOCK_MONOTONIC)
        s.burn(ms(15))
        order.append(name)

    for name, period in (("late", 900), ("early", 100), ("middle", 400)):
        s.spawn(lambda name=name, period=period: job(name, period))
    s.run(ms(400))
    assert order == ["early", "middle", "late"]


def test_reservations_are_admitted_only_while_they_fit(sim):
    s = sim()
    log = []

    def go(runtime):
        try:
            log.append(reserve(runtime, 100))
            s.burn(ms(300))
        except KernelError as error:
            log.append(error.errno)

    s.spawn(lambda: go(60))
    s.spawn(lambda: go(40))                        # 100 %, but 5 % are for the others
    s.run(ms(2000))
    assert sorted(log) == [0, EBUSY]
    assert s.sched.dl_total_bw == 0


@pytest.mark.parametrize("reservation", [(0, 100, 100), (50, 100, 40), (120, 100, 100), (10, 200, 300)])
def test_reservations_that_make_no_sense_are_einval(sim, reservation):
    runtime, period, deadline = reservation
    s = sim()
    errors = []

    def go():
        try:
            reserve(runtime, period, deadline)
        except KernelError as error:
            errors.append(error.errno)

    s.spawn(go)
    s.run()
    assert errors == [EINVAL]


def test_yield_lets_the_other_task_run(sim):
    s = sim()
    log = []

    def polite(name):
        while s.machine.now() < ms(500):
            s.burn(10_000)
            log.append(name)
            do_sched_yield()

    s.spawn(lambda: polite("a"))
    s.spawn(lambda: polite("b"))
    s.run()
    later = log[len(log) // 2:]                    # the second began a slice behind
    changes = sum(x != y for x, y in itertools.pairwise(later))
    assert changes > len(later) * 0.9


def test_nr_running_counts_runnable_tasks(sim):
    s = sim(cpus=2)
    for _ in range(5):
        s.spawn(lambda: s.burn(ms(100)))
    s.run(ms(10))
    assert nr_running(s) == 5
    s.run()
    assert nr_running(s) == 0


def test_nice_of_a_realtime_task_waits_until_it_is_normal_again(sim):
    s = sim()
    seen = []

    def go():
        task = register.task
        set_policy(SCHED_FIFO, 3)
        set_user_nice(task, 7)
        seen.append((task.prio, task.sched_class is rt_sched_class))
        set_policy(SCHED_NORMAL, 0, 7)
        seen.append((task.prio, task.se.weight))

    s.spawn(go)
    s.run()
    assert seen == [(96, True), (127, 215 << 10)]
