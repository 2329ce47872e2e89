"""The steps of CPU hotplug: who does what when a CPU comes or goes. Imported by the first who looks into hotplug/.

Linux: the table cpuhp_hp_states of kernel/cpu.c, and the cpuhp_setup_state() calls of other rooms (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.smpboot_hotplug import smp_ops
from glasskernel.block.blk_mq_dispatch import blk_mq_hctx_notify_dead, blk_softirq_cpu_dead
from glasskernel.drivers.base.cacheinfo import cacheinfo_cpu_online, cacheinfo_cpu_pre_down
from glasskernel.drivers.base.topology import topology_add_dev, topology_remove_dev
from glasskernel.fs.buffer import buffer_exit_cpu_dead
from glasskernel.kernel.cpu import (
    CPUHP_AP_ACTIVE,
    CPUHP_AP_ONLINE_DYN,
    CPUHP_AP_PERF_ONLINE,
    CPUHP_AP_SCHED_STARTING,
    CPUHP_AP_SMPBOOT_THREADS,
    CPUHP_AP_SMPCFD_DYING,
    CPUHP_AP_WORKQUEUE_ONLINE,
    CPUHP_BLK_MQ_DEAD,
    CPUHP_BLOCK_SOFTIRQ_DEAD,
    CPUHP_BP_PREPARE_DYN,
    CPUHP_FS_BUFF_DEAD,
    CPUHP_HRTIMERS_PREPARE,
    CPUHP_NET_DEV_DEAD,
    CPUHP_PAGE_ALLOC_DEAD,
    CPUHP_RCUTREE_PREP,
    CPUHP_SLUB_DEAD,
    CPUHP_SOFTIRQ_DEAD,
    CPUHP_TIMERS_PREPARE,
    CPUHP_TOPOLOGY_PREPARE,
    CPUHP_WORKQUEUE_PREP,
    CpuhpCallback,
    CpuhpState,
    boot_cpu_state,
    cpuhp_setup_state_nocalls,
)
from glasskernel.kernel.fork import free_vm_stack_cache
from glasskernel.kernel.rcu.hotplug import rcutree_prepare_cpu
from glasskernel.kernel.sched.hotplug import (
    sched_cpu_activate,
    sched_cpu_deactivate,
    sched_cpu_dying,
    sched_cpu_starting,
)
from glasskernel.kernel.smp import smpcfd_dying_cpu
from glasskernel.kernel.smpboot import smpboot_park_threads, smpboot_unpark_threads
from glasskernel.kernel.softirq import takeover_tasklets
from glasskernel.kernel.time.hotplug import hrtimers_dead_cpu, hrtimers_prepare_cpu, timers_dead_cpu, timers_prepare_cpu
from glasskernel.kernel.workqueue_cpu import workqueue_offline_cpu, workqueue_online_cpu, workqueue_prepare_cpu
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import page_alloc_cpu_dead
from glasskernel.mm.slub import slub_cpu_dead

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


# (state, name, startup, teardown); what is DYN takes the next free number, in this order
_STEPS: tuple[tuple[int, str, CpuhpCallback | None, CpuhpCallback | None], ...] = (
    (CPUHP_SLUB_DEAD, "slub:dead", None, slub_cpu_dead),
    (CPUHP_SOFTIRQ_DEAD, "softirq:dead", None, takeover_tasklets),
    (CPUHP_BLOCK_SOFTIRQ_DEAD, "block/softirq:dead", None, blk_softirq_cpu_dead),
    (CPUHP_BLK_MQ_DEAD, "block/mq:dead", None, blk_mq_hctx_notify_dead),
    (CPUHP_FS_BUFF_DEAD, "fs/buffer:dead", None, buffer_exit_cpu_dead),
    (CPUHP_PAGE_ALLOC_DEAD, "mm/page_alloc:dead", None, page_alloc_cpu_dead),
    (CPUHP_WORKQUEUE_PREP, "workqueue:prepare", workqueue_prepare_cpu, None),
    (CPUHP_HRTIMERS_PREPARE, "hrtimers:prepare", hrtimers_prepare_cpu, hrtimers_dead_cpu),
    (CPUHP_RCUTREE_PREP, "RCU/tree:prepare", rcutree_prepare_cpu, None),
    (CPUHP_TOPOLOGY_PREPARE, "base/topology:prepare", topology_add_dev, topology_remove_dev),
    (CPUHP_TIMERS_PREPARE, "timers:prepare", timers_prepare_cpu, timers_dead_cpu),
    (CPUHP_BP_PREPARE_DYN, "fork:vm_stack_cache", None, free_vm_stack_cache),
    (CPUHP_AP_SCHED_STARTING, "sched:starting", sched_cpu_starting, sched_cpu_dying),
    (CPUHP_AP_SMPCFD_DYING, "smpcfd:dying", None, smpcfd_dying_cpu),
    (CPUHP_AP_SMPBOOT_THREADS, "smpboot/threads:online", smpboot_unpark_threads, smpboot_park_threads),
    (CPUHP_AP_WORKQUEUE_ONLINE, "workqueue:online", workqueue_online_cpu, workqueue_offline_cpu),
    (CPUHP_AP_ONLINE_DYN, "base/cacheinfo:online", cacheinfo_cpu_online, cacheinfo_cpu_pre_down),
    (CPUHP_AP_ACTIVE, "sched:active", sched_cpu_activate, sched_cpu_deactivate),
)


@notrace
@may_sleep
def cpuset_update_active_cpus(kernel: Kernel) -> None:
    """Only where there are cpusets."""
    if kernel.sched.cpuset_cpus_allowed is not None:
        from glasskernel.kernel.cgroup.cpuset_hotplug import cpuset_update_active_cpus

        cpuset_update_active_cpus(kernel)


@notrace
def cpu_hotplug(kernel: Kernel) -> CpuhpState:
    """kernel.cpuhp, made now if nobody has looked before, with the steps of the rooms that are there by now."""
    hotplug = kernel.cpuhp
    if hotplug is None:
        hotplug = kernel.cpuhp = boot_cpu_state(kernel, smp_ops)
        for state, name, startup, teardown in _STEPS:
            cpuhp_setup_state_nocalls(hotplug, state, name, startup, teardown)
        kernel.sched.cpuset_update_active_cpus = lambda: cpuset_update_active_cpus(kernel)
    if CPUHP_NET_DEV_DEAD not in hotplug.steps and kernel.net is not None and kernel.net.softnet_data:
        from glasskernel.net.core.dev import dev_cpu_dead

        cpuhp_setup_state_nocalls(hotplug, CPUHP_NET_DEV_DEAD, "net/dev:dead", None, dev_cpu_dead)
    if CPUHP_AP_PERF_ONLINE not in hotplug.steps and kernel.perf_state is not None:
        from glasskernel.kernel.events.core import perf_event_exit_cpu

        cpuhp_setup_state_nocalls(hotplug, CPUHP_AP_PERF_ONLINE, "perf:online", None, perf_event_exit_cpu)
    return hotplug
