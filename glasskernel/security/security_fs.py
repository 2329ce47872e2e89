"""What call sites in the file system ask the security modules.

Linux: the file, inode and super block part of security/security.c (5.3). Same: which hook is called where, in which
    order with the capability module and fsnotify_perm(). Differs: an objection is raised. Private inodes (S_PRIVATE)
    do not exist.
Owns: nothing. Context: task; what the call site holds.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.exec import path_noexec
from glasskernel.fs.fsnotify import fsnotify_perm
from glasskernel.fs.types import MAY_OPEN
from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Iattr, Inode, Mount, Path, SuperBlock
    from glasskernel.kernel.task import Cred, TaskStruct
    from glasskernel.mm.types import VmAreaStruct
    from glasskernel.security.lsm_hooks import SecurityHookHeads

PROT_READ, PROT_EXEC, READ_IMPLIES_EXEC = 1, 4, 0x0400000


@notrace
def heads() -> SecurityHookHeads:
    """security_hook_heads"""
    return register.task.kernel.security_hook_heads


# ---- super blocks and mounts -------------------------------------------------------------------------------
def security_sb_alloc(sb: SuperBlock) -> None:
    """A new super block gets its label."""
    for hook in heads().sb_alloc_security:
        hook(sb)


def security_sb_eat_lsm_opts(options: bytes) -> tuple[bytes, Any]:
    """Takes what is a module's out of mount options. Answers the rest, and what it was (None: nothing)."""
    mnt_opts: Any = None
    for hook in heads().sb_eat_lsm_opts:
        options, mnt_opts = hook(options)
    return options, mnt_opts


def security_sb_set_mnt_opts(sb: SuperBlock, mnt_opts: Any) -> None:
    """A file system was filled: how its files are labelled from now on. Raises EINVAL, EACCES."""
    for hook in heads().sb_set_mnt_opts:
        hook(sb, mnt_opts)


def security_sb_remount(sb: SuperBlock, mnt_opts: Any) -> None:
    """A remount must not change labels. Raises EINVAL."""
    for hook in heads().sb_remount:
        hook(sb, mnt_opts)


def security_sb_kern_mount(sb: SuperBlock) -> None:
    """May the caller mount this file system? Raises EACCES."""
    for hook in heads().sb_kern_mount:
        hook(sb)


def security_sb_show_options(sb: SuperBlock) -> bytes:
    """What /proc/mounts shows of the modules' options."""
    return b"".join(hook(sb) for hook in heads().sb_show_options)


def security_sb_statfs(dentry: Dentry) -> None:
    """statfs(2). Raises EACCES."""
    for hook in heads().sb_statfs:
        hook(dentry)


def security_sb_mount(path: Path, flags: int) -> None:
    """mount(2) on `path`. Raises EACCES."""
    for hook in heads().sb_mount:
        hook(path, flags)


def security_sb_umount(mnt: Mount) -> None:
    """umount(2). Raises EACCES."""
    for hook in heads().sb_umount:
        hook(mnt)


# ---- inodes ------------------------------------------------------------------------------------------------
def security_inode_alloc(inode: Inode) -> None:
    """A new inode gets room for its label. The label itself comes with the dentry, or from inode_init_security()."""
    for hook in heads().inode_alloc_security:
        hook(inode)


def security_inode_free(inode: Inode) -> None:
    """The inode goes, perhaps because its kernel does: the running task may be another one's."""
    for hook in inode.i_sb.kernel.security_hook_heads.inode_free_security:
        hook(inode)


def security_inode_init_security(inode: Inode, dir: Inode, name: bytes | None) -> list[tuple[bytes, bytes]]:
    """The attributes (name behind "security.", value) that a new file starts with; the file system stores them."""
    found = [hook(inode, dir, name) for hook in heads().inode_init_security]
    return [pair for pair in found if pair is not None]


def security_inode_create(dir: Inode, dentry: Dentry) -> None:
    """open(O_CREAT), mknod(S_IFREG). Raises EACCES, as the next ones."""
    for hook in heads().inode_create:
        hook(dir, dentry)


def security_inode_link(old_dentry: Dentry, dir: Inode) -> None:
    for hook in heads().inode_link:
        hook(old_dentry, dir)


def security_inode_unlink(dir: Inode, dentry: Dentry) -> None:
    for hook in heads().inode_unlink:
        hook(dir, dentry)


def security_inode_symlink(dir: Inode, dentry: Dentry) -> None:
    for hook in heads().inode_symlink:
        hook(dir, dentry)


def security_inode_mkdir(dir: Inode, dentry: Dentry) -> None:
    for hook in heads().inode_mkdir:
        hook(dir, dentry)


def security_inode_rmdir(dir: Inode, dentry: Dentry) -> None:
    for hook in heads().inode_rmdir:
        hook(dir, dentry)


def security_inode_mknod(dir: Inode, dentry: Dentry, mode: int) -> None:
    for hook in heads().inode_mknod:
        hook(dir, dentry, mode)


def security_inode_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry,
                          exchange: bool) -> None:
    """rename(2); an exchange is two renames."""
    if exchange:
        for hook in heads().inode_rename:
            hook(new_dir, new_dentry, old_dir, old_dentry)
    for hook in heads().inode_rename:
        hook(old_dir, old_dentry, new_dir, new_dentry)


def security_inode_readlink(dentry: Dentry) -> None:
    for hook in heads().inode_readlink:
        hook(dentry)


def security_inode_follow_link(dentry: Dentry, inode: Inode) -> None:
    """A walk goes through a symlink."""
    for hook in heads().inode_follow_link:
        hook(dentry, inode)


