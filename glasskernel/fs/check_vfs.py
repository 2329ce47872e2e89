"""What must hold in the VFS between two programs. For tests.

Owns: nothing. Counts every reference that can be found and compares. Linux has no such file; what comes nearest
are the checks of CONFIG_DEBUG_LIST and the messages of shrink_dcache_for_umount().
"""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from glasskernel.fs.types import DCACHE_DENTRY_KILLED, DCACHE_MOUNTED, FMODE_WRITER, MNT_INTERNAL, MNT_SHARED, File
from glasskernel.kernel.pid import for_each_thread
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode, Mount, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import FilesStruct, FsStruct, TaskStruct

# File systems whose dentries nobody else holds: every reference on one is found here (unless overlayfs lies on top).
_EXACT = (b"tmpfs", b"ramfs", b"rootfs", b"proc", b"sysfs", b"devpts", b"overlay")
_PINNED = (b"tmpfs", b"ramfs", b"rootfs", b"devpts")       # a name is one reference (devtmpfs is a tmpfs of its own)


@notrace
def check_vfs(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words; [] for a sound VFS."""
    wrong: list[str] = []
    files = open_files(kernel)
    if len(files) != kernel.vfs.nr_files:
        wrong.append(f"nr_files is {kernel.vfs.nr_files}, {len(files)} open files were found")
    wrong += [f"{file!r} has f_count {file.f_count}, {found} references were found"
              for file, found in files.items() if file.f_count < found]
    wrong += check_mounts(kernel, list(files))
    wrong += check_dentries(kernel, list(files))
    wrong += check_inodes(kernel, list(files))
    if kernel.vfs.blocked_locks:
        wrong.append(f"{len(kernel.vfs.blocked_locks)} lock requests wait")
    for lock in kernel.vfs.file_locks:
        if lock.file not in files:
            wrong.append(f"a lock of inode {lock.file.f_inode!r} outlived its file")
    return wrong


@notrace
def all_tasks(kernel: Kernel) -> list[TaskStruct]:
    """Every task, idle ones included."""
    return [*kernel.pids.idle_tasks, *for_each_thread(kernel)]


@notrace
def open_files(kernel: Kernel) -> dict[File, int]:
    """Every open file that can be reached -> references found."""
    found: Counter[File] = Counter()
    tables: dict[FilesStruct, None] = {}
    for task in all_tasks(kernel):
        if task.files is not None:
            tables[task.files] = None
    for table in tables:
        found.update(file for file in table.fd if file is not None)
    for mm in kernel.mm_list:
        found.update(vma.vm_file for vma in mm.vmas.values() if vma.vm_file is not None)
        if mm.exe_file is not None:
            found[mm.exe_file] += 1
    found.update(segment.file for segment in kernel.ipc.shm.objects.values())      # System V: they outlive programs
    if kernel.acct is not None:
        found[kernel.acct.file] += 1
    if kernel.swap is not None:
        found.update(si.swap_file for si in kernel.swap.info if si.swap_file is not None)
    for file in list(found):
        if isinstance(file.private_data, File):         # overlayfs: the real file
            found[file.private_data] += 1
    return dict(found)


@notrace
def fs_structs(kernel: Kernel) -> list[FsStruct]:
    """Every fs_struct in use."""
    found: dict[FsStruct, None] = {}
    for task in all_tasks(kernel):
        if task.fs is not None:
            found[task.fs] = None
    return list(found)


@notrace
def check_mounts(kernel: Kernel, files: list[File]) -> list[str]:
    """References and places of mounts."""
    wrong = []
    vfs = kernel.vfs
    expected: Counter[Mount] = Counter()
    writers: Counter[Mount] = Counter()
    for file in files:
        expected[file.f_path.mnt] += 1
        if file.f_mode & FMODE_WRITER:
            writers[file.f_path.mnt] += 1
    for fs in fs_structs(kernel):
        expected[fs.root.mnt] += 1
        expected[fs.pwd.mnt] += 1
    acct = kernel.acct                             # its file has a mount of its own, which nobody else holds
    for number, mnt in vfs.mounts.items():
        if mnt.mnt_id != number:
            wrong.append(f"{mnt!r} is listed as {number}")
        internal = mnt.mnt_flags & MNT_INTERNAL and not (acct is not None and acct.file.f_path.mnt is mnt)
        held = mnt.mnt_ns is not None or internal or is_layer(mnt)                          # or else it is unmounted,
        refs = expected[mnt] + len(mnt.mnt_children) + (1 if held else 0)                   # and its users keep it
        if mnt.mnt_count < refs or (mnt.mnt_count > refs and mnt.mnt_sb.s_type.name in _EXACT and not is_layer(mnt)):
            wrong.append(f"{mnt!r} has mnt_count {mnt.mnt_count}, {refs} references were found")
        if mnt.mnt_writers != writers[mnt]:
            wrong.append(f"{mnt!r} has {mnt.mnt_writers} writers, {writers[mnt]} were found")
        if bool(mnt.mnt_flags & MNT_SHARED) != bool(mnt.mnt_group_id):
            wrong.append(f"{mnt!r} is shared without a group, or the reverse")
        if mnt.mnt_parent is not mnt:
            if vfs.mount_hash.get((mnt.mnt_parent, mnt.mnt_mountpoint)) is not mnt:
                wrong.append(f"{mnt!r} is not found at its place")
            if not mnt.mnt_mountpoint.d_flags & DCACHE_MOUNTED:
                wrong.append(f"the mountpoint of {mnt!r} is not marked")
            if mnt not in mnt.mnt_parent.mnt_children:
                wrong.append(f"{mnt!r} is no child of its parent")
        if mnt.mnt_ns is not None and mnt.mnt_ns.mounts.get(number) is not mnt:
            wrong.append(f"{mnt!r} is not in its namespace")
    for (_, dentry), mnt in vfs.mount_hash.items():
        if mnt.mnt_mountpoint is not dentry:
            wrong.append(f"a place of {mnt!r} is stale")
    return wrong


@notrace
def is_layer(mnt: Mount) -> bool:
    """True for what lies below rootfs: overlayfs holds references there that are not counted here."""
    return mnt.mnt_parent is not mnt and mnt.mnt_parent.mnt_sb.s_type.name == b"rootfs"


@notrace
def dentries_of(sb: SuperBlock) -> list[Dentry]:
    """Every dentry that lookups can find, the root first."""
    found = [sb.s_root] if sb.s_root is not None else []
    for dentry in found:
        found.extend(dentry.d_subdirs.values())
    return found


@notrace
def check_dentries(kernel: Kernel, files: list[File]) -> list[str]:
    """References and links of dentries."""
    wrong = []
    expected: Counter[Dentry] = Counter()
    for file in files:
        expected[file.f_path.dentry] += 1
    for fs in fs_structs(kernel):
        expected[fs.root.dentry] += 1
        expected[fs.pwd.dentry] += 1
    for mnt in kernel.vfs.mounts.values():
        expected[mnt.mnt_root] += 1
        if mnt.mnt_parent is not mnt:
            expected[mnt.mnt_mountpoint] += 1
    # unhashed dentries that are still open hold their parents
    for file in files:
        dentry = file.f_path.dentry
        if not dentry.d_hashed and dentry.d_parent is not dentry:
            expected[dentry.d_parent] += 1
    layers = [mnt.mnt_sb for mnt in kernel.vfs.mounts.values() if is_layer(mnt)]
    for sb in kernel.vfs.super_blocks:
        name = sb.s_type.name
        exact = name in _EXACT and sb not in layers
        for dentry in dentries_of(sb):
            if dentry.d_flags & DCACHE_DENTRY_KILLED or not dentry.d_hashed:
                wrong.append(f"{dentry!r} of {name.decode()} is gone but can be found")
            refs = expected[dentry] + len(dentry.d_subdirs)
            if dentry is sb.s_root:
                refs += 1
            elif name in _PINNED and dentry.d_inode is not None:
                refs += 1
            if dentry.d_count < refs or (exact and dentry.d_count != refs):
                wrong.append(f"{dentry!r} of {name.decode()} has d_count {dentry.d_count}, {refs} were found")
            inode = dentry.d_inode
            if inode is not None and dentry not in inode.i_dentry:
                wrong.append(f"{dentry!r} is no alias of its inode")
    return wrong


@notrace
def check_inodes(kernel: Kernel, files: list[File]) -> list[str]:
    """Counts of inodes."""
    wrong = []
    for sb in kernel.vfs.super_blocks:
        for number, inode in sb.s_inodes.items():
            if inode.i_ino != number or not inode.i_hashed:
                wrong.append(f"{inode!r} is hashed as {number}")
        for inode in sb.s_inode_list:
            if inode.i_count < len(inode.i_dentry):
                wrong.append(f"{inode!r} has i_count {inode.i_count} and {len(inode.i_dentry)} dentries")
    writers: Counter[Inode] = Counter(file.f_inode for file in files if file.f_mode & FMODE_WRITER)
    for inode, count in writers.items():
        if inode.i_writecount > 0 and inode.i_writecount != count:
            wrong.append(f"{inode!r} has i_writecount, {count} writers were found")
    return wrong
