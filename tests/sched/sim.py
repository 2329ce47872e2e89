"""A kernel with nothing but CPUs, time, interrupts and the scheduler; its tasks run Python instead of user code.

    sim = Sim(cpus=2)
    sim.spawn(lambda: sim.burn(ms(10)), name="hog", cpu=0)
    sim.run()                                      # until nothing can happen any more, or for so many ns
"""
from types import SimpleNamespace

from greenlet import greenlet

from glasskernel.arch.x86.entry.idt import vector
from glasskernel.arch.x86.entry.irq import init_IRQ
from glasskernel.arch.x86.entry.smpboot import secondary_startup_64
from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthreadd
from glasskernel.kernel.rcu.tree import rcu_init
from glasskernel.kernel.resource import init_rlimits
from glasskernel.kernel.sched.check import check_sched
from glasskernel.kernel.sched.core import (
    do_task_dead,
    init_idle,
    put_task_stack,
    sched_fork,
    sched_init,
    schedule,
    schedule_tail,
    wake_up_new_task,
)
from glasskernel.kernel.sched.cputime import vtime_user
from glasskernel.kernel.sched.idle import cpu_startup_entry
from glasskernel.kernel.softirq import softirq_init, spawn_ksoftirqd
from glasskernel.kernel.stop_machine import cpu_stop_init
from glasskernel.kernel.task import (
    PF_KTHREAD,
    TIF_NEED_RESCHED,
    Cred,
    SighandStruct,
    SignalStruct,
    TaskStruct,
)
from glasskernel.kernel.time.tick import tick_init
from glasskernel.kernel.time.timekeeping import time_init
from glasskernel.kernel.tracepoint import Tracepoints
from glasskernel.kernel.workqueue import workqueue_init, workqueue_init_early
from glasskernel.machine.machine import Machine

BOOT_TIME_NS = 1_500_000_000 * 10**9


def ms(n):
    return int(n * 1_000_000)


class Sim:
    """Is its own Kernel object."""

    def __init__(self, cpus=1, threads=False):
        self.machine = Machine(cpus=cpus, memory=1 << 20, seed=0)
        self.lsm = None
        self.params = SimpleNamespace(boot_time_ns=BOOT_TIME_NS)
        self.sysctl = SimpleNamespace(panic_on_oops=1)
        self.machine.vector = vector
        self.machine.on_turn = self._on_turn
        self.failures = []
        self.tasks = []
        self.by_pid = {}
        self.tp = Tracepoints()
        self.pids = SimpleNamespace()
        self.perf = None
        self.setup_max_cpus = 64
        self.cpuhp = None
        time_init(self)
        sched_init(self)
        for vcpu in self.machine.cpus:
            idle = TaskStruct(self, 0, 0, b"swapper")
            idle.flags = PF_KTHREAD
            self._identity(idle)
            init_idle(idle, vcpu.id)
            idle.stack = vcpu.stack = greenlet(self._guard(secondary_startup_64 if vcpu.id else cpu_startup_entry), parent=self.machine.hub)
            vcpu.halted = False
        register.task = self.sched.rqs[0].idle
        init_IRQ(self)
        softirq_init(self)
        rcu_init(self)
        workqueue_init_early(self)
        tick_init(self)
        self.sched.kernel_thread = self._kernel_thread
        if threads:
            self.sched.kthreadd_task = self.by_pid[self._kernel_thread(kthreadd, None, 0)]
            self.spawn(self._start_threads, name="init")
            self.run(ms(1))

    def _start_threads(self):
        workqueue_init(self)
        cpu_stop_init(self)
        spawn_ksoftirqd(self)

    def _identity(self, p):
        p.cred = p.real_cred = Cred(cap_effective=~0)
        p.group_leader = p.real_parent = p.parent = p
        p.signal = SignalStruct(p, [p], rlim=init_rlimits(1000))
        p.sighand = SighandStruct()

    def _on_turn(self, vcpu):
        register.task = vcpu.task

    def _guard(self, function, *args):
        def run():
            try:
                return function(*args)
            except Exception as failure:
                self.failures.append(failure)
                self.machine.stop()
                self.machine.hub.switch()

        return run

    def _new(self, name):
        pid = len(self.tasks) + 1
        p = TaskStruct(self, pid, pid, name.encode())
        self._identity(p)
        parent = register.task
        p.static_prio, p.normal_prio, p.policy = parent.static_prio, 120, 0
        p.static_prio = 120
        p.cpus_allowed = self.sched.cpu_online_mask
        sched_fork(0, p)
        if p.prio != 120:                          # sched_fork() took the parent's
            p.prio = p.normal_prio = 120
        self.tasks.append(p)
        self.by_pid[pid] = p
        return p

    def _kernel_thread(self, fn, arg, flags):
        p = self._new(getattr(fn, "__name__", "thread"))
        p.flags = PF_KTHREAD

        def body():
            schedule_tail()
            fn(arg)
            p.exit_state = 0x20
            do_task_dead()

        p.stack = greenlet(self._guard(body), parent=self.machine.hub)
        wake_up_new_task(p)
        return p.pid

    def spawn(self, function, name="task", cpu=None, nice=0, wake=True):
        """A user task that calls function() and ends. cpu: runs there only."""
        from glasskernel.kernel.sched.core import set_load_weight

        p = self._new(name)
        p.static_prio = p.normal_prio = p.prio = 120 + nice
        set_load_weight(p)
        if cpu is not None:
            p.cpus_allowed = 1 << cpu
        p.mm = None

        def body():
            schedule_tail()
            self.border()
            function()
            p.exit_state = 0x20
            do_task_dead()

        p.stack = greenlet(self._guard(body), parent=self.machine.hub)
        if wake:
            wake_up_new_task(p)
        return p

    def border(self):
        """The way back to user mode."""
        self.machine.border()
        while register.task.ti_flags & TIF_NEED_RESCHED:
            schedule()

    def burn(self, ns):
        """User code that takes so long."""
        task = register.task
        while ns > 0:
            vcpu = self.machine.this_cpu
            limit = vcpu.turn_end_ns
            if vcpu.timer_deadline_ns is not None:
                limit = min(limit, vcpu.timer_deadline_ns)
            step = min(ns, max(limit - vcpu.clock_ns, 0) + 4)
            if vcpu.pending:
                step = 0
            vcpu.clock_ns += step
            if step:
                vtime_user(task, step)
            ns -= step
            self.border()

    def run(self, ns=None):
        """Lets the machine run for so long, or until it has nothing to do."""
        if ns is not None:
            end = self.machine.now() + ns
            self.machine.at(end, self.machine.stop)
            self.machine.at(end + ms(0.1), lambda: None)     # bounds the turn in which the loop sees stop()
        register.task = self.machine.this_cpu.task
        self.machine.run()
        if self.failures:
            raise self.failures[0]

    def close(self):
        """Checks that nothing is torn, and unwinds every stack that is left."""
        if not self.failures:
            assert check_sched(self, self.tasks) == []
        register.task = self.sched.rqs[0].idle
        for p in [*self.tasks, *(rq.idle for rq in self.sched.rqs)]:
            p.ti_flags = 0
            put_task_stack(p)
        self.machine.close()

