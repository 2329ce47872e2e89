"""The call chains of the scheduler and the timer interrupt, frame by frame, as Linux 5.3 shows them."""
import sys
import traceback

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up
from glasskernel.kernel.time.hrtimer import HRTIMER_MODE_REL, hrtimer_init, hrtimer_start
from glasskernel.kernel.time.types import CLOCK_MONOTONIC, HRTIMER_NORESTART, Hrtimer
from tests.sched.sim import ms


def stack():
    """The kernel functions above, outermost first; helpers that Linux has not are left out."""
    names = []
    for frame, _ in traceback.walk_stack(sys._getframe(1)):
        function = frame.f_globals.get(frame.f_code.co_name)
        if "/glasskernel/" in frame.f_code.co_filename and not getattr(function, "__notrace__", False):
            names.append(frame.f_code.co_name)
    return names[::-1]


@pytest.fixture
def calls():
    """calls(function): the (caller, callee) pairs while function() runs."""

    def watch(function):
        edges = set()

        def profile(frame, event, _arg):
            if event == "call" and frame.f_back is not None:
                edges.add((frame.f_back.f_code.co_name, frame.f_code.co_name))

        sys.setprofile(profile)
        try:
            function()
        finally:
            sys.setprofile(None)
        return edges

    return watch


def test_an_interrupt_of_an_idle_cpu_shows_how_it_came_to_idle(sim):
    s = sim(cpus=2)
    seen = []

    def fired(timer):
        seen.append(stack())
        return HRTIMER_NORESTART

    def start():
        timer = Hrtimer(fired)
        hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
        hrtimer_start(timer, ms(50), HRTIMER_MODE_REL)

    s.spawn(start, cpu=1)
    s.run(ms(100))
    names = seen[0]
    idle = ["secondary_startup_64", "start_secondary", "cpu_startup_entry", "do_idle", "default_idle_call",
            "arch_cpu_idle", "default_idle", "native_safe_halt"]
    assert names[: len(idle)] == idle
    assert names[-3:] == ["smp_apic_timer_interrupt", "hrtimer_interrupt", "__hrtimer_run_queues"]


def test_the_tick_charges_the_running_task_and_checks_its_slice(sim, calls):
    s = sim()
    for _ in range(2):
        s.spawn(lambda: s.burn(ms(100)))
    edges = calls(lambda: s.run(ms(50)))
    for pair in (("smp_apic_timer_interrupt", "irq_enter"), ("smp_apic_timer_interrupt", "hrtimer_interrupt"),
                 ("hrtimer_interrupt", "__hrtimer_run_queues"), ("tick_sched_timer", "tick_sched_handle"),
                 ("tick_sched_handle", "update_process_times"), ("update_process_times", "run_local_timers"),
                 ("update_process_times", "scheduler_tick"), ("scheduler_tick", "task_tick_fair"),
                 ("entity_tick", "update_curr"), ("entity_tick", "check_preempt_tick"),
                 ("scheduler_tick", "trigger_load_balance"), ("smp_apic_timer_interrupt", "irq_exit"),
                 ("__do_softirq", "run_timer_softirq"), ("__do_softirq", "run_rebalance_domains")):
        assert pair in edges


def test_sleeping_and_waking_go_through_the_run_queue(sim, calls):
    s = sim()
    wq, ready = WaitQueueHead(), []

    def waker():
        s.burn(ms(5))
        ready.append(1)
        wake_up(wq)

    s.spawn(lambda: wait_event(wq, lambda: ready))
    s.spawn(waker)
    edges = calls(lambda: s.run(ms(50)))
    for pair in (("schedule", "__schedule"), ("__schedule", "deactivate_task"), ("__schedule", "pick_next_task"),
                 ("__schedule", "context_switch"), ("dequeue_task_fair", "dequeue_entity"),
                 ("pick_next_task", "pick_next_task_fair"), ("context_switch", "switch_to"),
                 ("context_switch", "finish_task_switch"), ("__wake_up_common_lock", "__wake_up_common"),
                 ("autoremove_wake_function", "default_wake_function"), ("default_wake_function", "try_to_wake_up"),
                 ("ttwu_do_activate", "activate_task"), ("ttwu_do_activate", "ttwu_do_wakeup"),
                 ("ttwu_do_wakeup", "check_preempt_curr"), ("enqueue_task_fair", "enqueue_entity"),
                 ("schedule_tail", "finish_task_switch")):
        assert pair in edges


def test_finish_task_switch_learns_who_ran_before(sim):
    """switch_to(prev, next, last): on the new stack, `last` is the task that the CPU ran until then."""
    s = sim()
    wq, log = WaitQueueHead(), []

    def first():
        wait_event(wq, lambda: len(log) == 1)
        log.append(register.task.kernel.sched.rqs[0].switch_prev.comm)

    def second():
        s.burn(ms(1))
        log.append("woke")
        wake_up(wq)
        s.burn(ms(20))

    s.spawn(first)
    s.run(ms(1))
    s.spawn(second, name="second")
    s.run(ms(50))
    assert log == ["woke", b"second"]


def test_balancing_finds_the_busiest_queue_and_moves_tasks(sim, calls):
    s = sim(cpus=2)
    for _ in range(3):
        s.spawn(lambda: s.burn(ms(60)))
    edges = calls(lambda: s.run(ms(200)))
    for pair in (("load_balance", "find_busiest_queue"), ("load_balance", "detach_tasks"),
                 ("load_balance", "attach_tasks"), ("pick_next_task_fair", "idle_balance")):
        assert pair in edges


