"""CFS: sched(7), and the numbers of Linux's weight table."""
import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import set_user_nice
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up
from tests.sched.sim import ms


def shares(s, tasks, ns):
    before = [t.se.sum_exec_runtime for t in tasks]
    s.run(ns)
    return [t.se.sum_exec_runtime - b for t, b in zip(tasks, before)]


def test_equal_hogs_share_a_cpu_equally(sim):
    s = sim()
    tasks = [s.spawn(lambda: s.burn(ms(10_000))) for _ in range(3)]
    used = shares(s, tasks, ms(1800))
    assert sum(used) == pytest.approx(ms(1800), rel=0.02)
    for share in used:
        assert share == pytest.approx(ms(600), rel=0.03)


@pytest.mark.parametrize(("nice", "weights"), [(5, (1024, 335)), (1, (1024, 820)), (-3, (1024, 1991)), (19, (1024, 15))])
def test_hogs_share_by_weight(sim, nice, weights):
    s = sim()
    tasks = [s.spawn(lambda: s.burn(ms(90_000))), s.spawn(lambda: s.burn(ms(90_000)), nice=nice)]
    s.run(ms(500))
    used = shares(s, tasks, ms(10_000))
    assert used[1] / used[0] == pytest.approx(weights[1] / weights[0], rel=0.02)
    assert used[1] > 0


def test_renice_changes_the_share_of_a_running_task(sim):
    s = sim()
    tasks = [s.spawn(lambda: s.burn(ms(90_000))) for _ in range(2)]
    s.run(ms(100))
    register.task = s.sched.rqs[0].idle
    set_user_nice(tasks[1], 5)
    s.run(ms(200))
    used = shares(s, tasks, ms(4000))
    assert used[1] / used[0] == pytest.approx(335 / 1024, rel=0.03)


def test_the_timeslice_shrinks_with_more_tasks_but_not_below_the_minimum_granularity(sim):
    """sched_latency is divided among up to 8 tasks; beyond that each gets sched_min_granularity, to the next tick."""
    for count in (2, 16):
        s = sim()
        tasks = [s.spawn(lambda s=s: s.burn(ms(90_000))) for _ in range(count)]
        s.run(ms(200))
        switches = s.sched.rqs[0].nr_switches
        s.run(ms(1000))
        slice_ns = ms(1000) / (s.sched.rqs[0].nr_switches - switches)
        assert slice_ns >= s.sched.sysctl_sched_min_granularity
        assert slice_ns <= ms(8)                   # latency 6 ms in whole ticks of 4 ms
        assert len(tasks) == count


def test_granularity_scales_with_the_number_of_cpus(sim):
    """sched_min_granularity_ns is 0.75 ms x (1 + log2 of the CPU count): 2.25 ms on four."""
    assert sim(cpus=4).sched.sysctl_sched_min_granularity == 2_250_000
    assert sim(cpus=4).sched.sysctl_sched_latency == 18_000_000
    assert sim(cpus=1).sched.sysctl_sched_wakeup_granularity == 1_000_000


def test_a_sleeper_preempts_a_hog_when_it_wakes(sim):
    s = sim()
    wq, state, waits = WaitQueueHead(), {"go": False}, []

    def sleeper():
        wait_event(wq, lambda: state["go"])
        waits.append(s.machine.now() - state["at"])

    def hog():
        s.burn(ms(50))
        state.update(go=True, at=s.machine.now())
        wake_up(wq)
        s.border()
        s.burn(ms(50))

    s.spawn(sleeper)
    task = s.spawn(hog)
    s.run(ms(300))
    assert waits and waits[0] < 100_000            # not a tick later: at once
    assert task.nivcsw >= 1


def test_a_nice_19_task_is_not_starved_by_nice_minus_20_hogs(sim):
    s = sim()
    weak = s.spawn(lambda: s.burn(ms(90_000)), nice=19)
    for _ in range(2):
        s.spawn(lambda: s.burn(ms(90_000)), nice=-20)
    s.run(ms(60_000))
    assert 0 < weak.se.sum_exec_runtime < ms(60)


def test_hogs_spread_over_all_cpus(sim):
    s = sim(cpus=4)
    tasks = [s.spawn(lambda: s.burn(ms(90_000))) for _ in range(8)]
    used = shares(s, tasks, ms(4000))
    for share in used:
        assert share == pytest.approx(ms(2000), rel=0.1)


def test_three_hogs_on_two_cpus_get_two_thirds_each(sim):
    s = sim(cpus=2)
    tasks = [s.spawn(lambda: s.burn(ms(90_000))) for _ in range(3)]
    used = shares(s, tasks, ms(8000))
    assert sum(used) == pytest.approx(ms(16_000), rel=0.02)
    assert min(used) > ms(3500)


def test_an_idle_cpu_pulls_a_waiting_task(sim):
    s = sim(cpus=2)
    tasks = [s.spawn(lambda: s.burn(ms(400))) for _ in range(3)]
    s.run(ms(2000))
    assert [t.exit_state for t in tasks] == [0x20] * 3
    assert s.machine.now() <= ms(2000)
    busy = [rq.cpustat[0] for rq in s.sched.rqs]
    assert sum(busy) == pytest.approx(ms(1200), rel=0.01)
    assert min(busy) >= ms(500)                    # the third ran where a place became free


def test_affinity_is_kept(sim):
    s = sim(cpus=4)
    seen = set()

    def pinned():
        for _ in range(50):
            s.burn(ms(3))
            seen.add(register.task.cpu)

    s.spawn(pinned, cpu=2)
    for _ in range(6):
        s.spawn(lambda: s.burn(ms(300)))
    s.run(ms(3000))
    assert seen == {2}


def test_user_and_idle_time_add_up_to_all_time(sim):
    s = sim(cpus=2)
    s.spawn(lambda: s.burn(ms(300)), cpu=0)
    s.spawn(lambda: s.burn(ms(100)), cpu=0, nice=10)
    s.run(ms(1000))
    from glasskernel.kernel.sched.cputime import kcpustat_cpu

    for cpu in (0, 1):
        assert sum(kcpustat_cpu(s, cpu)) == pytest.approx(s.machine.now(), abs=ms(1))
    user, nice, *_ = kcpustat_cpu(s, 0)
    assert (user, nice) == (ms(300), ms(100))
