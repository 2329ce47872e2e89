"""Security modules: which one is on, and the table through which the rest of the kernel asks it.

Linux: security/security.c (5.3). Same: security= and lsm= of the command line, the order in which modules are asked.
Differs: `kernel.lsm` stands for CONFIG_SECURITY: it is None unless the machine was started with a module, and then
    nothing here is imported. A call site is
        lsm = kernel.lsm
        if lsm is not None:
            lsm.security_socket_listen(sock)
    (20 ns when there is none), or, on hot paths, `if inode.i_security is not None: inode.i_sb.kernel.lsm...` (5 ns):
    with a module every file, inode, sock and System V object has a label. The functions are in security_fs.py,
    security_task.py and security_net.py.
Owns: kernel.lsm, kernel.security_hook_heads. Gaps: modules other than SELinux.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.security.lsm_hooks import LsmInfo, SecurityHookHeads
from glasskernel.security.security_fs import (
    security_d_instantiate,
    security_dentry_create_files_as,
    security_file_alloc,
    security_file_fcntl,
    security_file_ioctl,
    security_file_lock,
    security_file_mprotect,
    security_file_open,
    security_file_permission,
    security_file_receive,
    security_file_send_sigiotask,
    security_file_set_fowner,
    security_inode_alloc,
    security_inode_copy_up,
    security_inode_copy_up_xattr,
    security_inode_create,
    security_inode_follow_link,
    security_inode_free,
    security_inode_getattr,
    security_inode_getsecurity,
    security_inode_getxattr,
    security_inode_init_security,
    security_inode_link,
    security_inode_listsecurity,
    security_inode_listxattr,
    security_inode_mkdir,
    security_inode_mknod,
    security_inode_permission,
    security_inode_post_setxattr,
    security_inode_readlink,
    security_inode_removexattr,
    security_inode_rename,
    security_inode_rmdir,
    security_inode_setattr,
    security_inode_setsecurity,
    security_inode_setxattr,
    security_inode_symlink,
    security_inode_unlink,
    security_mmap_addr,
    security_mmap_file,
    security_sb_alloc,
    security_sb_eat_lsm_opts,
    security_sb_kern_mount,
    security_sb_mount,
    security_sb_remount,
    security_sb_set_mnt_opts,
    security_sb_show_options,
    security_sb_statfs,
    security_sb_umount,
)
from glasskernel.security.security_net import (
    security_inet_conn_established,
    security_inet_csk_clone,
    security_netlink_send,
    security_sk_alloc,
    security_sk_clone,
    security_sock_graft,
    security_socket_accept,
    security_socket_bind,
    security_socket_connect,
    security_socket_create,
    security_socket_getpeername,
    security_socket_getpeersec_stream,
    security_socket_getsockname,
    security_socket_getsockopt,
    security_socket_listen,
    security_socket_post_create,
    security_socket_recvmsg,
    security_socket_sendmsg,
    security_socket_setsockopt,
    security_socket_shutdown,
    security_socket_socketpair,
    security_unix_may_send,
    security_unix_stream_connect,
)
from glasskernel.security.security_task import (
    security_bprm_committed_creds,
    security_bprm_committing_creds,
    security_bprm_set_creds,
    security_capable,
    security_capget,
    security_capset,
    security_getprocattr,
    security_ipc_permission,
    security_key_alloc,
    security_key_getsecurity,
    security_key_permission,
    security_msg_msg_alloc,
    security_msg_queue_alloc,
    security_msg_queue_associate,
    security_msg_queue_msgctl,
    security_msg_queue_msgrcv,
    security_msg_queue_msgsnd,
    security_prepare_creds,
    security_ptrace_access_check,
    security_ptrace_traceme,
    security_sem_alloc,
    security_sem_associate,
    security_sem_semctl,
    security_sem_semop,
    security_setprocattr,
    security_shm_alloc,
    security_shm_associate,
    security_shm_shmat,
    security_shm_shmctl,
    security_syslog,
    security_task_alloc,
    security_task_getioprio,
    security_task_getpgid,
    security_task_getscheduler,
    security_task_getsid,
    security_task_kill,
    security_task_prlimit,
    security_task_setioprio,
    security_task_setnice,
    security_task_setpgid,
    security_task_setrlimit,
    security_task_setscheduler,
    security_task_to_inode,
    security_vm_enough_memory_mm,
)
from glasskernel.security.selinux.hooks import selinux_lsm

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

CONFIG_LSM = ("selinux",)                # the modules that are built in, in the order in which they are asked


class Security:
    """kernel.lsm: what a call site can ask. An attribute here is Linux's function itself."""

    __slots__ = ("modules",)

    def __init__(self) -> None:
        self.modules: list[str] = ["capability"]

    security_sb_alloc = staticmethod(security_sb_alloc)
    security_sb_eat_lsm_opts = staticmethod(security_sb_eat_lsm_opts)
    security_sb_set_mnt_opts = staticmethod(security_sb_set_mnt_opts)
    security_sb_remount = staticmethod(security_sb_remount)
    security_sb_kern_mount = staticmethod(security_sb_kern_mount)
    security_sb_show_options = staticmethod(security_sb_show_options)
    security_sb_statfs = staticmethod(security_sb_statfs)
    security_sb_mount = staticmethod(security_sb_mount)
    security_sb_umount = staticmethod(security_sb_umount)
    security_inode_alloc = staticmethod(security_inode_alloc)
    security_inode_free = staticmethod(security_inode_free)
    security_inode_init_security = staticmethod(security_inode_init_security)
    security_inode_create = staticmethod(security_inode_create)
    security_inode_link = staticmethod(security_inode_link)
    security_inode_unlink = staticmethod(security_inode_unlink)
    security_inode_symlink = staticmethod(security_inode_symlink)
    security_inode_mkdir = staticmethod(security_inode_mkdir)
    security_inode_rmdir = staticmethod(security_inode_rmdir)
    security_inode_mknod = staticmethod(security_inode_mknod)
    security_inode_rename = staticmethod(security_inode_rename)
    security_inode_readlink = staticmethod(security_inode_readlink)
    security_inode_follow_link = staticmethod(security_inode_follow_link)
    security_inode_permission = staticmethod(security_inode_permission)
    security_inode_setattr = staticmethod(security_inode_setattr)
    security_inode_getattr = staticmethod(security_inode_getattr)
    security_inode_setxattr = staticmethod(security_inode_setxattr)
    security_inode_post_setxattr = staticmethod(security_inode_post_setxattr)
    security_inode_getxattr = staticmethod(security_inode_getxattr)
    security_inode_listxattr = staticmethod(security_inode_listxattr)
    security_inode_removexattr = staticmethod(security_inode_removexattr)
    security_inode_getsecurity = staticmethod(security_inode_getsecurity)
    security_inode_setsecurity = staticmethod(security_inode_setsecurity)
    security_inode_listsecurity = staticmethod(security_inode_listsecurity)
    security_dentry_create_files_as = staticmethod(security_dentry_create_files_as)
    security_inode_copy_up = staticmethod(security_inode_copy_up)
    security_inode_copy_up_xattr = staticmethod(security_inode_copy_up_xattr)
    security_d_instantiate = staticmethod(security_d_instantiate)
    security_file_alloc = staticmethod(security_file_alloc)
    security_file_permission = staticmethod(security_file_permission)
    security_file_open = staticmethod(security_file_open)
    security_file_ioctl = staticmethod(security_file_ioctl)
    security_mmap_addr = staticmethod(security_mmap_addr)
    security_mmap_file = staticmethod(security_mmap_file)
    security_file_mprotect = staticmethod(security_file_mprotect)
    security_file_lock = staticmethod(security_file_lock)
    security_file_fcntl = staticmethod(security_file_fcntl)
    security_file_set_fowner = staticmethod(security_file_set_fowner)
    security_file_send_sigiotask = staticmethod(security_file_send_sigiotask)
    security_file_receive = staticmethod(security_file_receive)
    security_ptrace_access_check = staticmethod(security_ptrace_access_check)
    security_ptrace_traceme = staticmethod(security_ptrace_traceme)
    security_capget = staticmethod(security_capget)
    security_capset = staticmethod(security_capset)
    security_capable = staticmethod(security_capable)
    security_syslog = staticmethod(security_syslog)
    security_vm_enough_memory_mm = staticmethod(security_vm_enough_memory_mm)
    security_bprm_set_creds = staticmethod(security_bprm_set_creds)
    security_bprm_committing_creds = staticmethod(security_bprm_committing_creds)
    security_bprm_committed_creds = staticmethod(security_bprm_committed_creds)
    security_prepare_creds = staticmethod(security_prepare_creds)
    security_task_alloc = staticmethod(security_task_alloc)
    security_task_setpgid = staticmethod(security_task_setpgid)
    security_task_getpgid = staticmethod(security_task_getpgid)
    security_task_getsid = staticmethod(security_task_getsid)
    security_task_setnice = staticmethod(security_task_setnice)
    security_task_setioprio = staticmethod(security_task_setioprio)
    security_task_getioprio = staticmethod(security_task_getioprio)
    security_task_prlimit = staticmethod(security_task_prlimit)
    security_task_setrlimit = staticmethod(security_task_setrlimit)
    security_task_setscheduler = staticmethod(security_task_setscheduler)
    security_task_getscheduler = staticmethod(security_task_getscheduler)
    security_task_kill = staticmethod(security_task_kill)
    security_task_to_inode = staticmethod(security_task_to_inode)
    security_getprocattr = staticmethod(security_getprocattr)
    security_setprocattr = staticmethod(security_setprocattr)
    security_ipc_permission = staticmethod(security_ipc_permission)
    security_msg_msg_alloc = staticmethod(security_msg_msg_alloc)
    security_msg_queue_alloc = staticmethod(security_msg_queue_alloc)
    security_msg_queue_associate = staticmethod(security_msg_queue_associate)
    security_msg_queue_msgctl = staticmethod(security_msg_queue_msgctl)
    security_msg_queue_msgsnd = staticmethod(security_msg_queue_msgsnd)
    security_msg_queue_msgrcv = staticmethod(security_msg_queue_msgrcv)
    security_shm_alloc = staticmethod(security_shm_alloc)
    security_shm_associate = staticmethod(security_shm_associate)
    security_shm_shmctl = staticmethod(security_shm_shmctl)
    security_shm_shmat = staticmethod(security_shm_shmat)
    security_sem_alloc = staticmethod(security_sem_alloc)
    security_sem_associate = staticmethod(security_sem_associate)
    security_sem_semctl = staticmethod(security_sem_semctl)
    security_sem_semop = staticmethod(security_sem_semop)
    security_key_alloc = staticmethod(security_key_alloc)
    security_key_permission = staticmethod(security_key_permission)
    security_key_getsecurity = staticmethod(security_key_getsecurity)
    security_netlink_send = staticmethod(security_netlink_send)
    security_unix_stream_connect = staticmethod(security_unix_stream_connect)
    security_unix_may_send = staticmethod(security_unix_may_send)
    security_socket_create = staticmethod(security_socket_create)
    security_socket_post_create = staticmethod(security_socket_post_create)
    security_socket_socketpair = staticmethod(security_socket_socketpair)
    security_socket_bind = staticmethod(security_socket_bind)
    security_socket_connect = staticmethod(security_socket_connect)
    security_socket_listen = staticmethod(security_socket_listen)
    security_socket_accept = staticmethod(security_socket_accept)
    security_socket_sendmsg = staticmethod(security_socket_sendmsg)
    security_socket_recvmsg = staticmethod(security_socket_recvmsg)
    security_socket_getsockname = staticmethod(security_socket_getsockname)
    security_socket_getpeername = staticmethod(security_socket_getpeername)
    security_socket_getsockopt = staticmethod(security_socket_getsockopt)
    security_socket_setsockopt = staticmethod(security_socket_setsockopt)
    security_socket_shutdown = staticmethod(security_socket_shutdown)
    security_socket_getpeersec_stream = staticmethod(security_socket_getpeersec_stream)
    security_sk_alloc = staticmethod(security_sk_alloc)
    security_sk_clone = staticmethod(security_sk_clone)
    security_sock_graft = staticmethod(security_sock_graft)
    security_inet_csk_clone = staticmethod(security_inet_csk_clone)
    security_inet_conn_established = staticmethod(security_inet_conn_established)


