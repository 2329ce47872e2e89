"""start_kernel(): the boot order, and what PID 1 does.

Linux: init/main.c, init/do_mounts.c (5.3). Same: the order of the rooms, rest_init() with PID 1 and kthreadd as PID 2,
rootfs first and the real root mounted over it. Differs: no initramfs; /init is init/user_init.py's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.common import ret_from_fork
from glasskernel.arch.x86.entry.fault import idt_page_fault
from glasskernel.arch.x86.entry.idt import vector
from glasskernel.arch.x86.entry.irq import init_IRQ
from glasskernel.arch.x86.entry.oops import KernelPanic, dump_stack, panic
from glasskernel.arch.x86.entry.ptrace import arch_ptrace, ptrace_disable
from glasskernel.arch.x86.entry.smpboot import secondary_startup_64, smp_init
from glasskernel.arch.x86.process import ThreadStruct
from glasskernel.arch.x86.vma import init_vdso
from glasskernel.block.blk_core import blk_dev_init
from glasskernel.block.genhd_register import genhd_device_init
from glasskernel.block.ioctl import blkdev_ioctl
from glasskernel.drivers.base.init import driver_init
from glasskernel.drivers.block.module import block_modules_init
from glasskernel.drivers.char.hoststdio import hoststdio_init
from glasskernel.drivers.char.mem import chr_dev_init
from glasskernel.drivers.char.misc import misc_init
from glasskernel.drivers.char.random import random_init
from glasskernel.drivers.pnp import pnp_init
from glasskernel.drivers.rtc.probe import cmos_init
from glasskernel.drivers.scsi.mdisk import mdisk_init
from glasskernel.drivers.tty.core import tty_init
from glasskernel.fs.binfmt_elf import init_elf_binfmt
from glasskernel.fs.binfmt_script import init_script_binfmt
from glasskernel.fs.block_dev import bdev_cache_init
from glasskernel.fs.buffer import buffer_init
from glasskernel.fs.char_dev import chrdev_init
from glasskernel.fs.debugfs.inode import debugfs_create_dir, debugfs_init
from glasskernel.fs.devtmpfs import devtmpfs_init, devtmpfs_populate
from glasskernel.fs.exec import exec_init
from glasskernel.fs.ext4.module import ext4_init_fs
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.fs_writeback import fs_writeback_init, wakeup_flusher_threads
from glasskernel.fs.hostfs.hostfs_kern import hostfs_init
from glasskernel.fs.namespace import vfs_caches_init
from glasskernel.fs.overlayfs.super import overlayfs_init
from glasskernel.fs.proc.internal import filled_proc
from glasskernel.fs.proc.root import proc_root_init
from glasskernel.fs.super import kill_litter_super
from glasskernel.fs.sysfs.kobject import kobject_create_and_add, sysfs_tree_init
from glasskernel.fs.sysfs.mount import sysfs_init
from glasskernel.fs.tracefs.inode import tracefs_init
from glasskernel.fs.types import FS_USERNS_MOUNT, FileSystemType
from glasskernel.init.command import KernelStopped
from glasskernel.init.do_mounts import prepare_namespace
from glasskernel.init.sys_call_table import fill_tables
from glasskernel.init.user_init import open_init, run_init_process
from glasskernel.ipc.module import init_mqueue_fs
from glasskernel.ipc.util import ipc_init
from glasskernel.kernel.cgroup.module import cgroup_module_init
from glasskernel.kernel.cred import cred_init
from glasskernel.kernel.current import current, register
from glasskernel.kernel.events.sysfs import perf_event_sysfs_init
from glasskernel.kernel.fork import CLONE_FILES, CLONE_FS, fork_init, kernel_thread
from glasskernel.kernel.futex import futex_init
from glasskernel.kernel.kthread import kthreadd
from glasskernel.kernel.pid import Pid, find_task_by_vpid, pid_init
from glasskernel.kernel.printk import log_init
from glasskernel.kernel.rcu.tree import rcu_init, rcu_spawn_gp_kthread
from glasskernel.kernel.rseq import rseq_handle_notify_resume
from glasskernel.kernel.sched.autogroup import setup_autogroup
from glasskernel.kernel.sched.core import init_idle, sched_init, sched_init_smp
from glasskernel.kernel.sched.idle import cpu_startup_entry
from glasskernel.kernel.sched.preempt import setup_preempt_mode
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.softirq import softirq_init, spawn_ksoftirqd
from glasskernel.kernel.stop_machine import cpu_stop_init
from glasskernel.kernel.task import PF_KTHREAD, FilesStruct, SighandStruct, SignalStruct, TaskStruct
from glasskernel.kernel.time.tick import tick_init
from glasskernel.kernel.time.timekeeping import time_init
from glasskernel.kernel.workqueue import workqueue_init, workqueue_init_early
from glasskernel.lib.types import notrace
from glasskernel.mm.backing_dev import default_bdi_init
from glasskernel.mm.kswapd import kswapd_init
from glasskernel.mm.mmap import mmdrop
from glasskernel.mm.page_alloc import mem_init
from glasskernel.mm.pagemap import pagecache_init
from glasskernel.mm.shmem import shmem_init, shmem_zero_setup
from glasskernel.mm.slab_common import kmem_cache_init
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free
from glasskernel.mm.util import init_admin_reserve, init_user_reserve
from glasskernel.mm.vmalloc import vmalloc_init

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.block.blk_types import BlockDevice, HdStruct
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.sysfs.kobject import Kobject
    from glasskernel.fs.types import Dentry, File
    from glasskernel.init.command import Command
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cpu import CpuhpState
    from glasskernel.kernel.trace.trace import TraceState
    from glasskernel.mm.huge_types import HugetlbState, ThpState
    from glasskernel.mm.page_alloc import PglistData
    from glasskernel.net.types import NetState

LINUX_BANNER = (
    "Linux version 5.3.0-glasskernel (glasskernel@localhost) (Python) #1 SMP Sun Sep 15 20:00:00 UTC 2019"
)
_SMP_WORDS = ("nosmp", "maxcpus=", "nr_cpus=", "noapic", "nolapic", "disableapic")


def start_kernel(kernel: Kernel) -> None:
    """Boots: afterwards PID 1 waits for programs. Called once, by Kernel()."""
    machine = kernel.machine
    connect_rooms(kernel)
    log_init(kernel)
    early_params(kernel)
    mem_init(kernel, numa_init(kernel))
    init_user_reserve(kernel)
    init_admin_reserve(kernel)
    time_init(kernel)
    sched_init(kernel)
    setup_preempt_mode(kernel, kernel.params.cmdline)
    setup_autogroup(kernel, kernel.params.cmdline)
    kernel.sched.mmdrop = mmdrop
    pid_init(kernel)
    boot_tasks(kernel)
    kmem_cache_init(kernel)
    vmalloc_init(kernel)
    kernel.printk(LINUX_BANNER, 5)
    kernel.printk(f"Command line: {kernel.params.cmdline}")
    print_memory(kernel)
    kernel.printk(f"smpboot: Allowing {len(machine.cpus)} CPUs, 0 hotplug CPUs")
    init_IRQ(kernel)
    softirq_init(kernel)
    rcu_init(kernel)
    workqueue_init_early(kernel)
    fork_init(kernel, kernel.mem.totalram_pages)
    futex_init(kernel)
    tick_init(kernel)
    pagecache_init(kernel)
    default_bdi_init(kernel)
    early_security_init(kernel)
    blk_dev_init(kernel)
    fs_writeback_init(kernel)
    buffer_init(kernel)
    vfs_caches_init(kernel)
    bdev_cache_init(kernel)
    kernel.vfs.blkdev_ioctl = blkdev_ioctl
    kernel.block.blk_trace_ioctl = blk_trace_ioctl
    kernel.block.blk_trace_attr = blk_trace_attr
    shmem_init(kernel)
    init_vdso(kernel)
    exec_init(kernel)
    for init in (
        init_elf_binfmt,
        init_script_binfmt,
        ipc_init,
        proc_root_init,
        sysfs_tree_init,
        sysfs_init,
        cgroup_module_init,
        tracefs_init,
        debugfs_init,
        debug_pagetables_init,
        chrdev_init,
        devtmpfs_init,
        driver_init,
        perf_event_sysfs_init,
        genhd_device_init,
        misc_init,
        block_modules_init,
        chr_dev_init,
        random_init,
        cmos_init,
        pnp_init,
        tty_init,
        hoststdio_init,
        hostfs_init,
        overlayfs_init,
        ext4_init_fs,
        init_mqueue_fs,
        bpf_init,
        init_hugetlbfs_fs,
    ):
        init(kernel)
    if kernel.disable_apic:
        from glasskernel.arch.x86.entry.apic_setup import setup_default_timer_irq

        setup_default_timer_irq(kernel)
    kernel.proc.fill = lambda: proc_fill(kernel)
    rest_init(kernel)


@notrace
def connect_rooms(kernel: Kernel) -> None:
    """The few calls upwards: a lower room finds its upper neighbour here."""
    kernel.idt_page_fault = idt_page_fault
    kernel.ret_from_fork = ret_from_fork
    kernel.arch_ptrace = arch_ptrace
    kernel.ptrace_disable = ptrace_disable
    kernel.fget = fget
    kernel.kmem_cache_alloc = kmem_cache_alloc
    kernel.kmem_cache_free = kmem_cache_free
    kernel.fput = fput
    kernel.shmem_zero_setup = shmem_zero_setup
    kernel.hugetlb_init = lambda: hugetlb_init(kernel)
    kernel.hugetlb_file_setup = lambda *arguments: hugetlb_file_setup(kernel, *arguments)
    kernel.thp_init = lambda: thp_init(kernel)
    kernel.hugepage_init_sysfs = hugepage_init_sysfs
    kernel.alloc_pages_slowpath = first_alloc_pages_slowpath
    kernel.balance_pgdat = first_balance_pgdat
    kernel.wakeup_flusher_threads = lambda reason: wakeup_flusher_threads(kernel, reason)
    kernel.panic = lambda text: panic(kernel, text)
    kernel.dump_stack = lambda: dump_stack(kernel)
    kernel.out_of_memory = lambda gfp, order, nodemask: out_of_memory(kernel, gfp, order, nodemask)
    kernel.send_sig = send_sig
    kernel.notify_resume = rseq_handle_notify_resume
    kernel.cpu_hotplug = lambda: cpu_hotplug(kernel)
    kernel.tracer_init_tracefs = lambda: tracer_init_tracefs(kernel)
    kernel.trace_init = lambda: trace_init(kernel)
    kernel.start_network = lambda: start_network(kernel)
    kernel.netdev_kobject_init = lambda: netdev_kobject_init(kernel)
    kernel.machine.vector = vector
    kernel.machine.on_turn = on_turn
    fill_tables(kernel)


@notrace
def early_params(kernel: Kernel) -> None:
    """Words about CPUs and APICs."""
    if any(word.startswith(_SMP_WORDS) for word in kernel.params.cmdline.split()):
        from glasskernel.arch.x86.entry.apic_setup import early_smp_params

        early_smp_params(kernel)


@notrace
def numa_init(kernel: Kernel) -> Callable[[Kernel], None] | None:
    """Who makes the nodes of memory, if there are, or shall be, several."""
    if kernel.machine.nodes == 1 and "numa=" not in kernel.params.cmdline:
        return None
    from glasskernel.arch.x86.mm.numa import initmem_init

    return initmem_init


def bpf_init(kernel: Kernel) -> None:
    """The file system of BPF objects, and where it is usually mounted."""
    register_filesystem(kernel, FileSystemType(b"bpf", bpf_mount, kill_litter_super, FS_USERNS_MOUNT))
    kobject_create_and_add(b"bpf", kernel.sysfs.fs_kobj)


def bpf_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount(): only now BPF is imported."""
    from glasskernel.kernel.bpf.inode import bpf_get_tree

    return bpf_get_tree(kernel, fs_type, flags, data)


