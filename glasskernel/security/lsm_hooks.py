"""What a security module plugs into: the hook lists, and how a module says that it exists.

Linux: include/linux/lsm_hooks.h (5.3). Same: a list for each hook, called in the order in which modules registered; the
    first one that objects decides. Differs: an objection is an exception (KernelError), so most hooks answer nothing.
    The capability module is not in the lists: what it decides is called directly (kernel/capability.py, commoncap.py),
    before these. A hook exists here when it has a caller in this kernel and a module that uses it.
Owns: SecurityHookHeads (kernel.security_hook_heads, there only with a module). Context: what each call site says.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

Hooks = list[Callable[..., Any]]


@notrace
def no_hooks() -> Any:
    """A list of hooks, empty."""
    return field(default_factory=list)


@slotted
class SecurityHookHeads:
    """struct security_hook_heads: each field is the list of what modules do at that point."""

    # programs
    ptrace_access_check: Hooks = no_hooks()             # (child, mode)
    ptrace_traceme: Hooks = no_hooks()                  # (parent)
    capset: Hooks = no_hooks()                          # (new, old)
    capget: Hooks = no_hooks()                          # (target)
    capable: Hooks = no_hooks()                         # (cred, cap, audit) -> bool
    syslog: Hooks = no_hooks()                          # (type)
    vm_enough_memory: Hooks = no_hooks()                # () -> bool: the caller may use the reserve
    bprm_set_creds: Hooks = no_hooks()                  # (bprm)
    bprm_committing_creds: Hooks = no_hooks()           # (bprm)
    bprm_committed_creds: Hooks = no_hooks()            # (bprm)
    # file systems
    sb_alloc_security: Hooks = no_hooks()               # (sb)
    sb_eat_lsm_opts: Hooks = no_hooks()                 # (options) -> (options of the file system, the module's)
    sb_set_mnt_opts: Hooks = no_hooks()                 # (sb, mnt_opts)
    sb_remount: Hooks = no_hooks()                      # (sb, mnt_opts)
    sb_kern_mount: Hooks = no_hooks()                   # (sb)
    sb_show_options: Hooks = no_hooks()                 # (sb) -> bytes
    sb_statfs: Hooks = no_hooks()                       # (dentry)
    sb_mount: Hooks = no_hooks()                        # (path, flags)
    sb_umount: Hooks = no_hooks()                       # (mnt)
    # inodes
    inode_alloc_security: Hooks = no_hooks()            # (inode)
    inode_free_security: Hooks = no_hooks()             # (inode)
    inode_init_security: Hooks = no_hooks()             # (inode, dir, name) -> (suffix, value) or None
    inode_create: Hooks = no_hooks()                    # (dir, dentry)
    inode_link: Hooks = no_hooks()                      # (old_dentry, dir)
    inode_unlink: Hooks = no_hooks()                    # (dir, dentry)
    inode_symlink: Hooks = no_hooks()                   # (dir, dentry)
    inode_mkdir: Hooks = no_hooks()                     # (dir, dentry)
    inode_rmdir: Hooks = no_hooks()                     # (dir, dentry)
    inode_mknod: Hooks = no_hooks()                     # (dir, dentry, mode)
    inode_rename: Hooks = no_hooks()                    # (old_dir, old_dentry, new_dir, new_dentry)
    inode_readlink: Hooks = no_hooks()                  # (dentry)
    inode_follow_link: Hooks = no_hooks()               # (dentry, inode)
    inode_permission: Hooks = no_hooks()                # (inode, mask)
    inode_setattr: Hooks = no_hooks()                   # (dentry, iattr)
    inode_getattr: Hooks = no_hooks()                   # (path)
    inode_setxattr: Hooks = no_hooks()                  # (dentry, name, value)
    inode_post_setxattr: Hooks = no_hooks()             # (dentry, name, value)
    inode_getxattr: Hooks = no_hooks()                  # (dentry, name)
    inode_listxattr: Hooks = no_hooks()                 # (dentry)
    inode_removexattr: Hooks = no_hooks()               # (dentry, name)
    inode_getsecurity: Hooks = no_hooks()               # (inode, suffix) -> bytes or None
    inode_setsecurity: Hooks = no_hooks()               # (inode, suffix, value) -> bool: it was the module's
    inode_listsecurity: Hooks = no_hooks()              # (inode) -> bytes: an attribute's name
    dentry_create_files_as: Hooks = no_hooks()          # (dentry, mode, old, new): new makes the file for old
    inode_copy_up: Hooks = no_hooks()                   # (src, new): new makes a copy of src
    inode_copy_up_xattr: Hooks = no_hooks()             # (name) -> bool: the copy has its own
    d_instantiate: Hooks = no_hooks()                   # (dentry, inode)
    # open files
    file_alloc_security: Hooks = no_hooks()             # (file)
    file_permission: Hooks = no_hooks()                 # (file, mask)
    file_open: Hooks = no_hooks()                       # (file)
    file_ioctl: Hooks = no_hooks()                      # (file, cmd)
    mmap_addr: Hooks = no_hooks()                       # (addr)
    mmap_file: Hooks = no_hooks()                       # (file, reqprot, prot, flags)
    file_mprotect: Hooks = no_hooks()                   # (vma, reqprot, prot)
    file_lock: Hooks = no_hooks()                       # (file)
    file_fcntl: Hooks = no_hooks()                      # (file, cmd, arg)
    file_set_fowner: Hooks = no_hooks()                 # (file)
    file_send_sigiotask: Hooks = no_hooks()             # (task, file, signum)
    file_receive: Hooks = no_hooks()                    # (file)
    # tasks
    cred_prepare: Hooks = no_hooks()                    # (new, old)
    task_alloc: Hooks = no_hooks()                      # (task)
    task_setpgid: Hooks = no_hooks()                    # (task)
    task_getpgid: Hooks = no_hooks()                    # (task)
    task_getsid: Hooks = no_hooks()                     # (task)
    task_setnice: Hooks = no_hooks()                    # (task)
    task_setioprio: Hooks = no_hooks()                  # (task)
    task_getioprio: Hooks = no_hooks()                  # (task)
    task_prlimit: Hooks = no_hooks()                    # (cred, tcred, flags)
    task_setrlimit: Hooks = no_hooks()                  # (task, resource, new)
    task_setscheduler: Hooks = no_hooks()               # (task)
    task_getscheduler: Hooks = no_hooks()               # (task)
    task_kill: Hooks = no_hooks()                       # (task, sig)
    task_to_inode: Hooks = no_hooks()                   # (task, inode)
    getprocattr: Hooks = no_hooks()                     # (task, name) -> bytes
    setprocattr: Hooks = no_hooks()                     # (name, value)
    # System V IPC and keys
    ipc_permission: Hooks = no_hooks()                  # (perm, flag)
    msg_msg_alloc_security: Hooks = no_hooks()          # (msg)
    msg_queue_alloc_security: Hooks = no_hooks()        # (perm)
    msg_queue_associate: Hooks = no_hooks()             # (perm, flag)
    msg_queue_msgctl: Hooks = no_hooks()                # (perm or None, cmd)
    msg_queue_msgsnd: Hooks = no_hooks()                # (perm, msg)
    msg_queue_msgrcv: Hooks = no_hooks()                # (perm, msg, task)
    shm_alloc_security: Hooks = no_hooks()              # (perm)
    shm_associate: Hooks = no_hooks()                   # (perm, flag)
    shm_shmctl: Hooks = no_hooks()                      # (perm or None, cmd)
    shm_shmat: Hooks = no_hooks()                       # (perm, flag)
    sem_alloc_security: Hooks = no_hooks()              # (perm)
    sem_associate: Hooks = no_hooks()                   # (perm, flag)
    sem_semctl: Hooks = no_hooks()                      # (perm or None, cmd)
    sem_semop: Hooks = no_hooks()                       # (perm, alter)
    key_alloc: Hooks = no_hooks()                       # (key, cred)
    key_permission: Hooks = no_hooks()                  # (key, cred, need)
    key_getsecurity: Hooks = no_hooks()                 # (key) -> bytes
    # sockets
    netlink_send: Hooks = no_hooks()                    # (sk, data)
    unix_stream_connect: Hooks = no_hooks()             # (sock, other, newsk)
    unix_may_send: Hooks = no_hooks()                   # (sock, other)
    socket_create: Hooks = no_hooks()                   # (family, type, protocol, kern)
    socket_post_create: Hooks = no_hooks()              # (sock, family, type, protocol, kern)
    socket_socketpair: Hooks = no_hooks()               # (socka, sockb)
    socket_bind: Hooks = no_hooks()                     # (sock, address)
    socket_connect: Hooks = no_hooks()                  # (sock, address)
    socket_listen: Hooks = no_hooks()                   # (sock)
    socket_accept: Hooks = no_hooks()                   # (sock, newsock)
    socket_sendmsg: Hooks = no_hooks()                  # (sock)
    socket_recvmsg: Hooks = no_hooks()                  # (sock)
    socket_getsockname: Hooks = no_hooks()              # (sock)
    socket_getpeername: Hooks = no_hooks()              # (sock)
    socket_getsockopt: Hooks = no_hooks()               # (sock)
    socket_setsockopt: Hooks = no_hooks()               # (sock, level, optname)
    socket_shutdown: Hooks = no_hooks()                 # (sock)
    socket_getpeersec_stream: Hooks = no_hooks()        # (sock) -> bytes
    sk_alloc_security: Hooks = no_hooks()               # (sk)
    sk_clone_security: Hooks = no_hooks()               # (sk, newsk)
    sock_graft: Hooks = no_hooks()                      # (sk, parent)
    inet_csk_clone: Hooks = no_hooks()                  # (newsk)
    inet_conn_established: Hooks = no_hooks()           # (sk)


@slotted(frozen=True)
class LsmInfo:
    """struct lsm_info. init(kernel): registers the hooks. enabled(kernel): the command line does not say otherwise."""

    name: str
    init: Callable[[Kernel], None]
    enabled: Callable[[Kernel], bool]


def security_add_hooks(kernel: Kernel, hooks: dict[str, Callable[..., Any]], lsm: str) -> None:
    """A module registers what it wants to be asked. (security/security.c)"""
    assert kernel.lsm is not None
    kernel.lsm.modules.append(lsm)
    for name, hook in hooks.items():
        getattr(kernel.security_hook_heads, name).append(hook)
