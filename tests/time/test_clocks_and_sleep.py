"""hrtimers, sleeping and ticks on a simulated machine."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    msleep,
    schedule_timeout_interruptible,
    schedule_timeout_uninterruptible,
)
from glasskernel.kernel.sched.loadavg import EXP_1, FIXED_1, calc_load, calc_load_n
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.hrtimer import (
    clock_was_set,
    hrtimer_cancel,
    hrtimer_forward_now,
    hrtimer_get_remaining,
    hrtimer_init,
    hrtimer_nanosleep,
    hrtimer_start,
    schedule_hrtimeout,
)
from glasskernel.kernel.time.timekeeping import (
    do_settimeofday64,
    ktime_get,
    ktime_get_coarse,
    ktime_get_real,
)
from glasskernel.kernel.time.types import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    INITIAL_JIFFIES,
    Hrtimer,
)
from tests.sched.sim import BOOT_TIME_NS, Sim, ms


@pytest.fixture
def sim():
    sims = []

    def make(**options):
        sims.append(Sim(**options))
        return sims[-1]

    yield make
    for s in sims:
        s.close()


def test_a_sleep_of_a_millisecond_wakes_within_a_fraction_of_a_tick(sim):
    s = sim()
    slept = []

    def sleeper():
        for _ in range(5):
            before = ktime_get()
            hrtimer_nanosleep(ms(1), 0, HRTIMER_MODE_REL, CLOCK_MONOTONIC)
            slept.append(ktime_get() - before)

    s.spawn(sleeper)
    s.run()
    assert len(slept) == 5
    for ns in slept:
        assert ms(1) <= ns <= ms(1) + 100_000      # timer_slack_ns is 50 us


def test_the_default_slack_lets_sleepers_wake_together(sim):
    s = sim()
    woke = []

    def sleeper(ns):
        hrtimer_nanosleep(ns, 0, HRTIMER_MODE_REL, CLOCK_MONOTONIC)
        woke.append(ktime_get())

    s.spawn(lambda: sleeper(ms(10)))
    s.spawn(lambda: sleeper(ms(10) + 40_000))
    before = s.irq.cpu_stat["LOC"][0]
    s.run()
    assert abs(woke[1] - woke[0]) < 20_000
    assert s.irq.cpu_stat["LOC"][0] - before <= 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5_000_000), min_size=1, max_size=12), st.integers(1, 3))
def test_sleepers_wake_in_the_order_of_their_times(delays, cpus):
    s = Sim(cpus=cpus)
    woke = []
    for delay in delays:
        def sleeper(delay=delay):
            register.task.timer_slack_ns = 0
            start = ktime_get()
            hrtimer_nanosleep(delay, 0, HRTIMER_MODE_REL, CLOCK_MONOTONIC)
            woke.append((start + delay, ktime_get()))

        s.spawn(sleeper)
    s.run()
    s.close()
    assert len(woke) == len(delays)
    for due, now in woke:
        assert 0 <= now - due < 1_000_000 * cpus


def test_an_absolute_sleep_in_the_past_returns_at_once(sim):
    s = sim()
    seen = []

    def sleeper():
        s.burn(ms(20))
        before = ktime_get()
        hrtimer_nanosleep(ms(5), 0, HRTIMER_MODE_ABS, CLOCK_MONOTONIC)
        seen.append(ktime_get() - before)

    s.spawn(sleeper)
    s.run()
    assert seen[0] < 50_000


def test_a_periodic_timer_keeps_its_grid_and_counts_what_it_missed(sim):
    s = sim()
    fired = []

    def tick(timer):
        missed = hrtimer_forward_now(timer, ms(3))
        fired.append((s.machine.now(), missed))
        if len(fired) == 3:
            s.machine.charge(ms(10))               # a long interrupt
        return HRTIMER_RESTART if len(fired) < 6 else HRTIMER_NORESTART

    def start():
        timer = Hrtimer(tick)
        hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS)
        hrtimer_start(timer, ms(3), HRTIMER_MODE_ABS)

    s.spawn(start)
    s.run()
    assert [n for _, n in fired] == [1, 1, 1, 3, 1, 1]
    for now, _ in fired[:3] + fired[4:]:
        assert now % ms(3) < 100_000


def test_a_cancelled_timer_does_not_fire(sim):
    s = sim()
    fired = []

    def start():
        timer = Hrtimer(lambda t: fired.append(1) or HRTIMER_NORESTART)
        hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
        hrtimer_start(timer, ms(5), HRTIMER_MODE_REL)
        assert 0 < hrtimer_get_remaining(timer) <= ms(5)
        s.burn(ms(2))
        assert hrtimer_cancel(timer) == 1
        assert hrtimer_cancel(timer) == 0
        s.burn(ms(20))

    s.spawn(start)
    s.run()
    assert not fired


def test_setting_the_clock_fires_absolute_realtime_timers_that_are_due_then(sim):
    s = sim(cpus=2)
    woke = []

    def sleeper():
        hrtimer_nanosleep(BOOT_TIME_NS + ms(3_600_000), 0, HRTIMER_MODE_ABS, CLOCK_REALTIME)
        woke.append((ktime_get(), ktime_get_real()))

    def setter():
        s.burn(ms(50))
        do_settimeofday64(s, BOOT_TIME_NS + ms(3_600_000))
        clock_was_set(s)
        s.burn(ms(5))

    s.spawn(sleeper)
    s.spawn(setter)
    s.run()
    assert ms(50) <= woke[0][0] <= ms(52)
    assert woke[0][1] >= BOOT_TIME_NS + ms(3_600_000)


def test_setting_the_clock_does_not_change_relative_sleeps(sim):
    s = sim(cpus=2)
    slept = []

    def sleeper():
        before = ktime_get()
        hrtimer_nanosleep(ms(100), 0, HRTIMER_MODE_REL, CLOCK_REALTIME)
        slept.append(ktime_get() - before)

    def setter():
        s.burn(ms(10))
        do_settimeofday64(s, BOOT_TIME_NS + ms(3_600_000))
        clock_was_set(s)

    s.spawn(sleeper)
    s.spawn(setter)
    s.run()
    assert slept[0] == pytest.approx(ms(100), abs=100_000)


def test_schedule_timeout_sleeps_whole_ticks_and_reports_what_was_left(sim):
    s = sim(cpus=2)
    result = {}

    def sleeper():
        before = ktime_get()
        result["left"] = schedule_timeout_uninterruptible(25)
        result["slept"] = ktime_get() - before

    def waker(target):
        s.burn(ms(30))
        from glasskernel.kernel.sched.core import wake_up_process

        wake_up_process(target)

    s.spawn(sleeper)
    s.run()
    assert result["left"] == 0
    assert ms(100) <= result["slept"] <= ms(105)
    woken = s.spawn(lambda: result.update(left=schedule_timeout_interruptible(1000)))
    s.spawn(lambda: waker(woken))
    s.run()
    assert 985 <= result["left"] <= 995


def test_msleep_is_never_shorter_than_asked(sim):
    s = sim()
    slept = []

    def sleeper():
        for n in (1, 4, 5, 20):
            before = ktime_get()
            msleep(n)
            slept.append((n, ktime_get() - before))

    s.spawn(sleeper)
    s.run()
    for n, ns in slept:
        assert ms(n) <= ns <= ms(n + 13)       # rounded up, one tick more, and the wheel's own


def test_hrtimeout_reports_whether_it_was_woken(sim):
    s = sim()
    results = []

    def sleeper():
        register.task.state = TASK_UNINTERRUPTIBLE
        results.append(schedule_hrtimeout(ms(5), HRTIMER_MODE_REL))
        register.task.state = TASK_UNINTERRUPTIBLE
        results.append(schedule_hrtimeout(ms(500), HRTIMER_MODE_REL))

    target = s.spawn(sleeper)

    def waker():
        from glasskernel.kernel.sched.core import wake_up_process

        s.burn(ms(10))
        wake_up_process(target)

    s.spawn(waker)
    s.run()
    assert results == [0, -4]


def test_a_busy_cpu_ticks_250_times_a_second_and_an_idle_one_does_not(sim):
    s = sim(cpus=2)
    s.spawn(lambda: s.burn(ms(1000)), cpu=0)
    s.run(ms(1000))
    busy, idle = s.irq.cpu_stat["LOC"]
    assert 249 <= busy <= 252
    assert idle <= 3


def test_jiffies_catch_up_after_an_idle_hour(sim):
    s = sim()
    seen = []

    def sleeper():
        hrtimer_nanosleep(ms(3_600_000), 0, HRTIMER_MODE_REL, CLOCK_MONOTONIC)
        seen.append((s.time.jiffies, ktime_get_coarse()))

    s.spawn(sleeper)
    s.run()
    jiffies, coarse = seen[0]
    assert jiffies - INITIAL_JIFFIES == 900_000
    assert ktime_get() - coarse >= 0
    assert s.irq.cpu_stat["LOC"][0] < 10


def test_the_load_average_follows_runnable_tasks(sim):
    s = sim(cpus=4)
    for _ in range(2):
        s.spawn(lambda: s.burn(ms(70_000)))
    s.run(ms(60_000))
    one, five, fifteen = (x / FIXED_1 for x in s.sched.avenrun)
    assert one == pytest.approx(2 * (1 - 2.718281828 ** -1), abs=0.12)
    assert five == pytest.approx(2 * (1 - 2.718281828 ** -0.2), abs=0.06)
    assert one > five > fifteen > 0


def test_uninterruptible_sleepers_count_as_load_and_interruptible_ones_do_not(sim):
    s = sim(cpus=2)
    s.spawn(lambda: schedule_timeout_uninterruptible(250 * 40))
    s.spawn(lambda: schedule_timeout_interruptible(250 * 40))
    s.spawn(lambda: s.burn(ms(1)))
    s.run(ms(38_000))
    s.spawn(lambda: s.burn(ms(100)))               # somebody must look
    s.run(ms(1000))
    assert 0.3 < s.sched.avenrun[0] / FIXED_1 < 0.7


def test_missed_load_samples_are_made_up_for():
    """n steps at once give what n single steps give."""
    load = 3 * FIXED_1
    single = load
    for _ in range(12):
        single = calc_load(single, EXP_1, 0)
    assert calc_load_n(load, EXP_1, 0, 12) == pytest.approx(single, abs=20)
