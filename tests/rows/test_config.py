"""/proc/config.gz and /boot/config tell the truth: each option is compared with what exists."""
from __future__ import annotations

import gzip
import os

import glasskernel
from glasskernel.kernel.configs import OPTIONS, config_options
from glasskernel.lib.syscalls import DECLARED

PACKAGE = os.path.dirname(glasskernel.__file__)
SYSTEM_CALLS = {                                   # one call that only exists with the option
    "SYSVIPC": "semget", "POSIX_MQUEUE": "mq_open", "CROSS_MEMORY_ATTACH": "process_vm_readv", "SWAP": "swapon",
    "BSD_PROCESS_ACCT": "acct", "FHANDLE": "open_by_handle_at", "POSIX_TIMERS": "timer_create", "FUTEX": "futex",
    "EPOLL": "epoll_create1", "SIGNALFD": "signalfd4", "TIMERFD": "timerfd_create", "EVENTFD": "eventfd2",
    "AIO": "io_setup", "IO_URING": "io_uring_setup", "ADVISE_SYSCALLS": "madvise", "MEMBARRIER": "membarrier",
    "BPF_SYSCALL": "bpf", "USERFAULTFD": "userfaultfd", "RSEQ": "rseq", "PERF_EVENTS": "perf_event_open",
    "MODULES": "init_module", "KEXEC": "kexec_load", "INOTIFY_USER": "inotify_init1",
    "FANOTIFY": "fanotify_init", "QUOTA": "quotactl", "MEMFD_CREATE": "memfd_create", "KEYS": "add_key", "NET": "socket",
    "MULTIUSER": "setgroups",
}
FILE_SYSTEMS = {"EXT4_FS": "ext4", "FUSE_FS": "fuse", "OVERLAY_FS": "overlay", "PROC_FS": "proc", "SYSFS": "sysfs",
                "TMPFS": "tmpfs", "DEBUG_FS": "debugfs", "DEVTMPFS": "devtmpfs", "HOSTFS": "hostfs", "HUGETLBFS": "hugetlbfs",
                "POSIX_MQUEUE": "mqueue", "CGROUPS": "cgroup", "TRACING": "tracefs", "UNIX98_PTYS": "devpts"}
FILES = {
    "SYSVIPC": "/proc/sysvipc/sem", "SYSVIPC_SYSCTL": "/proc/sys/kernel/shmmax", "SWAP": "/proc/swaps",
    "IKCONFIG_PROC": "/proc/config.gz", "KALLSYMS": "/proc/kallsyms", "MODULES": "/proc/modules", "TTY": "/dev/tty",
    "PROC_PAGE_MONITOR": "/proc/self/pagemap", "NUMA": "/proc/self/numa_maps", "PSI": "/proc/pressure/cpu",
    "DEVMEM": "/dev/mem", "VT": "/dev/tty1", "BLK_DEV_LOOP": "/dev/loop0",
    "SCHEDSTATS": "/proc/schedstat", "SLUB": "/proc/slabinfo", "KEYS": "/proc/keys",
    "TASK_IO_ACCOUNTING": "/proc/self/io", "ELF_CORE": "/proc/sys/kernel/core_pattern", "RTC_CLASS": "/dev/rtc0",
    "FUNCTION_PROFILER": "/sys/kernel/tracing/function_profile_enabled", "KPROBE_EVENTS": "/sys/kernel/tracing/kprobe_events",
    "UPROBE_EVENTS": "/sys/kernel/tracing/uprobe_events", "FTRACE_SYSCALLS": "/sys/kernel/tracing/events/syscalls",
    "UTS_NS": "/proc/self/ns/uts", "NET_NS": "/proc/self/ns/net", "PID_NS": "/proc/self/ns/pid", "DMI": "/sys/firmware/dmi",
    "PROC_PID_CPUSET": "/proc/self/cpuset",
}
NOT_A_SIGN = {"PID_NS", "NET_NS", "SWAP"}          # they exist without the option


def exists(module):
    path = os.path.join(PACKAGE, *module.split("."))
    return os.path.exists(path + ".py") or os.path.isdir(path)


def test_proc_config_gz_and_boot_config_are_one_text(boot):
    kernel = boot()
    result = kernel.run(["sh", "-c", "zcat /proc/config.gz; echo =; cat /boot/config-$(uname -r); stat -c %s /proc/config.gz; wc -c < /proc/config.gz"])
    compressed, _, rest = result.stdout.decode().partition("=\n#")
    first, last = rest.split("\n")[-3:-1]
    assert "#" + rest[: -len(first + last) - 2] == compressed
    assert first == last != "0"
    assert kernel.run(["cat", "/proc/config.gz"]).stdout == gzip.compress(compressed.encode(), mtime=0)


def test_zgrep_finds_the_options_of_a_pc(run):
    found = run("zgrep CONFIG_ /proc/config.gz; grep CONFIG_64BIT /boot/config-`uname -r` | more").stdout.decode().split("\n")
    for line in ("CONFIG_X86_64=y", "CONFIG_HZ=250", "CONFIG_PREEMPT_NONE=y", "CONFIG_FTRACE=y", "CONFIG_EXT4_FS=y",
                 "CONFIG_64BIT=y", "# CONFIG_MEMCG is not set", 'CONFIG_LOCALVERSION="-glasskernel"'):
        assert line in found


def test_every_option_names_the_module_that_makes_it_true(boot):
    options = config_options(boot())
    for line in OPTIONS.splitlines():
        if line.startswith("#"):
            continue
        name, _, module = line.split()
        if module != "-":
            assert exists(module) == (options[name] != "n"), line


def test_options_agree_with_the_system_calls(boot):
    options = config_options(boot())
    for name, call in SYSTEM_CALLS.items():
        assert (call in DECLARED) == (options[name] == "y"), name


def test_options_agree_with_files_and_file_systems(boot):
    kernel = boot()
    options = config_options(kernel)
    lines = kernel.run(["cat", "/proc/filesystems"]).stdout.decode().splitlines()
    types = {line.split()[-1] for line in lines}
    for name, kind in FILE_SYSTEMS.items():
        assert (kind in types) == (options[name] == "y"), name
    seen = kernel.run(["sh", "-c", "for f; do test -e $f; echo $?; done", "sh", *FILES.values()]).stdout.split()
    for (name, path), status in zip(FILES.items(), seen, strict=True):
        if name not in NOT_A_SIGN:
            assert (status == b"0") == (options[name] == "y"), (name, path)
