"""The OOM killer: when nothing can be reclaimed, a process ends.

Linux: mm/oom_kill.c (5.3); the last lines of a report are those of 5.4 and later (UID, pgtables, oom_score_adj). Same:
    the score (resident, swapped and table pages, moved by oom_score_adj), one victim at a time, whoever shares the
    victim's memory dies with it, a caller that is exiting is helped instead.
Differs: the victim's signal_struct keeps its mm without a reference (Python's own does); TIF_MEMDIE needs no flag, for
    the reserves look at oom_mm; messages are not rate limited.
Owns: SignalStruct.oom_mm, MMF_OOM_VICTIM, MMF_OOM_SKIP. Imported by the first shortage. Locks: mem.oom_lock.
Gaps: cgroups' limits, cpusets' nodes, the oom_reaper, oom notifiers.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_TGID
from glasskernel.kernel.printk import printk
from glasskernel.kernel.signal import (
    SIGNAL_GROUP_COREDUMP,
    SIGNAL_GROUP_EXIT,
    do_send_sig_info,
)
from glasskernel.kernel.signal_types import SEND_SIG_PRIV, SIGKILL
from glasskernel.kernel.task import PF_EXITING, PF_KTHREAD
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.lib.vsprintf import cpumask_list
from glasskernel.mm.mempolicy import mempolicy_nodemask_intersects
from glasskernel.mm.page_alloc import __GFP_FS, OOM_KILL
from glasskernel.mm.show_mem import gfp_names, show_mem
from glasskernel.mm.swap_types import total_swap_pages
from glasskernel.mm.types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    MMF_OOM_SKIP,
    MMF_OOM_VICTIM,
    MmStruct,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

OOM_SCORE_ADJ_MIN = -1000


@slotted
class OomControl:
    """struct oom_control: one decision. gfp_mask 0: no allocation asked, but a page fault. chosen_points 0: nobody."""

    gfp_mask: int
    order: int
    nodemask: int | None = None          # the nodes that have to do, as a policy says; None: all
    totalpages: int = 0
    chosen: TaskStruct | None = None
    chosen_points: int = 0
    abort: bool = False                  # a victim is dying already


@may_sleep
def out_of_memory(kernel: Kernel, gfp: int, order: int, nodemask: int | None) -> bool:
    """Ends a process, so that the allocation may be tried again. False: there is none that could. Locks: oom_lock."""
    task = current()
    sysctl = kernel.sysctl
    oc = OomControl(gfp, order, nodemask)
    if task_will_free_mem(task):
        mark_oom_victim(task)
        return True
    if gfp and not gfp & __GFP_FS:
        return True                                      # others, who may do more, find something
    constrained_alloc(kernel, oc)
    if sysctl.panic_on_oom == 2 or (sysctl.panic_on_oom and oc.nodemask is None):
        dump_header(kernel, oc, None)
        word = "compulsory" if sysctl.panic_on_oom == 2 else "system-wide"
        kernel.panic(f"Out of memory: {word} panic_on_oom is enabled")
    if (sysctl.oom_kill_allocating_task and task.mm is not None and not oom_unkillable_task(task)
            and task.signal.oom_score_adj != OOM_SCORE_ADJ_MIN):
        oc.chosen = task
        oom_kill_process(kernel, oc, "Out of memory (oom_kill_allocating_task)")
        return True
    select_bad_process(kernel, oc)
    if oc.chosen is None and not oc.abort:
        dump_header(kernel, oc, None)
        printk(kernel, "Out of memory and no killable processes...", 4)
        kernel.panic("System is deadlocked on memory")
    if oc.chosen is not None and not oc.abort:
        oom_kill_process(kernel, oc, "Out of memory")
    return True


def constrained_alloc(kernel: Kernel, oc: OomControl) -> None:
    """How much memory there is for who competes with the caller; a mask that leaves no node out says nothing."""
    mem = kernel.mem
    oc.totalpages = total_swap_pages(kernel)
    if oc.nodemask is not None and mem.nodes_online & ~oc.nodemask:
        oc.totalpages += sum([pgdat.node_end_pfn - pgdat.node_start_pfn for pgdat in mem.node_data
                              if oc.nodemask >> pgdat.node_id & 1])
    else:
        oc.nodemask = None
        oc.totalpages += mem.totalram_pages


# ---- who --------------------------------------------------------------------------------------------------------
@notrace
def for_each_process(kernel: Kernel) -> list[TaskStruct]:
    """A copy: processes may end meanwhile."""
    return list(kernel.pids.tasks)


@notrace
def for_each_thread(task: TaskStruct) -> list[TaskStruct]:
    return task.signal.threads or [task]


@notrace
def oom_unkillable_task(p: TaskStruct) -> bool:
    """init, and threads of the kernel."""
    return p.tgid == 1 or bool(p.flags & PF_KTHREAD)


@notrace
def find_lock_task_mm(p: TaskStruct) -> TaskStruct | None:
    """A thread of the process that still has its memory."""
    return next((thread for thread in for_each_thread(p) if thread.mm is not None), None)


@notrace
def process_shares_mm(p: TaskStruct, mm: MmStruct) -> bool:
    thread = find_lock_task_mm(p)
    return thread is not None and thread.mm is mm


@notrace
def get_mm_rss(mm: MmStruct) -> int:
    rss = mm.rss_stat
    return rss[MM_FILEPAGES] + rss[MM_ANONPAGES] + rss[MM_SHMEMPAGES]


def oom_badness(p: TaskStruct, totalpages: int) -> int:
    """How many pages the end of a process would bring, moved by its oom_score_adj; 0: it may not be killed."""
    if oom_unkillable_task(p):
        return 0
    thread = find_lock_task_mm(p)
    if thread is None or thread.mm is None:
        return 0
    mm = thread.mm
    adj = p.signal.oom_score_adj
    if adj == OOM_SCORE_ADJ_MIN or mm.flags & MMF_OOM_SKIP or in_vfork(thread):
        return 0
    points = get_mm_rss(mm) + mm.rss_stat[MM_SWAPENTS] + (mm.pgtables_bytes >> 12)
    return max(points + adj * (totalpages // 1000), 1)


@notrace
def in_vfork(p: TaskStruct) -> bool:
    """It only borrows its parent's memory: the parent is the one to kill."""
    return p.vfork_done is not None and p.real_parent.mm is p.mm