def security_init(kernel: Kernel) -> None:
    """Starts the modules that the command line wants. Context: boot, before the first super block."""
    kernel.printk("LSM: Security Framework initializing")
    chosen = [lsm for lsm in ordered_lsm_parse(kernel) if lsm.enabled(kernel)]
    if chosen:
        kernel.security_hook_heads = SecurityHookHeads()
        kernel.lsm = Security()
        for lsm in chosen:
            lsm.init(kernel)


def ordered_lsm_parse(kernel: Kernel) -> list[LsmInfo]:
    """The modules of lsm=, or of the built-in order; of those that exclude each other security= chooses one."""
    chosen_lsm_order = chosen_major_lsm = None
    debug = False
    for word in kernel.params.cmdline.split():
        name, _, value = word.partition("=")
        if name == "lsm":
            chosen_lsm_order = value
        elif name == "security":
            chosen_major_lsm = value
        elif word == "lsm.debug":
            debug = True
    if chosen_lsm_order is not None and chosen_major_lsm is not None:
        kernel.printk("LSM: security= is ignored because it is superseded by lsm=")
        chosen_major_lsm = None
    origin = "builtin" if chosen_lsm_order is None else "cmdline"
    order = CONFIG_LSM if chosen_lsm_order is None else chosen_lsm_order.split(",")
    known = {"selinux": selinux_lsm}
    chosen: list[LsmInfo] = []
    for name in order:
        lsm = known.get(name)
        if lsm is None:
            if debug:
                kernel.printk(f"LSM: {origin} ignored: {name}")
        elif chosen_lsm_order is None and chosen_major_lsm != name:
            if debug:
                kernel.printk(f"LSM: security={chosen_major_lsm} disabled: {name}")
        elif lsm not in chosen:
            if debug:
                kernel.printk(f"LSM: {origin} ordering: {name} ({'enabled' if lsm.enabled(kernel) else 'disabled'})")
            chosen.append(lsm)
    return chosen