@notrace
def early_security_init(kernel: Kernel) -> None:
    """Security modules are imported when the command line names one."""
    if any(word.startswith(("security=", "lsm=")) for word in kernel.params.cmdline.split()):
        from glasskernel.security.security import security_init

        security_init(kernel)


@notrace
def debug_pagetables_init(kernel: Kernel) -> None:
    """/sys/kernel/debug/page_tables, for the first who looks."""
    def fill(node: TreeNode) -> None:
        from glasskernel.arch.x86.mm.debug_pagetables import pt_dump_debug_init

        pt_dump_debug_init(kernel, node)

    debugfs_create_dir(kernel, "page_tables").fill = fill


@notrace
def trace_init(kernel: Kernel) -> TraceState:
    """Somebody wants kernel.tracing for the first time. Not to see how /proc is filled."""
    from glasskernel.kernel.trace.init import trace_init

    filled_proc(kernel)
    return trace_init(kernel)


@notrace
def proc_fill(kernel: Kernel) -> None:
    """Somebody looks into /proc for the first time."""
    from glasskernel.init.proc import proc_fill

    proc_fill(kernel)


@notrace
def start_network(kernel: Kernel) -> NetState:
    """Somebody looks at network devices or into /proc/net."""
    from glasskernel.net.init import start_network

    return start_network(kernel)


