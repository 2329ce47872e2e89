"""The scheduler, and the life of tasks.

Linux: include/trace/events/sched.h (5.3).
Gaps: NUMA balancing, hung tasks, kthread_worker: what this
    kernel does not do.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import pid_nr
from glasskernel.kernel.task import TASK_IDLE
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.exec import LinuxBinprm
    from glasskernel.kernel.pid import Pid
    from glasskernel.kernel.task import TaskStruct

TASK_REPORT, TASK_REPORT_IDLE, TASK_REPORT_MAX = 0x7F, 0x80, 0x100


@notrace
def __trace_sched_switch_state(preempt: bool, p: TaskStruct) -> int:
    """One bit for what the task does while it is off the CPU; a preempted one would have run on."""
    if preempt:
        return TASK_REPORT_MAX
    if p.state == TASK_IDLE:
        return TASK_REPORT_IDLE
    state = (p.state | p.exit_state) & TASK_REPORT
    return 1 << state.bit_length() - 1 if state else 0


sched = trace_system("sched")


@sched.event(
    fields="char comm[16]; pid_t pid",
    print_fmt='"comm=%s pid=%d", REC->comm, REC->pid',
)
def sched_kthread_stop(t: TaskStruct) -> Values:
    return (t.comm, t.pid)


@sched.event(
    fields="int ret",
    print_fmt='"ret=%d", REC->ret',
)
def sched_kthread_stop_ret(ret: int) -> Values:
    return (ret,)


@sched.event_class(
    fields="char comm[16]; pid_t pid; int prio; int success; int target_cpu",
    print_fmt='"comm=%s pid=%d prio=%d target_cpu=%03d", REC->comm, REC->pid, REC->prio, REC->target_cpu',
    irqs_off=True,
)
def sched_wakeup_template(p: TaskStruct) -> Values:
    return (p.comm, p.pid, p.prio, 1, p.cpu)


sched_waking = sched_wakeup_template.define("sched_waking")
sched_wakeup = sched_wakeup_template.define("sched_wakeup")
sched_wakeup_new = sched_wakeup_template.define("sched_wakeup_new")


@sched.event(
    fields=(
        "char prev_comm[16]; pid_t prev_pid; int prev_prio; long prev_state; char next_comm[16]; pid_t next_pid; "
        "int next_prio"),
    print_fmt=(
        '"prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s%s ==> next_comm=%s next_pid=%d next_prio=%d", '
        'REC->prev_comm, REC->prev_pid, REC->prev_prio, (REC->prev_state & ((((0x0000 | 0x0001 | 0x0002 | 0x0004 '
        '| 0x0008 | 0x0010 | 0x0020 | 0x0040) + 1) << 1) - 1)) ? __print_flags(REC->prev_state & ((((0x0000 | '
        '0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x0040) + 1) << 1) - 1), "|", { 0x0001, "S" }, '
        '{ 0x0002, "D" }, { 0x0004, "T" }, { 0x0008, "t" }, { 0x0010, "X" }, { 0x0020, "Z" }, { 0x0040, "P" }, '
        '{ 0x0080, "I" }) : "R", REC->prev_state & (((0x0000 | 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | '
        '0x0020 | 0x0040) + 1) << 1) ? "+" : "", REC->next_comm, REC->next_pid, REC->next_prio'),
    irqs_off=True,
)
def sched_switch(preempt: bool, prev: TaskStruct, next_: TaskStruct) -> Values:
    return (prev.comm, prev.pid, prev.prio, __trace_sched_switch_state(preempt, prev), next_.comm, next_.pid,
            next_.prio)


@sched.event(
    fields="char comm[16]; pid_t pid; int prio; int orig_cpu; int dest_cpu",
    print_fmt=(
        '"comm=%s pid=%d prio=%d orig_cpu=%d dest_cpu=%d", REC->comm, REC->pid, REC->prio, REC->orig_cpu, '
        'REC->dest_cpu'),
    irqs_off=True,
)
def sched_migrate_task(p: TaskStruct, dest_cpu: int) -> Values:
    return (p.comm, p.pid, p.prio, p.cpu, dest_cpu)


@sched.event_class(
    fields="char comm[16]; pid_t pid; int prio",
    print_fmt='"comm=%s pid=%d prio=%d", REC->comm, REC->pid, REC->prio',
)
def sched_process_template(p: TaskStruct) -> Values:
    return (p.comm, p.pid, p.prio)


sched_process_free = sched_process_template.define("sched_process_free")
sched_process_exit = sched_process_template.define("sched_process_exit")


@sched.event(
    fields="char comm[16]; pid_t pid; int prio",
    print_fmt='"comm=%s pid=%d prio=%d", REC->comm, REC->pid, REC->prio',
)
def sched_process_wait(pid: Pid | None) -> Values:
    task = current()
    return (task.comm, pid_nr(pid) if pid is not None else 0, task.prio)


@sched.event(
    fields="char parent_comm[16]; pid_t parent_pid; char child_comm[16]; pid_t child_pid",
    print_fmt=(
        '"comm=%s pid=%d child_comm=%s child_pid=%d", REC->parent_comm, REC->parent_pid, REC->child_comm, '
        'REC->child_pid'),
)
def sched_process_fork(parent: TaskStruct, child: TaskStruct) -> Values:
    return (parent.comm, parent.pid, child.comm, child.pid)


@sched.event(
    fields="__data_loc char[] filename; pid_t pid; pid_t old_pid",
    print_fmt='"filename=%s pid=%d old_pid=%d", __get_str(filename), REC->pid, REC->old_pid',
)
def sched_process_exec(p: TaskStruct, old_pid: int, bprm: LinuxBinprm) -> Values:
    return (bprm.filename, p.pid, old_pid)


@sched.event_class(
    fields="char comm[16]; pid_t pid; u64 delay",
    print_fmt='"comm=%s pid=%d delay=%Lu [ns]", REC->comm, REC->pid, (unsigned long long)REC->delay',
    irqs_off=True,
)
def sched_stat_template(tsk: TaskStruct, delay: int) -> Values:
    return (tsk.comm, tsk.pid, delay)


sched_stat_wait = sched_stat_template.define("sched_stat_wait")
sched_stat_sleep = sched_stat_template.define("sched_stat_sleep")
sched_stat_iowait = sched_stat_template.define("sched_stat_iowait")
sched_stat_blocked = sched_stat_template.define("sched_stat_blocked")


@sched.event(
    fields="char comm[16]; pid_t pid; u64 runtime; u64 vruntime",
    print_fmt=(
        '"comm=%s pid=%d runtime=%Lu [ns] vruntime=%Lu [ns]", REC->comm, REC->pid, '
        '(unsigned long long)REC->runtime, (unsigned long long)REC->vruntime'),
    irqs_off=True,
)
def sched_stat_runtime(tsk: TaskStruct, runtime: int, vruntime: int) -> Values:
    return (tsk.comm, tsk.pid, runtime, vruntime)


@sched.event(
    fields="char comm[16]; pid_t pid; int oldprio; int newprio",
    print_fmt='"comm=%s pid=%d oldprio=%d newprio=%d", REC->comm, REC->pid, REC->oldprio, REC->newprio',
    irqs_off=True,
)
def sched_pi_setprio(tsk: TaskStruct, pi_task: TaskStruct | None) -> Values:
    return (tsk.comm, tsk.pid, tsk.prio, tsk.normal_prio if pi_task is None else min(tsk.normal_prio, pi_task.prio))
