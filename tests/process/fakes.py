"""Tasks without a machine: enough of a kernel for the signal and pid functions, which never sleep."""
from types import SimpleNamespace

from glasskernel.kernel.current import register
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_SID,
    PIDTYPE_TGID,
    PidState,
    alloc_pid,
    attach_pid,
    init_task_pid,
)
from glasskernel.kernel.rcu.rcu import RcuData
from glasskernel.kernel.resource import init_rlimits
from glasskernel.kernel.task import Cred, SighandStruct, SignalStruct, TaskStruct
from glasskernel.kernel.tracepoint import Tracepoints


class FakeKernel(SimpleNamespace):
    def __init__(self):
        super().__init__(pids=PidState(), tp=Tracepoints(), cgroup_freezing=None, lsm=None,
                         rcu=SimpleNamespace(data=[RcuData(0, None, 1)]),
                         slab=SimpleNamespace(pid_cachep=None, sighand_cachep=None),
                         kmem_cache_alloc=lambda cache, gfp: 0, kmem_cache_free=lambda cache, address: None)
        register.task = TaskStruct(self, 0, 0, b"swapper/0")

    def process(self, parent=None, uid=0):
        """A process with one thread, in its parent's group and session (its own without a parent)."""
        pid = alloc_pid(self)
        p = TaskStruct(self, pid.nr, pid.nr, b"fake")
        p.group_leader = p
        p.thread_pid = pid
        p.cred = p.real_cred = Cred(uid=uid, euid=uid, suid=uid, fsuid=uid, cap_effective=0 if uid else ~0)
        p.sighand = SighandStruct()
        p.signal = SignalStruct(p, [p], curr_target=p, rlim=init_rlimits(1000))
        p.real_parent = p.parent = parent or p
        p.exit_signal = 17
        init_task_pid(p, PIDTYPE_PGID, parent.signal.pgrp if parent else pid)
        init_task_pid(p, PIDTYPE_SID, parent.signal.session if parent else pid)
        for pid_type in (PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID):
            attach_pid(p, pid_type)
        self.pids.tasks[p] = None
        if parent:
            parent.children.append(p)
        return p

    def thread(self, leader):
        pid = alloc_pid(self)
        t = TaskStruct(self, pid.nr, leader.tgid, b"thread")
        t.group_leader, t.thread_pid, t.exit_signal = leader, pid, -1
        t.cred = t.real_cred = leader.cred
        t.signal, t.sighand = leader.signal, leader.sighand
        t.real_parent = t.parent = leader.real_parent
        leader.signal.threads.append(t)
        attach_pid(t, PIDTYPE_PID)
        return t


def run_as(task):
    register.task = task
    return task
