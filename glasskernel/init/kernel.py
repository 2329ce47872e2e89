"""Kernel: one machine with one Linux on it. The object that all state hangs off, and the Python API.

Owns: the state object of every room (made by that room's init function, in init/main.py's boot order), and the
few functions of upper rooms that lower ones call (they are set there too).
"""
from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES
from glasskernel.init.command import BootParams, Command, Device, KernelStopped, Result, Share, result_of
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.sysctl import Sysctl
from glasskernel.kernel.tracepoint import Tracepoints
from glasskernel.machine.console import Console, HostStream, MemoryStream
from glasskernel.machine.disk import Disk
from glasskernel.machine.machine import Machine

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice, BlockState, Gendisk
    from glasskernel.drivers.acpi.event import AcpiState
    from glasskernel.drivers.char.misc import MiscState
    from glasskernel.drivers.char.random import RandomState
    from glasskernel.drivers.clocksource.i8253 import I8253State
    from glasskernel.drivers.input.serio.i8042 import I8042State
    from glasskernel.drivers.rtc.types import RtcDevice
    from glasskernel.drivers.tty.types import TtyState
    from glasskernel.fs.buffer_io import BufferState
    from glasskernel.fs.char_dev import ChrdevState
    from glasskernel.fs.exec import LinuxBinfmt
    from glasskernel.fs.hostfs.hostfs_kern import HostfsState
    from glasskernel.fs.mount import VfsState
    from glasskernel.fs.proc.internal import ProcState
    from glasskernel.fs.simple_tree import Tree
    from glasskernel.fs.sysfs.kobject import Kobject, SysfsState
    from glasskernel.fs.types import File, Mount, SuperBlock
    from glasskernel.ipc.util import IpcState
    from glasskernel.kernel.acct import BsdAcct
    from glasskernel.kernel.audit import AuditState
    from glasskernel.kernel.bpf.objects import BpfState
    from glasskernel.kernel.cgroup.types import CgroupState
    from glasskernel.kernel.cpu import CpuhpState
    from glasskernel.kernel.events.types import PerfState
    from glasskernel.kernel.events.uprobes import UprobesState
    from glasskernel.kernel.futex import FutexState
    from glasskernel.kernel.irq.irqdesc import IrqState
    from glasskernel.kernel.pid import PidState
    from glasskernel.kernel.printk import LogState
    from glasskernel.kernel.rcu.rcu import RcuState
    from glasskernel.kernel.sched.types import SchedState
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.time.types import TimeState
    from glasskernel.kernel.trace.ftrace import FtraceState
    from glasskernel.kernel.trace.trace import TraceState
    from glasskernel.kernel.workqueue import WorkqueueState
    from glasskernel.lib.syscalls import SyscallHandler
    from glasskernel.mm.backing_dev import WritebackState
    from glasskernel.mm.huge_types import HugetlbState, ThpState
    from glasskernel.mm.page_alloc import MemState, PglistData
    from glasskernel.mm.pagemap import FilemapState
    from glasskernel.mm.slab_types import KmemCache, SlabState
    from glasskernel.mm.swap_types import SwapState
    from glasskernel.mm.types import MmStruct, VmAreaStruct
    from glasskernel.mm.vmalloc import VmallocState
    from glasskernel.net.ipv4.types import InetState
    from glasskernel.net.types import NetState
    from glasskernel.security.keys.types import KeysState
    from glasskernel.security.lsm_hooks import SecurityHookHeads
    from glasskernel.security.security import Security
    from glasskernel.security.selinux.types import SelinuxState

