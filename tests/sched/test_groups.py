"""Task groups of CFS: fair between groups first, and within each group among its tasks."""
import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.group import (
    sched_create_group,
    sched_group_set_shares,
    sched_move_task,
    sched_offline_group,
    sched_online_group,
)
from tests.sched.sim import ms


class Groups:
    """What the cpu controller does: task -> group."""

    def __init__(self, s):
        self.s = s
        self.of = {}
        s.sched.task_css_group = lambda task: self.of.get(task, s.sched.root_task_group)

    def new(self, parent=None):
        parent = parent or self.s.sched.root_task_group
        tg = sched_create_group(self.s, parent)
        sched_online_group(self.s, tg, parent)
        return tg

    def move(self, task, tg):
        self.of[task] = tg
        register.task = self.s.sched.rqs[0].idle
        sched_move_task(task)

    def hog(self, tg, **options):
        task = self.s.spawn(lambda: self.s.burn(ms(90_000)), **options)
        self.move(task, tg)
        return task


def used(s, tasks, ns):
    before = [t.se.sum_exec_runtime for t in tasks]
    s.run(ns)
    return [(t.se.sum_exec_runtime - b) / ns for t, b in zip(tasks, before)]


def test_two_groups_get_half_each_however_many_tasks_they_have(sim):
    s = sim()
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    tasks = [groups.hog(a)] + [groups.hog(b) for _ in range(4)]
    s.run(ms(100))
    one, *four = used(s, tasks, ms(4000))
    assert one == pytest.approx(0.5, abs=0.01)
    assert four == pytest.approx([0.125] * 4, abs=0.01)


def test_shares_are_the_weight_of_a_group_among_its_siblings_and_tasks(sim):
    s = sim()
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    sched_group_set_shares(a, 2048 << 10)
    tasks = [groups.hog(a), groups.hog(b), groups.hog(b), s.spawn(lambda: s.burn(ms(90_000)))]
    s.run(ms(100))
    assert used(s, tasks, ms(6000)) == pytest.approx([0.5, 0.125, 0.125, 0.25], abs=0.01)
    register.task = s.sched.rqs[0].idle
    sched_group_set_shares(a, 1024 << 10)
    s.run(ms(100))
    assert used(s, tasks, ms(6000)) == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3], abs=0.01)


def test_groups_in_groups(sim):
    s = sim()
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    a1, a2 = groups.new(a), groups.new(a)
    tasks = [groups.hog(a1), groups.hog(a1), groups.hog(a2, nice=10), groups.hog(b)]
    s.run(ms(100))
    assert used(s, tasks, ms(6000)) == pytest.approx([0.125, 0.125, 0.25, 0.5], abs=0.015)


def test_nice_counts_within_a_group(sim):
    s = sim()
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    tasks = [groups.hog(a), groups.hog(a, nice=5), groups.hog(b)]
    s.run(ms(100))
    strong, weak, other = used(s, tasks, ms(6000))
    assert weak / strong == pytest.approx(335 / 1024, rel=0.03)
    assert other == pytest.approx(0.5, abs=0.01)


def test_a_groups_shares_are_divided_among_the_cpus_it_runs_on(sim):
    """Eight hogs of one group and eight of another on four CPUs: half of all of them."""
    s = sim(cpus=4)
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    tasks = [groups.hog(a) for _ in range(4)] + [groups.hog(b) for _ in range(12)]
    s.run(ms(1500))
    share = used(s, tasks, ms(8000))
    assert sum(share) == pytest.approx(4, rel=0.01)
    assert sum(share[:4]) == pytest.approx(2, rel=0.12)
    assert sum(se.weight for se in a.se) <= 1.02 * a.shares


def test_idle_cpus_pull_tasks_out_of_groups(sim):
    s = sim(cpus=4)
    groups = Groups(s)
    a = groups.new()
    tasks = [groups.hog(a) for _ in range(4)]
    s.run(ms(200))
    assert used(s, tasks, ms(1000)) == pytest.approx([1] * 4, abs=0.02)


def test_moving_back_and_forth_neither_gains_nor_loses(sim):
    s = sim()
    groups = Groups(s)
    a = groups.new()
    root = s.sched.root_task_group
    other, mover = s.spawn(lambda: s.burn(ms(90_000))), groups.hog(a)
    s.run(ms(100))
    before = [t.se.sum_exec_runtime for t in (other, mover)]
    for turn in range(100):
        groups.move(mover, root if turn % 2 else a)
        s.run(ms(37))
    gained = [t.se.sum_exec_runtime - b for t, b in zip((other, mover), before)]
    assert gained[0] / sum(gained) == pytest.approx(0.5, abs=0.05)        # an empty group that gets a task is a sleeper that wakes


def test_a_sleeper_in_a_group_can_be_moved_and_woken(sim):
    from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up

    s = sim()
    groups = Groups(s)
    a, b = groups.new(), groups.new()
    wq, state, woken = WaitQueueHead(), {"go": False}, []

    def sleeper():
        wait_event(wq, lambda: state["go"])
        woken.append(register.task.se.cfs_rq.tg)
        s.burn(ms(50))

    task = s.spawn(sleeper)
    groups.move(task, a)
    hog = groups.hog(b)
    s.run(ms(50))
    groups.move(task, b)
    state["go"] = True
    wake_up(wq)
    s.run(ms(60))
    assert woken == [b] and task.exit_state == 0
    s.run(ms(100))
    assert task.exit_state == 0x20 and hog.se.cfs_rq is b.cfs_rq[0]
    sched_offline_group(s, a)
    assert a not in s.sched.task_groups