def security_inode_permission(inode: Inode, mask: int) -> None:
    """MAY_* of an inode, after the mode bits."""
    for hook in heads().inode_permission:
        hook(inode, mask)


def security_inode_setattr(dentry: Dentry, attr: Iattr) -> None:
    for hook in heads().inode_setattr:
        hook(dentry, attr)


def security_inode_getattr(path: Path) -> None:
    for hook in heads().inode_getattr:
        hook(path)


def security_inode_setxattr(dentry: Dentry, name: bytes, value: bytes) -> None:
    """Raises EACCES, EPERM, EINVAL (no context)."""
    for hook in heads().inode_setxattr:
        hook(dentry, name, value)


def security_inode_post_setxattr(dentry: Dentry, name: bytes, value: bytes) -> None:
    """An attribute was stored: the label in memory follows."""
    for hook in heads().inode_post_setxattr:
        hook(dentry, name, value)


def security_inode_getxattr(dentry: Dentry, name: bytes) -> None:
    for hook in heads().inode_getxattr:
        hook(dentry, name)


def security_inode_listxattr(dentry: Dentry) -> None:
    for hook in heads().inode_listxattr:
        hook(dentry)


def security_inode_removexattr(dentry: Dentry, name: bytes) -> None:
    """Raises EACCES, EPERM."""
    for hook in heads().inode_removexattr:
        hook(dentry, name)


def security_inode_getsecurity(inode: Inode, suffix: bytes) -> bytes | None:
    """The value of security.SUFFIX as the module has it in memory; None: no module knows the attribute."""
    for hook in heads().inode_getsecurity:
        value: bytes | None = hook(inode, suffix)
        if value is not None:
            return value
    return None


def security_inode_setsecurity(inode: Inode, suffix: bytes, value: bytes) -> bool:
    """Sets security.SUFFIX in memory, for a file system without attributes. False: no module knows it."""
    return any(hook(inode, suffix, value) for hook in heads().inode_setsecurity)


def security_inode_listsecurity(inode: Inode) -> list[bytes]:
    """Names of attributes that modules keep in memory."""
    return [hook(inode) for hook in heads().inode_listsecurity]


def security_dentry_create_files_as(dentry: Dentry, mode: int, old: Cred, new: Cred) -> None:
    """overlayfs makes a file in its upper layer with `new`: it gets the label that `old` would give it here."""
    for hook in heads().dentry_create_files_as:
        hook(dentry, mode, old, new)


def security_inode_copy_up(src: Dentry, new: Cred) -> None:
    """overlayfs copies a file into its upper layer with `new`: the copy gets its label."""
    for hook in heads().inode_copy_up:
        hook(src, new)


def security_inode_copy_up_xattr(name: bytes) -> bool:
    """True: the copy has this attribute already."""
    return any(hook(name) for hook in heads().inode_copy_up_xattr)


def security_d_instantiate(dentry: Dentry, inode: Inode) -> None:
    """An inode gets a name: its label can be found now."""
    for hook in heads().d_instantiate:
        hook(dentry, inode)


# ---- open files --------------------------------------------------------------------------------------------
def security_file_alloc(file: File) -> None:
    """A new struct file remembers who opened it."""
    for hook in heads().file_alloc_security:
        hook(file)


def security_file_permission(file: File, mask: int) -> None:
    """Each read and write of an open file. Raises EACCES."""
    for hook in heads().file_permission:
        hook(file, mask)
    fsnotify_perm(file, mask)


def security_file_open(file: File) -> None:
    """The file is about to be open. Raises EACCES."""
    for hook in heads().file_open:
        hook(file)
    fsnotify_perm(file, MAY_OPEN)


def security_file_ioctl(file: File, cmd: int) -> None:
    for hook in heads().file_ioctl:
        hook(file, cmd)


def security_mmap_addr(addr: int) -> None:
    """A mapping is about to be made at `addr`."""
    for hook in heads().mmap_addr:
        hook(addr)


def security_mmap_file(file: File | None, prot: int, flags: int) -> None:
    """mmap(2). Raises EACCES."""
    for hook in heads().mmap_file:
        hook(file, prot, mmap_prot(file, prot), flags)


@notrace
def mmap_prot(file: File | None, prot: int) -> int:
    """What may be read may be executed, if the caller has READ_IMPLIES_EXEC and the mount allows it."""
    if prot & (PROT_READ | PROT_EXEC) != PROT_READ or not register.task.personality & READ_IMPLIES_EXEC:
        return prot
    if file is not None and path_noexec(file.f_path):
        return prot
    return prot | PROT_EXEC


def security_file_mprotect(vma: VmAreaStruct, reqprot: int, prot: int) -> None:
    """mprotect(2). reqprot: what the program asked for. Raises EACCES."""
    for hook in heads().file_mprotect:
        hook(vma, reqprot, prot)


def security_file_lock(file: File) -> None:
    for hook in heads().file_lock:
        hook(file)


def security_file_fcntl(file: File, cmd: int, arg: int) -> None:
    for hook in heads().file_fcntl:
        hook(file, cmd, arg)


def security_file_set_fowner(file: File) -> None:
    """Somebody shall get SIGIO for this file: who asked is remembered."""
    for hook in heads().file_set_fowner:
        hook(file)


def security_file_send_sigiotask(task: TaskStruct, file: File, signum: int) -> None:
    """May the file's owner be told? Raises EACCES."""
    for hook in heads().file_send_sigiotask:
        hook(task, file, signum)


def security_file_receive(file: File) -> None:
    """A descriptor came through a socket. Raises EACCES."""
    for hook in heads().file_receive:
        hook(file)
