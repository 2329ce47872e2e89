"""CFS bandwidth: Documentation/scheduler/sched-bwc.txt."""
import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.bandwidth import (
    tg_get_cfs_period,
    tg_get_cfs_quota,
    tg_set_cfs_bandwidth,
    tg_set_cfs_period,
    tg_set_cfs_quota,
)
from glasskernel.lib.errno import KernelError
from tests.sched.sim import ms
from tests.sched.test_groups import Groups, used


def limit(s, tg, quota_us, period_us=100_000):
    register.task = s.sched.rqs[0].idle
    tg_set_cfs_bandwidth(tg, period_us * 1000, quota_us * 1000)


def test_a_group_with_a_quota_gets_that_and_not_more(sim):
    """Limit a group to 1 CPU worth of runtime ... 20 % of one CPU."""
    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 20_000)
    task = groups.hog(a)
    s.run(ms(200))
    assert used(s, [task], ms(4000)) == pytest.approx([0.2], abs=0.02)
    cfs_b = a.cfs_bandwidth
    assert cfs_b.nr_periods == pytest.approx(42, abs=2)
    assert cfs_b.nr_throttled == pytest.approx(cfs_b.nr_periods, abs=3)
    assert cfs_b.throttled_time / 1e9 == pytest.approx(0.8 * 4.2, rel=0.05)


def test_others_get_what_is_left(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 10_000, 50_000)
    tasks = [groups.hog(a), groups.hog(a), s.spawn(lambda: s.burn(ms(90_000)))]
    s.run(ms(200))
    share = used(s, tasks, ms(4000))
    assert sum(share[:2]) == pytest.approx(0.2, abs=0.02) and share[2] == pytest.approx(0.8, abs=0.02)


def test_the_quota_is_shared_by_all_cpus(sim):
    """Two CPUs' worth of runtime for a group that could use four."""
    s = sim(cpus=4)
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 200_000)
    tasks = [groups.hog(a) for _ in range(4)]
    s.run(ms(300))
    assert sum(used(s, tasks, ms(3000))) == pytest.approx(2, rel=0.05)


def test_a_quota_counts_for_everything_below(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    a1, a2 = groups.new(a), groups.new(a)
    limit(s, a, 30_000)
    tasks = [groups.hog(a1), groups.hog(a2), groups.hog(a2)]
    s.run(ms(200))
    share = used(s, tasks, ms(4000))
    assert sum(share) == pytest.approx(0.3, abs=0.03) and share[0] == pytest.approx(0.15, abs=0.02)


def test_nested_quotas(sim):
    """Throttled by either of them."""
    s = sim()
    groups = Groups(s)
    a = groups.new()
    b = groups.new(a)
    limit(s, a, 50_000)
    limit(s, b, 10_000, 50_000)
    tasks = [groups.hog(b), groups.hog(a)]
    s.run(ms(200))
    inner, outer = used(s, tasks, ms(4000))
    assert 0.1 < inner < 0.2                     # a ran half of the time, in one go
    assert inner + outer == pytest.approx(0.5, abs=0.03)


def test_a_sleeper_of_a_throttled_group_waits_until_it_is_refilled(sim):
    from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up

    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 10_000)
    wq, state, ran = WaitQueueHead(), {"go": False}, []

    def sleeper():
        wait_event(wq, lambda: state["go"])
        ran.append(s.machine.now())

    task = s.spawn(sleeper)
    groups.move(task, a)
    s.run(ms(5))
    groups.hog(a)
    while not a.cfs_rq[0].throttled:
        s.run(ms(4))
    register.task = s.sched.rqs[0].idle
    state.update(go=True, at=s.machine.now())
    wake_up(wq)
    assert s.sched.rqs[0].nr_running == 0 and a.cfs_rq[0].h_nr_running == 2
    s.run(ms(20))
    assert not ran
    s.run(ms(200))
    assert ran and ran[0] - state["at"] > ms(50)


def test_taking_the_quota_away_lets_the_group_run_at_once(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 1_000, 1_000_000)
    task = groups.hog(a)
    s.run(ms(100))
    assert a.cfs_rq[0].throttled
    register.task = s.sched.rqs[0].idle
    tg_set_cfs_quota(a, -1)
    assert not a.cfs_rq[0].throttled and tg_get_cfs_quota(a) == -1
    assert used(s, [task], ms(500)) == pytest.approx([1], abs=0.02)
    s.run(ms(1500))
    assert not a.cfs_bandwidth.period_active


def test_a_task_moved_out_of_a_throttled_group_runs_and_one_moved_in_stops(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 1_000, 1_000_000)
    task, other = groups.hog(a), s.spawn(lambda: s.burn(ms(90_000)))
    s.run(ms(100))
    assert a.cfs_rq[0].throttled
    groups.move(task, s.sched.root_task_group)
    assert used(s, [task, other], ms(400)) == pytest.approx([0.5, 0.5], abs=0.03)
    groups.move(other, a)
    assert used(s, [task, other], ms(300)) == pytest.approx([1, 0], abs=0.03)


def test_the_timer_stops_when_nobody_uses_the_quota(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    limit(s, a, 20_000)
    task = s.spawn(lambda: s.burn(ms(5)))
    groups.move(task, a)
    s.run(ms(1000))
    assert task.exit_state and not a.cfs_bandwidth.period_active
    assert a.cfs_bandwidth.nr_throttled == 0


def test_what_is_refused(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    b = groups.new(a)
    register.task = s.sched.rqs[0].idle
    assert (tg_get_cfs_quota(a), tg_get_cfs_period(a)) == (-1, 100_000)
    for call in (lambda: tg_set_cfs_quota(s.sched.root_task_group, 10_000), lambda: tg_set_cfs_quota(a, 999),
                 lambda: tg_set_cfs_period(a, 999), lambda: tg_set_cfs_period(a, 1_000_001)):
        with pytest.raises(KernelError):
            call()
    tg_set_cfs_quota(a, 50_000)
    tg_set_cfs_quota(b, 50_000)
    with pytest.raises(KernelError):             # more than the group above
        tg_set_cfs_quota(b, 50_001)
    with pytest.raises(KernelError):             # less than the group below
        tg_set_cfs_quota(a, 49_999)
    tg_set_cfs_period(b, 200_000)
    tg_set_cfs_quota(a, 25_000)
    assert (tg_get_cfs_quota(a), tg_get_cfs_period(b)) == (25_000, 200_000)