def select_bad_process(kernel: Kernel, oc: OomControl) -> None:
    """The process with the highest score, if none is dying for memory already."""
    for p in for_each_process(kernel):
        if oom_evaluate_task(p, oc):
            return


def oom_evaluate_task(p: TaskStruct, oc: OomControl) -> bool:
    """True: look no further."""
    if oom_unkillable_task(p) or not oom_cpuset_eligible(p, oc):
        return False
    victim_mm: MmStruct | None = p.signal.oom_mm
    if victim_mm is not None:                            # tsk_is_oom_victim()
        if victim_mm.flags & MMF_OOM_SKIP:
            return False
        oc.abort = True                                  # it has the reserves: wait for it
        return True
    points = oom_badness(p, oc.totalpages)
    if points > oc.chosen_points:
        oc.chosen, oc.chosen_points = p, points
    return False


@notrace
def oom_cpuset_eligible(p: TaskStruct, oc: OomControl) -> bool:
    """May a thread of it have memory of the nodes that are short?"""
    mask = oc.nodemask
    return mask is None or any([mempolicy_nodemask_intersects(thread, mask) for thread in for_each_thread(p)])


@notrace
def __task_will_free_mem(p: TaskStruct) -> bool:
    """It is on its way out (but a dump of core may take long)."""
    if p.signal.flags & SIGNAL_GROUP_COREDUMP:
        return False
    return bool(p.signal.flags & SIGNAL_GROUP_EXIT) or (len(p.signal.threads) <= 1 and bool(p.flags & PF_EXITING))


def task_will_free_mem(p: TaskStruct) -> bool:
    """It, and everybody who has the same memory, is on the way out."""
    mm = p.mm
    if mm is None or not __task_will_free_mem(p) or mm.flags & MMF_OOM_SKIP:
        return False
    if mm.mm_users <= 1:
        return True
    return all(__task_will_free_mem(other) for other in for_each_process(p.kernel)
               if other.signal is not p.signal and process_shares_mm(other, mm))


# ---- the end ----------------------------------------------------------------------------------------------------
@may_sleep
def oom_kill_process(kernel: Kernel, oc: OomControl, message: str) -> None:
    victim = oc.chosen
    assert victim is not None
    if task_will_free_mem(victim):                       # no reason to alarm anybody
        mark_oom_victim(victim)
        return
    dump_header(kernel, oc, victim)
    __oom_kill_process(kernel, victim, message)


