"""What this kernel was built with: /proc/config.gz, and the text of /boot/config-RELEASE.

Linux: kernel/configs.c, scripts/kconfig (5.3). Same: the text's form, gzip's, the file's mode and size.
Differs: nothing was configured: the table below says which of Linux's options describe this kernel. Each line has the
    option, its value, and the module that makes it true, or "-" for a number or what is true of the whole; of an
    option that is not set, the module that would make it true must not exist. tests/rows/test_config.py looks.
Owns: nothing.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.proc.generic import proc_create, proc_getattr, proc_notify_change
from glasskernel.fs.types import FileOperations, InodeOperations
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.types import preempt_dynamic_full, preempt_dynamic_none, preempt_dynamic_voluntary
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, Kiocb, Kstat
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

OPTIONS = """\
64BIT y -
X86_64 y arch.x86.syscalls_64
X86 y arch.x86.entry.common
MMU y mm.memory
PGTABLE_LEVELS 4 arch.x86.pgtable
# General setup
LOCALVERSION "-glasskernel" -
DEFAULT_HOSTNAME "(none)" -
SWAP y mm.swapfile
SYSVIPC y ipc.sem
SYSVIPC_SYSCTL y ipc.proc
POSIX_MQUEUE y ipc.mqueue
POSIX_MQUEUE_SYSCTL y ipc.proc
CROSS_MEMORY_ATTACH y kernel.process_vm
AUDIT y kernel.audit
# IRQ subsystem
GENERIC_IRQ_SHOW y fs.proc.stat
IRQ_FORCED_THREADING n -
SPARSE_IRQ y kernel.irq.irqdesc
# Timers subsystem
TICK_ONESHOT y kernel.time.tick_sched
NO_HZ_COMMON y kernel.time.tick_sched
NO_HZ_IDLE y kernel.time.tick_sched
NO_HZ y kernel.time.tick_sched
HIGH_RES_TIMERS y kernel.time.hrtimer
PREEMPT_NONE ? -
PREEMPT_VOLUNTARY ? -
PREEMPT ? -
PREEMPT_COUNT ? -
PREEMPTION ? -
# CPU/Task time and stats accounting
VIRT_CPU_ACCOUNTING_GEN n -
BSD_PROCESS_ACCT y kernel.acct
BSD_PROCESS_ACCT_V3 y kernel.acct
TASKSTATS n kernel.taskstats
TASK_IO_ACCOUNTING y kernel.task
PSI n kernel.sched.psi
# RCU Subsystem
TREE_RCU y kernel.rcu.tree
SRCU n kernel.rcu.srcutree
RCU_STALL_COMMON n kernel.rcu.tree_stall
RCU_FANOUT_LEAF 16 kernel.rcu.rcu
IKCONFIG y kernel.configs
IKCONFIG_PROC y kernel.configs
LOG_BUF_SHIFT ? kernel.printk
CGROUPS y kernel.cgroup.cgroup
MEMCG n mm.memcontrol
CGROUP_SCHED y kernel.cgroup.cpu
FAIR_GROUP_SCHED y kernel.sched.group
CFS_BANDWIDTH y kernel.sched.bandwidth
RT_GROUP_SCHED n -
CGROUP_PIDS y kernel.cgroup.pids
CGROUP_FREEZER y kernel.cgroup.legacy_freezer
CPUSETS y kernel.cgroup.cpuset
CGROUP_CPUACCT y kernel.cgroup.cpuacct
PROC_PID_CPUSET y kernel.cgroup.cpuset
CGROUP_DEVICE n security.device_cgroup
NAMESPACES y kernel.nsproxy
UTS_NS y kernel.nsproxy
IPC_NS n ipc.namespace
USER_NS n kernel.user_namespace
PID_NS y kernel.pid_namespace
NET_NS y net.core.net_namespace
SCHED_AUTOGROUP y kernel.sched.autogroup
RELAY y kernel.relay
BLK_DEV_INITRD n init.initramfs
MULTIUSER y kernel.groups
FHANDLE y fs.fhandle
POSIX_TIMERS y kernel.time.posix_timers
PRINTK y kernel.printk
BUG y arch.x86.entry.oops
ELF_CORE y fs.binfmt_elf_core
FUTEX y kernel.futex
FUTEX_PI y kernel.futex
EPOLL y fs.eventpoll
SIGNALFD y fs.signalfd
TIMERFD y fs.timerfd
EVENTFD y fs.eventfd
SHMEM y mm.shmem
AIO y fs.aio
IO_URING n fs.io_uring
ADVISE_SYSCALLS y mm.madvise
MEMBARRIER y kernel.membarrier
KALLSYMS y kernel.kallsyms
BPF_SYSCALL y kernel.bpf
USERFAULTFD n fs.userfaultfd
RSEQ y kernel.rseq
PERF_EVENTS y kernel.events.core
SLUB ? mm.slub
TRACEPOINTS y kernel.tracepoint
# Processor type and features
SMP y arch.x86.entry.smpboot
X86_LOCAL_APIC y arch.x86.entry.apic
X86_IO_APIC y kernel.irq.chip
X86_TSC y -
CLKEVT_I8253 y drivers.clocksource.i8253
DMI y drivers.firmware.dmi
NR_CPUS 64 -
HZ_250 y -
HZ 250 kernel.sched.types
KEXEC n kernel.kexec
HOTPLUG_CPU y kernel.cpu
X86_VSYSCALL_EMULATION y arch.x86.entry.vsyscall_64
IA32_EMULATION n -
SUSPEND n kernel.power
ACPI y drivers.acpi.tables
PCI y drivers.pci.probe
# General architecture-dependent options
KPROBES y kernel.trace.trace_kprobe
UPROBES y kernel.events.uprobes
SECCOMP y kernel.seccomp
SECCOMP_FILTER y kernel.seccomp
MODULES n kernel.module
# Block layer
BLOCK y block.blk_core
BLK_DEV_IO_TRACE y kernel.trace.blktrace
MSDOS_PARTITION y block.partitions.check
EFI_PARTITION y block.partitions.check
MQ_IOSCHED_DEADLINE y block.mq_deadline
MQ_IOSCHED_KYBER y block.kyber_iosched
IOSCHED_BFQ y block.bfq_iosched
# Executable file formats
BINFMT_ELF y fs.binfmt_elf
BINFMT_SCRIPT y fs.binfmt_script
BINFMT_MISC n fs.binfmt_misc
COREDUMP y fs.coredump
# Memory management
NUMA y mm.mempolicy
NUMA_EMU y arch.x86.mm.numa
NUMA_BALANCING n -
NODES_SHIFT 10 -
MIGRATION y mm.migrate
TRANSPARENT_HUGEPAGE y mm.huge_memory
TRANSPARENT_HUGEPAGE_MADVISE y mm.huge_memory
HUGETLBFS y fs.hugetlbfs.inode
HUGETLB_PAGE y mm.hugetlb
KSM n mm.ksm
COMPACTION n mm.compaction
NET y net.socket
PACKET y net.packet.af_packet
PACKET_DIAG y net.packet.diag
UNIX y net.unix.af_unix
UNIX_SCM y net.unix.scm
UNIX_DIAG y net.unix.diag
INET y net.ipv4.af_inet
IP_MULTICAST y net.ipv4.igmp
IP_PNP y net.ipv4.ipconfig
INET_DIAG y net.ipv4.inet_diag
INET_TCP_DIAG y net.ipv4.inet_diag
INET_DIAG_DESTROY n -
TCP_CONG_CUBIC y net.ipv4.tcp_cubic
IPV6 n net.ipv6.af_inet6
NETFILTER n net.netfilter.core
BRIDGE n net.bridge.br
VLAN_8021Q n net.8021q.vlan
NETLINK_DIAG y net.netlink.diag
# Device drivers
DEVTMPFS y fs.devtmpfs
BLK_DEV_LOOP y drivers.block.loop
BLK_DEV_RAM y drivers.block.brd
SCSI y drivers.scsi.scsi_lib
BLK_DEV_SD y drivers.scsi.sd
NETDEVICES y drivers.net.loopback
DUMMY y drivers.net.dummy
VETH y drivers.net.veth
E1000 y drivers.net.e1000.main
TTY y drivers.tty.tty_io
VT n drivers.tty.vt
UNIX98_PTYS y drivers.tty.pty
DEVMEM n -
SERIO_I8042 y drivers.input.serio.i8042
RTC_CLASS ? drivers.rtc.rtc_cmos
RTC_DRV_CMOS ? drivers.rtc.rtc_cmos
# File systems
EXT4_FS y fs.ext4.module
EXT4_USE_FOR_EXT2 n -
EXT4_FS_POSIX_ACL y fs.ext4.acl
EXT4_FS_SECURITY y fs.ext4.xattr_security
JBD2 y fs.jbd2.journal
FS_POSIX_ACL y fs.ext4.acl
FILE_LOCKING y fs.locks
FSNOTIFY y fs.fsnotify
INOTIFY_USER y fs.inotify
FANOTIFY n fs.fanotify
QUOTA n fs.quota
FUSE_FS n fs.fuse
OVERLAY_FS y fs.overlayfs.super
PROC_FS y fs.proc.root
PROC_SYSCTL y fs.proc.proc_sysctl
PROC_PAGE_MONITOR y fs.proc.task_mmu
SYSFS y fs.sysfs.mount
TMPFS y mm.shmem
TMPFS_XATTR y fs.xattr
MEMFD_CREATE y mm.memfd
HOSTFS y fs.hostfs.hostfs_kern
# Security options
KEYS ? security.keys
SECURITY y security.security
SECURITYFS y security.security_inode
SECURITY_NETWORK y security.security_net
LSM_MMAP_MIN_ADDR 65536 security.selinux.hooks_file
SECURITY_SELINUX y security.selinux.hooks
SECURITY_SELINUX_BOOTPARAM y security.selinux.hooks
SECURITY_SELINUX_DISABLE n -
SECURITY_SELINUX_DEVELOP y security.selinux.selinuxfs
SECURITY_SELINUX_AVC_STATS y security.selinux.avc
SECURITY_SELINUX_CHECKREQPROT_VALUE 0 security.selinux.types
DEFAULT_SECURITY_DAC y security.security
LSM "selinux" security.security
# Kernel hacking
DEBUG_FS y fs.debugfs.inode
X86_PTDUMP_CORE y arch.x86.mm.dump_pagetables
X86_PTDUMP y arch.x86.mm.debug_pagetables
PANIC_ON_OOPS_VALUE 0 -
SCHED_DEBUG n kernel.sched.debug
SCHEDSTATS y kernel.sched.fair
PROVE_LOCKING n kernel.locking.lockdep
TRACING y kernel.trace.trace
FTRACE y kernel.trace.ftrace
FUNCTION_TRACER y kernel.trace.trace_functions
FUNCTION_GRAPH_TRACER y kernel.trace.trace_functions_graph
DYNAMIC_FTRACE y kernel.trace.ftrace_filter
FUNCTION_PROFILER y kernel.trace.ftrace_profile
STACKTRACE y kernel.trace.stacktrace
SCHED_TRACER y kernel.trace.trace_sched_wakeup
FTRACE_SYSCALLS y kernel.trace.trace_syscalls
KPROBE_EVENTS y kernel.trace.trace_kprobe
UPROBE_EVENTS y kernel.trace.trace_uprobe
HIST_TRIGGERS y kernel.trace.trace_events_hist
"""
_PACKAGE = os.path.dirname(os.path.dirname(__file__))


@notrace
def config_options(kernel: Kernel) -> dict[str, str]:
    """Option -> value, "n" for one that is not set; "# title" -> "" in between, in the order of the text."""
    mode = kernel.sched.preempt_dynamic_mode
    full = "y" if mode == preempt_dynamic_full else "n"
    of_this_kernel = {
        "PREEMPT_NONE": "y" if mode == preempt_dynamic_none else "n",
        "PREEMPT_VOLUNTARY": "y" if mode == preempt_dynamic_voluntary else "n",
        "PREEMPT": full, "PREEMPT_COUNT": full, "PREEMPTION": full,
        "LOG_BUF_SHIFT": str(kernel.log.log_buf_len.bit_length() - 1),
    }
    options = {}
    for line in OPTIONS.splitlines():
        if line.startswith("#"):
            options[line] = ""
            continue
        name, value, where = line.split()
        if value == "?":
            value = of_this_kernel.get(name) or _built(where)
        options[name] = value
    return options


@notrace
def _built(module: str) -> str:
    """y if the module is part of this kernel."""
    path = f"{_PACKAGE}/{module.replace('.', '/')}"
    return "y" if os.path.isfile(path + ".py") or os.path.isfile(path + "/__init__.py") else "n"


@notrace
def config_text(kernel: Kernel) -> bytes:
    """The .config file."""
    lines = ["#", "# Automatically generated file; DO NOT EDIT.", "# Linux/x86 5.3.0 Kernel Configuration", "#"]
    for name, value in config_options(kernel).items():
        if not value:
            lines += ["", "#", name, "#"]
        else:
            lines.append(f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}")
    return "\n".join([*lines, ""]).encode()


@notrace
def kernel_config_data(kernel: Kernel) -> bytes:
    """The file's content, compressed: the same bytes each time."""
    if not kernel.config_gz:
        import gzip

        kernel.config_gz = gzip.compress(config_text(kernel), mtime=0)
    return kernel.config_gz


def ikconfig_read_current(iocb: Kiocb, to: IovIter) -> int:
    """->read() of /proc/config.gz"""
    return simple_read_from_buffer(to, iocb, kernel_config_data(register.task.kernel))


@notrace
def _getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """Its size, too, is only made when somebody asks."""
    inode.i_size = len(kernel_config_data(inode.i_sb.kernel))
    return proc_getattr(dentry, inode)


ikconfig_file_ops = FileOperations(read_iter=ikconfig_read_current)
_inode_operations = InodeOperations(getattr=_getattr, setattr=proc_notify_change)


def ikconfig_init(kernel: Kernel) -> None:
    """Makes the file. Needs /proc."""
    proc_create(kernel, b"config.gz", 0o444, None, ikconfig_file_ops).proc_iops = _inode_operations