@notrace
def hugetlb_init(kernel: Kernel) -> HugetlbState:
    """Somebody wants huge pages, or looks at how many there are."""
    from glasskernel.fs.hugetlbfs.setup import hugetlb_init

    return hugetlb_init(kernel)


@notrace
def hugetlb_file_setup(kernel: Kernel, name: bytes, size: int, acctflag: int, creat_flags: int, log: int) -> File:
    """MAP_HUGETLB and its relatives."""
    from glasskernel.fs.hugetlbfs.setup import hugetlb_file_setup

    return hugetlb_file_setup(kernel, name, size, acctflag, creat_flags, log)


@notrace
def hugetlbfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    from glasskernel.fs.hugetlbfs.inode import hugetlbfs_mount

    kernel.hugetlb_init()
    return hugetlbfs_mount(kernel, fs_type, flags, dev_name, data)


def init_hugetlbfs_fs(kernel: Kernel) -> None:
    """The type is known from boot on, imported when somebody mounts it. hugepages=N fills the pool. Context: boot."""
    register_filesystem(kernel, FileSystemType(b"hugetlbfs", hugetlbfs_mount, kill_litter_super))
    for word in kernel.params.cmdline.split():
        if word.startswith("hugepages=") and word[10:].isdecimal():
            from glasskernel.mm.hugetlb import set_max_huge_pages

            set_max_huge_pages(kernel.hugetlb_init(), int(word[10:]))