MIN_MEMORY = 16 << 20
MIN_NODE_MEMORY = 32 << 20             # FAKE_NODE_MIN_SIZE
__all__ = ["Command", "Kernel", "KernelStopped", "Result", "Share"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Kernel:
    """A booted kernel.

    cpus: virtual CPUs (1..64). memory: bytes. seed: of everything random in the machine.
    root: a host directory to use as / (read-only underneath, writable in memory); None: the host's system
    directories. disks: sda, sdb, ... root_dev: one of them has the root file system instead.
    home_dev: one of them is mounted on /root. pace: "virtual" skips idle time, "realtime" lives through it.
    numa: nodes of memory, with the CPUs spread over them.
    Raises ValueError for a machine that cannot be built.
    """

    # rooms, in boot order
    log: LogState
    mem: MemState
    slab: SlabState
    vmalloc: VmallocState
    sched: SchedState
    pids: PidState
    futex: FutexState
    time: TimeState
    irq: IrqState
    rcu: RcuState
    workqueues: WorkqueueState
    filemap: FilemapState
    writeback: WritebackState
    ipc: IpcState
    buffers: BufferState
    block: BlockState
    formats: list[LinuxBinfmt]
    vfs: VfsState
    chrdevs: ChrdevState
    hostfs: HostfsState
    proc: ProcState
    sysfs: SysfsState
    debugfs: Tree
    tracefs: Tree
    devtmpfs: SuperBlock
    misc: MiscState
    random: RandomState
    tty: TtyState
    # functions of upper rooms that lower rooms call
    idt_page_fault: Callable[[int, int], bool]
    ret_from_fork: Callable[[Any, Any], None]
    arch_ptrace: Callable[[TaskStruct, int, int, int], int]
    ptrace_disable: Callable[[TaskStruct], None]
    fget: Callable[[int], File | None]
    kmem_cache_alloc: Callable[[KmemCache, int], int]
    kmem_cache_free: Callable[[KmemCache, int], None]
    fput: Callable[[File], None]
    shmem_zero_setup: Callable[[VmAreaStruct], None]
    hugetlb_init: Callable[[], HugetlbState]                           # fs.hugetlbfs.setup
    hugetlb_file_setup: Callable[[bytes, int, int, int, int], File]
    thp_init: Callable[[], ThpState]                                   # mm.khugepaged
    hugepage_init_sysfs: Callable[[Kobject], None]
    alloc_pages_slowpath: Callable[[Kernel, int, int, int, int | None], int]
    balance_pgdat: Callable[[PglistData, int, int], int]
    wakeup_flusher_threads: Callable[[int], None]
    out_of_memory: Callable[[int, int, int | None], bool]
    panic: Callable[[str], NoReturn]
    dump_stack: Callable[[], None]
    blk_flush_plug: Callable[[TaskStruct], None]
    rescan_partitions: Callable[[Gendisk, BlockDevice], None] | None = None
    notify_resume: Callable[[TaskStruct], None]
    send_sig: Callable[[int, TaskStruct, int], None]
    cgroup_freezing: Callable[[TaskStruct], bool] | None = None        # some tasks shall freeze: these
    show_task_cgroups: Callable[[TaskStruct], bytes]
    show_task_cpuset: Callable[[TaskStruct], bytes]
    cpu_hotplug: Callable[[], CpuhpState]                              # kernel.cpuhp, made now if need be
    tracer_init_tracefs: Callable[[], None]
    trace_init: Callable[[], TraceState]
    start_network: Callable[[], NetState]                              # net.init.start_network()
    netdev_kobject_init: Callable[[], None]                            # net.core.net_sysfs: somebody looks there
    uevent_net_broadcast: Callable[[Kobject, bytes, tuple[bytes, ...], int], None] | None = None
    exit_aio: Callable[[MmStruct], None]                               # set by the first io_setup(2)
    realtime_offset: Callable[[], int]
    uprobes: UprobesState | None = None                                # set by the first uprobe
    security_hook_heads: SecurityHookHeads                             # there while lsm is not None

    def __init__(
        self,
        *,
        cpus: int = 4,
        memory: int = 512 << 20,
        seed: int = 0,
        root: str | None = None,
        shares: Sequence[Share] = (),
        disks: Sequence[Disk] = (),
        root_dev: Device | None = None,
        home_dev: Device | None = None,
        pace: str = "virtual",
        cmdline: str = "",
        numa: int = 1,
    ) -> None:
        if not 1 <= cpus <= 64:
            raise ValueError(f"cpus must be 1 to 64, not {cpus}")
        if memory < MIN_MEMORY:
            raise ValueError(f"memory must be at least {MIN_MEMORY >> 20} MB")
        if pace not in ("virtual", "realtime"):
            raise ValueError(f"pace must be 'virtual' or 'realtime', not {pace!r}")
        if not 1 <= numa <= 64 or (numa > 1 and memory // numa < MIN_NODE_MEMORY):
            raise ValueError(f"numa must be 1 to 64 nodes of at least {MIN_NODE_MEMORY >> 20} MB, not {numa}")
        self.machine = Machine(cpus=cpus, memory=memory & ~0xFFF, seed=seed, pace=pace, nodes=numa)
        self.params = BootParams(cmdline, root=root, shares=tuple(shares), disks=tuple(disks),
                                 root_dev=root_dev, home_dev=home_dev)
        self.sysctl = Sysctl(panic_on_oops=int("oops=panic" in cmdline.split()))
        self.mm_list: dict[MmStruct, None] = {}
        self.vdso_pfns: list[int] = []
        self.mmap_slides: list[int] = []                   # mm.mmap.arch_mmap_rnd()
        self.sys_call_table: list[SyscallHandler] = []
        self.ia32_sys_call_table: dict[int, str] = {}
        self.tp = Tracepoints()
        self.tracing: TraceState | None = None               # made by the first who looks at tracing
        self.mmap_listeners: list[Callable[[VmAreaStruct], None]] = []     # perf_event_mmap(): code is mapped
        self.irq_work: list[Callable[[], None]] = []
        self.ext4: Kobject | None = None                   # /sys/fs/ext4: made by the first mount
        self.perf: PerfState | None = None                 # while there are perf events
        self.perf_state: PerfState | None = None           # made by the first perf_event_open()
        self.ftrace: FtraceState | None = None             # made by the first who wants to trace functions
        self.syscall_counts = [0] * 512
        self.enosys: dict[int, int] = {}
        self.acct: BsdAcct | None = None                   # acct(2) is on
        self.bpf: BpfState | None = None                   # made by the first bpf(2)
        self.aio_mnt: Mount | None = None                  # files of io_setup(2)'s rings: made by the first
        self.swap: SwapState | None = None                 # made by the first swapon(2)
        self.hugetlb: HugetlbState | None = None           # made by the first who wants a huge page, or looks at them
        self.thp: ThpState | None = None                   # made by the first madvise(MADV_HUGEPAGE)
        self.setup_max_cpus = 64                           # maxcpus=, nosmp: how many CPUs the boot brings up
        self.disable_apic = False                          # nolapic
        self.cpuhp: CpuhpState = None  # type: ignore[assignment]     # made by the first who takes a CPU off line
        self.keys: KeysState | None = None                 # made by the first key
        # None, unless a security module is on: security/security.py says how it is asked
        self.lsm: Security = None  # type: ignore[assignment]
        self.selinux: SelinuxState | None = None           # it is SELinux
        self.audit: AuditState | None = None               # made by a security module
        self.cgroup: CgroupState | None = None             # made by the first mount of cgroups
        self.rtc: RtcDevice | None = None                  # made by the first who uses the clock
        self.acpi: AcpiState | None = None                 # these three too: drivers/pnp.py
        self.i8042: I8042State | None = None
        self.i8253: I8253State | None = None
        self.net: NetState | None = None                   # made by the first socket: net/init.py
        self.inet: InetState | None = None                 # made by inet_init()
        self.config_gz = b""                               # /proc/config.gz: made by the first who looks
        self.closed = False
        self.oops_count = 0
        self.oopses: list[str] = []
        self.commands: list[Command] = []
        self.init_wait = WaitQueueHead()                   # where PID 1 waits for a command
        self.shutting_down = False                         # what it shall do instead
        self.boot_error = ""                               # why it could not mount a disk
        self.console = Console(self.machine)
        self.machine.console = self.console
        from glasskernel.init.main import start_kernel  # the boot order imports every room

        previous = getattr(register, "task", None)
        if previous is not None:
            del register.task                              # a CPU that has not started yet runs nothing
        collecting = gc.isenabled()
        gc.disable()                                       # a boot makes many objects and no garbage
        try:
            start_kernel(self)
        except Exception:
            if self.boot_error:
                raise ValueError(self.boot_error) from None
            raise
        finally:
            if collecting:
                gc.enable()
            if previous is not None:
                register.task = previous

    def printk(self, text: str, level: int = 6) -> None:
        """A line for the kernel's log."""
        from glasskernel.kernel.printk import printk

        printk(self, text, level)

    # ---- the Python API -----------------------------------------------------------------------------------------
    def run(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/root",
        uid: int = 0,
        gid: int = 0,
        stdin: bytes = b"",
        streams: tuple[HostStream, HostStream, HostStream] | None = None,
    ) -> Result:
        """Runs a program as a child of PID 1 until it ends; what it left running is then killed.

        env: None gives PATH and HOME only. stdin: its standard input; stdout and stderr are captured.
        streams: three HostStreams instead (nothing is captured then).
        Raises ValueError for an empty argv, KernelStopped.
        """
        from glasskernel.init.main import run_command

        if not argv:
            raise ValueError("argv is empty")
        if self.closed:
            raise ValueError("this kernel is closed")
        memory = (MemoryStream(stdin), MemoryStream(), MemoryStream())
        environment = dict(env) if env is not None else {"PATH": DEFAULT_PATH, "HOME": "/root"}
        command = Command(
            argv=[a if isinstance(a, bytes) else a.encode(errors="surrogateescape") for a in argv],
            envp=[f"{k}={v}".encode(errors="surrogateescape") for k, v in environment.items()],
            cwd=cwd.encode(errors="surrogateescape"), uid=uid, gid=gid, streams=streams or memory,
        )
        run_command(self, command)
        return result_of(command, memory if streams is None else None)

    def shutdown(self) -> None:
        """Everything that programs wrote to disks is stored, and their file systems are clean (and read-only now).

        Raises KernelStopped if the machine cannot do that any more.
        """
        from glasskernel.init.main import shut_down

        if not self.closed:
            shut_down(self)

    def close(self) -> None:
        """Power off for good: memory and descriptors of the host are free again. Called again, it does nothing.

        That pulls the plug: shutdown() stores first what is not on the disks yet. Leaving a `with` block does both, if
        a disk is a file. Without it, the suspended kernel stacks keep the whole Kernel alive.
        """
        from glasskernel.kernel.sched.core import release_stacks

        if self.closed:
            return
        self.closed = True
        previous = getattr(register, "task", None)
        release_stacks([*self.tasks, *self.pids.idle_tasks])
        for disk in self.params.disks:
            disk.detach()
        self.machine.close()
        for host, _policy in self.hostfs.shares.values():
            host.close()
        if previous is not None and previous.kernel is self:
            del register.task

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            if any(disk.keeps for disk in self.params.disks):
                self.shutdown()
        finally:
            self.close()

    @property
    def tasks(self) -> list[TaskStruct]:
        """Every thread, in the order of PIDs."""
        from glasskernel.kernel.pid import for_each_thread

        return list(for_each_thread(self))

    def dmesg(self) -> str:
        """The kernel's log as dmesg(1) prints it."""
        from glasskernel.kernel.printk import dmesg

        return dmesg(self)

    @property
    def now_ns(self) -> int:
        """Virtual time since power-on. Looking at it does not change the run."""
        return self.machine.peek()

    def syscall_statistics(self) -> dict[str, int]:
        """How often each system call was made, by name."""
        return {SYSCALL_NAMES.get(nr, f"#{nr}"): n for nr, n in enumerate(self.syscall_counts) if n}
