"""cgroups as a module: known from boot on, imported by the first mount, or the first look into /proc/cgroups.

Linux: the end of cgroup_init() in kernel/cgroup/cgroup.c (5.3): it registers cgroup, cgroup2 and cpuset, and makes
    /sys/fs/cgroup and /proc/cgroups.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.proc.generic import proc_create_single_data
from glasskernel.fs.seq_file import seq_puts
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.fs.types import FileSystemType
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, Mount, Path, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


@notrace
@may_sleep
def cgroup1_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount(). Raises EINVAL, EBUSY."""
    from glasskernel.kernel.cgroup.cgroup_v1 import cgroup1_get_tree

    return cgroup1_get_tree(kernel, fs_type, flags, data)


@notrace
@may_sleep
def cgroup2_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount(). Raises EINVAL."""
    from glasskernel.kernel.cgroup.cgroup_dfl import cgroup_get_tree

    return cgroup_get_tree(kernel, fs_type, flags, data)


@notrace
@may_sleep
def cpuset_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """The file system of before there were cgroups: cgroup with these options. Raises EBUSY."""
    return cgroup1_mount(kernel, cgroup_fs_type, flags, dev_name,
                         b"cpuset,noprefix,release_agent=/sbin/cpuset_release_agent")


@notrace
@may_sleep
def kill_sb(sb: SuperBlock) -> None:
    from glasskernel.kernel.cgroup.cgroup import cgroup_kill_sb

    cgroup_kill_sb(sb)


@notrace
@may_sleep
def automount(path: Path) -> Mount | None:
    """Somebody looks into /sys/fs/cgroup."""
    from glasskernel.kernel.cgroup.automount import cgroup_automount
    from glasskernel.kernel.cgroup.cgroup import cgroup_init

    kernel = path.dentry.d_sb.kernel
    if kernel.cgroup is None:
        cgroup_init(kernel)
    return cgroup_automount(path)


@notrace
def cgroup_show(m: SeqFile, v: Any) -> int | None:
    """/proc/cgroups (proc_cgroupstats_show)"""
    from glasskernel.kernel.cgroup.cgroup import cgroup_init, proc_cgroupstats_show

    kernel: Kernel = m.private
    seq_puts(m, proc_cgroupstats_show(kernel.cgroup or cgroup_init(kernel)))
    return None


@notrace
def show_task_cgroups(task: TaskStruct) -> bytes:
    """The text of /proc/PID/cgroup: nothing while no hierarchy was mounted."""
    state = task.kernel.cgroup
    if state is None:
        return b""
    from glasskernel.kernel.cgroup.cgroup import proc_cgroup_show

    return proc_cgroup_show(state, task)


@notrace
def show_task_cpuset(task: TaskStruct) -> bytes:
    """The text of /proc/PID/cpuset."""
    if task.kernel.cgroup is None:
        return b"/\n"
    from glasskernel.kernel.cgroup.cpuset import proc_cpuset_show

    return proc_cpuset_show(task)


cgroup_fs_type = FileSystemType(b"cgroup", cgroup1_mount, kill_sb)
cgroup2_fs_type = FileSystemType(b"cgroup2", cgroup2_mount, kill_sb)
cpuset_fs_type = FileSystemType(b"cpuset", cpuset_mount, kill_sb)


@notrace
def cgroup_module_init(kernel: Kernel) -> None:
    """Context: boot."""
    register_filesystem(kernel, cgroup_fs_type)
    register_filesystem(kernel, cgroup2_fs_type)
    register_filesystem(kernel, cpuset_fs_type)
    kobject_create_and_add(b"cgroup", kernel.sysfs.fs_kobj).sd.automount = automount
    proc_create_single_data(kernel, b"cgroups", 0o444, None, cgroup_show, kernel)
    kernel.show_task_cgroups = show_task_cgroups
    kernel.show_task_cpuset = show_task_cpuset