@notrace
def hugepage_init_sysfs(mm_kobj: Kobject) -> None:
    """Somebody looks into /sys/kernel/mm."""
    from glasskernel.mm.hugepage_sysfs import hugepage_init_sysfs

    hugepage_init_sysfs(mm_kobj)


@notrace
def thp_init(kernel: Kernel) -> ThpState:
    """Somebody wants transparent huge pages."""
    from glasskernel.mm.khugepaged import thp_init

    return thp_init(kernel)


@notrace
def first_alloc_pages_slowpath(kernel: Kernel, gfp: int, order: int, preferred_nid: int, nodemask: int | None) -> int:
    """Memory is short for the first time: only now reclaim is imported."""
    from glasskernel.mm.page_alloc_slow import __alloc_pages_slowpath

    kernel.alloc_pages_slowpath = __alloc_pages_slowpath
    return __alloc_pages_slowpath(kernel, gfp, order, preferred_nid, nodemask)


@notrace
def first_balance_pgdat(pgdat: PglistData, order: int, classzone_idx: int) -> int:
    """kswapd was woken for the first time."""
    from glasskernel.mm.vmscan import balance_pgdat

    current().kernel.balance_pgdat = balance_pgdat
    return balance_pgdat(pgdat, order, classzone_idx)


@notrace
def cpu_hotplug(kernel: Kernel) -> CpuhpState:
    """Somebody looks at a CPU's hotplug state, or changes it."""
    from glasskernel.init.cpuhp import cpu_hotplug

    return cpu_hotplug(kernel)


@notrace
def out_of_memory(kernel: Kernel, gfp: int, order: int, nodemask: int | None) -> bool:
    """Reclaim found nothing. False: nobody can be killed."""
    from glasskernel.mm.oom_kill import out_of_memory

    return out_of_memory(kernel, gfp, order, nodemask)


@notrace
def netdev_kobject_init(kernel: Kernel) -> None:
    """Somebody looks into /sys/class/net."""
    from glasskernel.net.core.net_sysfs import netdev_kobject_init

    netdev_kobject_init(kernel)


@notrace
def tracer_init_tracefs(kernel: Kernel) -> None:
    """Somebody looks into tracefs for the first time: only now tracing is imported."""
    from glasskernel.kernel.trace.init import tracer_init_tracefs

    tracer_init_tracefs(kernel)


@notrace
def blk_trace_ioctl(bdev: BlockDevice, cmd: int, arg: int) -> int:
    """Somebody traces a disk: only now blktrace is imported."""
    from glasskernel.kernel.trace.blktrace import blk_trace_ioctl

    return blk_trace_ioctl(bdev, cmd, arg)


@notrace
def blk_trace_attr(part: HdStruct, name: str, text: bytes | None) -> bytes:
    """Somebody looks into /sys/block/NAME/trace."""
    from glasskernel.kernel.trace.blk_tracer import blk_trace_attr

    return blk_trace_attr(part, name, text)


@notrace
def on_turn(cpu: object) -> None:
    task: TaskStruct = cpu.task  # type: ignore[attr-defined]
    register.task = task
    register.preempt_points = task.kernel.sched.preempt_dynamic_mode


