"""Everything that can happen to tasks in groups, in random order; the run queues stay whole."""
import contextlib
import random

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.bandwidth import tg_set_cfs_bandwidth, tg_set_cfs_quota
from glasskernel.kernel.sched.check import check_sched
from glasskernel.kernel.sched.core import schedule, set_current_state, set_user_nice, wake_up_process
from glasskernel.kernel.sched.group import sched_group_set_shares, sched_offline_group
from glasskernel.kernel.sched.policy import sched_setscheduler_nocheck
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import KernelError
from tests.sched.sim import ms
from tests.sched.test_groups import Groups


class Stress:
    def __init__(self, s, seed):
        self.s, self.random = s, random.Random(seed)
        self.groups = Groups(s)
        self.all = [s.sched.root_task_group]
        self.tasks = []
        self.stop = False

    def body(self, seed):
        rng = random.Random(seed)

        def run():
            while not self.stop:
                self.s.burn(ms(rng.choice((0.1, 1, 7, 30))))
                if rng.random() < 0.5:
                    set_current_state(TASK_INTERRUPTIBLE)
                    schedule()
        return run

    def step(self):
        rng = self.random
        what = rng.choice(("spawn", "wake", "wake", "wake", "move", "move", "group", "shares", "quota", "free", "nice", "class", "drop"))
        register.task = self.s.sched.rqs[rng.randrange(len(self.s.sched.rqs))].idle
        alive = [p for p in self.tasks if not p.exit_state]
        tg = rng.choice(self.all)
        if what == "spawn" and len(alive) < 12:
            self.tasks.append(self.s.spawn(self.body(rng.random()), nice=rng.randrange(-5, 6)))
        elif what == "group" and len(self.all) < 8:
            self.all.append(self.groups.new(tg))
        elif what == "shares" and tg.parent is not None:
            sched_group_set_shares(tg, rng.choice((2, 300, 1024, 5000)) << 10)
        elif what == "quota" and tg.parent is not None:
            period = rng.choice((5, 20, 100))
            with contextlib.suppress(KernelError):           # more than a group above has
                tg_set_cfs_bandwidth(tg, ms(period), ms(period * rng.choice((0.2, 0.5, 1.5))) + ms(1))
        elif what == "free" and tg.parent is not None:
            tg_set_cfs_quota(tg, -1)
        elif what == "drop" and tg.parent is not None and not tg.children and tg not in self.groups.of.values():
            self.all.remove(tg)
            sched_offline_group(self.s, tg)
        elif alive:
            p = rng.choice(alive)
            if what == "wake":
                wake_up_process(p)
            elif what == "move":
                self.groups.move(p, tg)
            elif what == "nice":
                set_user_nice(p, rng.randrange(-20, 20))
            elif what == "class":
                sched_setscheduler_nocheck(p, *rng.choice(((0, 0), (0, 0), (0, 0), (3, 0), (5, 0), (2, 10))))

    def check(self):
        assert check_sched(self.s, self.s.tasks) == []
        for tg in self.s.sched.task_groups:
            for cfs_rq in tg.cfs_rq:
                above, count = tg, 0
                while above is not None:
                    count += above.cfs_rq[cfs_rq.rq.cpu].throttled
                    above = above.parent
                assert cfs_rq.throttle_count == count
            bandwidth = tg.cfs_bandwidth
            if bandwidth is not None:
                assert [c for c in tg.cfs_rq if c.throttled] == sorted(bandwidth.throttled_cfs_rq, key=lambda c: c.rq.cpu)
                assert not bandwidth.throttled_cfs_rq or bandwidth.period_active


@pytest.mark.parametrize("seed", range(12))
def test_run_queues_stay_whole(sim, seed):
    s = sim(cpus=1 + seed % 3)
    stress = Stress(s, seed)
    for _ in range(250):
        stress.step()
        stress.check()
        s.run(ms(stress.random.choice((0.3, 2, 9))))
        stress.check()
    # the end: everybody gets to run, and nobody is left
    register.task = s.sched.rqs[0].idle
    for tg in stress.all[1:]:
        tg_set_cfs_quota(tg, -1)
    stress.stop = True
    for p in stress.tasks:
        wake_up_process(p)
    s.run(ms(5000))
    for p in stress.tasks:
        wake_up_process(p)
    s.run(ms(3000))
    assert [p for p in stress.tasks if not p.exit_state] == []
    assert all(cfs_rq.load == cfs_rq.nr_running == cfs_rq.h_nr_running == 0 for tg in s.sched.task_groups for cfs_rq in tg.cfs_rq)