def __oom_kill_process(kernel: Kernel, victim: TaskStruct, message: str) -> None:
    thread = find_lock_task_mm(victim)
    if thread is None or thread.mm is None:
        return
    victim = thread
    mm = thread.mm
    kernel.mem.vm_event[OOM_KILL] += 1
    kill(victim)
    mark_oom_victim(victim)
    rss = mm.rss_stat
    printk(kernel, f"{message}: Killed process {victim.pid} ({victim.comm.decode(errors='replace')}) "
                   f"total-vm:{mm.total_vm << 2}kB, anon-rss:{rss[MM_ANONPAGES] << 2}kB, "
                   f"file-rss:{rss[MM_FILEPAGES] << 2}kB, shmem-rss:{rss[MM_SHMEMPAGES] << 2}kB, "
                   f"UID:{victim.cred.uid} pgtables:{mm.pgtables_bytes >> 10}kB "
                   f"oom_score_adj:{victim.signal.oom_score_adj}", 3)
    for p in for_each_process(kernel):
        if p.signal is victim.signal or not process_shares_mm(p, mm):
            continue
        if p.tgid == 1:
            mm.flags |= MMF_OOM_SKIP
            printk(kernel, f"oom killer {victim.pid} ({victim.comm.decode(errors='replace')}) has mm pinned by "
                           f"{p.pid} ({p.comm.decode(errors='replace')})")
        elif not p.flags & PF_KTHREAD:
            kill(p)


@notrace
def kill(p: TaskStruct) -> None:
    with suppress(KernelError):                          # ESRCH: it is gone
        do_send_sig_info(SIGKILL, SEND_SIG_PRIV, p, PIDTYPE_TGID)


def mark_oom_victim(p: TaskStruct) -> None:
    """From now on the process may have the memory reserves."""
    mm = p.mm
    if p.signal.oom_mm is not None or mm is None:
        return
    p.signal.oom_mm = mm
    mm.flags |= MMF_OOM_VICTIM
    probe = p.kernel.tp.mark_victim
    if probe is not None:
        probe(p, mm)


# ---- the report -------------------------------------------------------------------------------------------------
def dump_header(kernel: Kernel, oc: OomControl, victim: TaskStruct | None) -> None:
    """Who asked for what, the state of memory, and of all processes."""
    task = current()
    printk(kernel, f"{task.comm.decode(errors='replace')} invoked oom-killer: gfp_mask={oc.gfp_mask:#x}"
                   f"({gfp_names(oc.gfp_mask)}), order={oc.order}, oom_score_adj={task.signal.oom_score_adj}", 4)
    kernel.dump_stack()
    show_mem(kernel)
    if kernel.sysctl.oom_dump_tasks:
        dump_tasks(kernel)
    if victim is not None:
        dump_oom_summary(kernel, oc, victim)


def dump_tasks(kernel: Kernel) -> None:
    printk(kernel, "Tasks state (memory values in pages):")
    printk(kernel, "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name")
    for p in for_each_process(kernel):
        if not oom_unkillable_task(p):
            dump_task(kernel, p)


def dump_task(kernel: Kernel, p: TaskStruct) -> None:
    thread = find_lock_task_mm(p)
    if thread is None or thread.mm is None:
        return
    mm = thread.mm
    printk(kernel, f"[{thread.pid:7}] {thread.cred.uid:5} {thread.tgid:5} {mm.total_vm:8} {get_mm_rss(mm):8} "
                   f"{mm.pgtables_bytes:8} {mm.rss_stat[MM_SWAPENTS]:8}         {thread.signal.oom_score_adj:5} "
                   f"{thread.comm.decode(errors='replace')}")


def dump_oom_summary(kernel: Kernel, oc: OomControl, victim: TaskStruct) -> None:
    """One line for programs that read the log."""
    cpuset = kernel.show_task_cpuset(current()).decode(errors="replace").strip() or "/"
    where = "NONE,nodemask=(null)"
    if oc.nodemask is not None:
        where = f"MEMORY_POLICY,nodemask={cpumask_list(oc.nodemask).decode()}"
    allowed = cpumask_list(kernel.mem.nodes_online).decode()
    printk(kernel, f"oom-kill:constraint=CONSTRAINT_{where},cpuset={cpuset},mems_allowed={allowed},"
                   f"task={victim.comm.decode(errors='replace')},pid={victim.pid},uid={victim.cred.uid}")