@notrace
def boot_tasks(kernel: Kernel) -> None:
    """The boot task, which becomes the first CPU's idle task, and the idle tasks of the others (pid 0, INIT_TASK)."""
    nobody = Pid(0)
    for cpu in kernel.machine.cpus:
        idle = TaskStruct(kernel, 0, 0, b"swapper/%d" % cpu.id)
        idle.flags = PF_KTHREAD
        idle.group_leader = idle.real_parent = idle.parent = idle
        idle.signal = SignalStruct(idle, [idle], pgrp=nobody, session=nobody, wait_chldexit=WaitQueueHead())
        idle.sighand = SighandStruct()
        idle.files = FilesStruct()
        idle.thread_pid = nobody
        kernel.pids.idle_tasks.append(idle)
        if cpu.id == 0:
            register.task = idle
            cred_init(kernel)
        idle.cred = idle.real_cred = register.task.cred
        init_idle(idle, cpu.id)
        idle.thread = ThreadStruct(kernel.machine.engine.new_context())
        idle.stack = cpu.stack = kernel.machine.new_stack(secondary_startup_64 if cpu.id else cpu_startup_entry)


@notrace
def print_memory(kernel: Kernel) -> None:
    """The lines of dmesg about memory: the zones' ranges and what is available."""
    mem = kernel.mem
    kernel.printk("Zone ranges:")
    for idx in range(mem.nr_zones):
        zones = [zone for zone in mem.zones if zone.idx == idx]          # of all nodes
        first, last = zones[0].start_pfn << 12, (zones[-1].end_pfn << 12) - 1
        kernel.printk(f"  {zones[0].name:<8} [mem {first:#018x}-{last:#018x}]")
    total = mem.max_pfn * 4
    available = mem.totalram_pages * 4
    kernel.printk(f"Memory: {available}K/{total}K available ({total - available}K reserved)")


def rest_init(kernel: Kernel) -> None:
    """Starts PID 1 and kthreadd (PID 2); the boot task becomes the idle task of CPU 0."""
    pid = kernel_thread(kernel_init, kernel, CLONE_FS)
    kernel.pids.child_reaper = find_task_by_vpid(pid)
    pid = kernel_thread(kthreadd, None, CLONE_FS | CLONE_FILES)
    kernel.sched.kthreadd_task = find_task_by_vpid(pid)
    cpu = kernel.machine.cpus[0]
    cpu.halted = False
    kernel.machine.run()                    # until PID 1 waits for its first program


def kernel_init(kernel: Kernel) -> int:
    """PID 1."""
    current().comm = b"init"
    smp_init(kernel)
    sched_init_smp(kernel)
    cpu_stop_init(kernel)
    spawn_ksoftirqd(kernel)
    rcu_spawn_gp_kthread(kernel)
    workqueue_init(kernel)
    kswapd_init(kernel)
    init_fd = open_init()
    if kernel.params.disks:
        mdisk_init(kernel)
    prepare_namespace(kernel)
    devtmpfs_populate(kernel)
    run_init_process(kernel, init_fd)
    return 0


@notrace
def run_command(kernel: Kernel, command: Command) -> None:
    """Hands a program to PID 1 and lets the machine run until it is done. Raises KernelStopped."""
    previous = getattr(register, "task", None)
    machine = kernel.machine
    try:
        register.task = machine.this_cpu.task
        kernel.commands.append(command)
        wake_up(kernel.init_wait)
        machine.run()
    except KernelPanic as panic:
        raise KernelStopped(f"kernel panic: {panic}\n{kernel.oopses[-1] if kernel.oopses else ''}") from panic
    finally:
        if previous is not None:
            register.task = previous
    if kernel.commands:
        raise KernelStopped("the program cannot end: every task waits for something that never comes")


@notrace
def shut_down(kernel: Kernel) -> None:
    """Lets PID 1 store everything and make the disks read-only. Raises KernelStopped."""
    previous = getattr(register, "task", None)
    machine = kernel.machine
    if kernel.commands:
        raise KernelStopped("the machine has stopped with a program in it: its disks are as they are")
    try:
        register.task = machine.this_cpu.task
        kernel.shutting_down = True
        wake_up(kernel.init_wait)
        machine.run()
    except KernelPanic as panic:
        raise KernelStopped(f"kernel panic: {panic}") from panic
    finally:
        if previous is not None:
            register.task = previous
    if kernel.shutting_down:
        raise KernelStopped("the disks cannot be stored: something waits for what never comes")
