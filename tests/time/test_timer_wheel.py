"""The timer wheel against a sorted list: never early, never later than the wheel's granularity allows."""
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timer import (
    add_timer,
    del_timer,
    get_next_timer_interrupt,
    mod_timer,
    msecs_to_jiffies,
    run_timer_softirq,
    timer_pending,
    timer_reduce,
)
from glasskernel.kernel.time.types import (
    INITIAL_JIFFIES,
    KTIME_MAX,
    LVL_DEPTH,
    TICK_NSEC,
    WHEEL_TIMEOUT_MAX,
    TimerBase,
    TimerList,
)
from glasskernel.kernel.tracepoint import Tracepoints

NOW = INITIAL_JIFFIES


class Wheel:
    """One CPU that does nothing but tick."""

    def __init__(self):
        time = SimpleNamespace(jiffies=NOW, wheel=[(TimerBase(0), TimerBase(0))])
        self.kernel = SimpleNamespace(time=time, tp=Tracepoints())
        register.task = SimpleNamespace(kernel=self.kernel, cpu=0)
        self.fired = []

    def timer(self, name=None):
        return TimerList(lambda t: self.fired.append((self.kernel.time.jiffies, name)))

    def tick(self, jiffies=1):
        for _ in range(jiffies):
            self.kernel.time.jiffies += 1
            run_timer_softirq(self.kernel)

    def leap(self, jiffies):
        """An idle CPU wakes after so long."""
        self.kernel.time.jiffies += jiffies
        run_timer_softirq(self.kernel)


def latest(delay):
    """How many jiffies after its time a timer that is `delay` jiffies away may fire."""
    for level in range(LVL_DEPTH):
        if delay < 63 << 3 * level:
            return 1 << 3 * level
    return 1 << 3 * (LVL_DEPTH - 1)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40))
def test_every_timer_fires_once_not_early_and_hardly_late(delays):
    w = Wheel()
    for delay in delays:
        mod_timer(w.timer(delay), NOW + delay)
    w.tick(3000 + 600)
    assert sorted(name for _, name in w.fired) == sorted(delays)
    for when, delay in w.fired:
        assert delay <= when - NOW <= delay + latest(delay) + (1 if delay == 0 else 0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["add", "mod", "del", "tick", "leap"]), st.integers(0, 9),
                          st.integers(0, 700)), max_size=80))
def test_any_sequence_of_calls_agrees_with_a_list(steps):
    """The oracle keeps only what must hold: armed timers fire once, in their window; deleted ones never."""
    w = Wheel()
    due = {}
    timers = {}

    def fire(number):
        def function(_timer):
            armed, expires = due.pop(number)
            now = w.kernel.time.jiffies
            assert now >= expires
            assert now <= max(expires + latest(expires - armed) + 1, leapt[0])

        return function

    leapt = [0]
    for number in range(10):
        timers[number] = TimerList(fire(number))
    for step, number, amount in steps:
        now = w.kernel.time.jiffies
        if step in ("add", "mod"):
            was = mod_timer(timers[number], now + amount)
            assert was == (number in due)
            due[number] = (now, now + amount)
        elif step == "del":
            assert del_timer(timers[number]) == (number in due)
            due.pop(number, None)
        elif step == "tick":
            w.tick(amount % 70)
        else:
            leapt[0] = now + amount
            w.leap(amount)
        assert {n for n, t in timers.items() if timer_pending(t)} == set(due)
    leapt[0] = 0
    w.tick(700 + 64 + 600)
    assert not due


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=20))
def test_an_idle_cpu_that_sleeps_until_the_next_timer_misses_none(delays):
    w = Wheel()
    for delay in delays:
        mod_timer(w.timer(delay), NOW + delay)
    while True:
        now = w.kernel.time.jiffies
        wake = get_next_timer_interrupt(w.kernel, 0, now, now * TICK_NSEC)
        if wake == KTIME_MAX:
            break
        w.leap(max(wake // TICK_NSEC - now, 1))
    assert len(w.fired) == len(delays)
    for when, delay in w.fired:
        assert delay <= when - NOW <= delay + latest(delay) + 1


def test_a_timer_beyond_the_wheel_waits_as_long_as_the_wheel_can():
    w = Wheel()
    timer = w.timer("far")
    mod_timer(timer, NOW + (1 << 40))
    w.leap(WHEEL_TIMEOUT_MAX - (1 << 26))
    assert timer_pending(timer)
    w.leap(1 << 27)
    assert w.fired


def test_timers_of_the_same_jiffy_fire_in_the_order_they_were_armed():
    w = Wheel()
    for name in "abc":
        mod_timer(w.timer(name), NOW + 5)
    w.tick(7)
    assert [name for _, name in w.fired] == ["a", "b", "c"]


def test_a_timer_may_delete_another_that_is_due_in_the_same_jiffy():
    w = Wheel()
    victim = w.timer("victim")
    killer = TimerList(lambda t: w.fired.append(("killed", del_timer(victim))))
    mod_timer(killer, NOW + 3)
    mod_timer(victim, NOW + 3)
    w.tick(10)
    assert w.fired == [("killed", 1)]


def test_a_timer_may_arm_itself_again():
    w = Wheel()

    def again(timer):
        w.fired.append(w.kernel.time.jiffies - NOW)
        if len(w.fired) < 4:
            mod_timer(timer, w.kernel.time.jiffies + 10)

    mod_timer(TimerList(again), NOW + 10)
    w.tick(100)
    assert w.fired == [11, 22, 33, 44]


def test_add_timer_of_a_pending_timer_is_a_bug():
    w = Wheel()
    timer = w.timer()
    timer.expires = NOW + 5
    add_timer(timer)
    with pytest.raises(AssertionError):
        add_timer(timer)


def test_timer_reduce_only_ever_brings_forward():
    w = Wheel()
    timer = w.timer("t")
    mod_timer(timer, NOW + 20)
    timer_reduce(timer, NOW + 40)
    assert timer.expires == NOW + 20
    timer_reduce(timer, NOW + 4)
    w.tick(10)
    assert w.fired == [(NOW + 5, "t")]


def test_five_seconds_are_1250_jiffies():
    assert msecs_to_jiffies(5000) == 1250
    assert msecs_to_jiffies(1) == 1
    assert msecs_to_jiffies(5) == 2
