"""The program of PID 1, and the device through which it learns what to run.

Linux has no such file: there, /init comes with the initramfs. Ours is 186 bytes of machine code in an ELF file:
it opens /dev/null three times, takes a heap, and then forever asks /dev/init for the next program, starts it as
its child, reaps children, and tells the device how that program ended; then it waits for all the others.

Owns: /init in rootfs, /dev/init.  Invariants: only PID 1 and the child that it just made may use /dev/init (EPERM);
a program stays in kernel.commands until everything that it started is gone.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.drivers.char.hoststdio import open_stdio
from glasskernel.drivers.char.misc import MISC_DYNAMIC_MINOR, Miscdevice, misc_register
from glasskernel.fs.exec import do_execve_kernel, do_execveat
from glasskernel.fs.file import close_fd, fd_install, get_unused_fd_flags
from glasskernel.fs.file_table import fput
from glasskernel.fs.mount_on_demand import chdir_on_demand
from glasskernel.fs.open import chdir_kernel, filp_open
from glasskernel.fs.read_write import kernel_write, noop_llseek
from glasskernel.fs.super import reconfigure_super
from glasskernel.fs.types import O_CLOEXEC, O_CREAT, O_RDONLY, O_WRONLY, SB_RDONLY, FileOperations
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.pid import for_each_process
from glasskernel.kernel.sched.wait import wait_event
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.signal_types import SIGKILL
from glasskernel.kernel.sys import ksys_setsid
from glasskernel.lib.errno import EACCES, ENOENT, ENOTDIR, ENOTTY, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.command import Command
    from glasskernel.init.kernel import Kernel

INIT_WAIT = 0x4900         # waits for the next program
INIT_START = 0x4901        # from the child: becomes that program, or ends
INIT_ENDED = 0x4902        # its wait status; the processes that it left behind are killed

_LOAD = 0x400000
_AT_EMPTY_PATH = 0x1000
_CODE = bytes.fromhex(
    "31ffb80c0000000f05"                       # brk(0)
    "488db800100200b80c0000000f05"             # brk(what that answered + 132 KB)
    "488d3d880000006a025eb8020000000f05"       # open("/dev/null", O_RDWR): 0
    "31ffb8200000000f05"                       # dup(0): 1
    "b8200000000f05"                           # dup(0): 2
    "488d3d71000000be02000800b8020000000f05"   # open("/dev/init", O_RDWR | O_CLOEXEC)
    "89c3"                                     # ... into ebx
    "89dfbe00490000b8100000000f05"             # next: ioctl(ebx, INIT_WAIT)
    "b83a0000000f05"                           # vfork()
    "85c0750e"                                 # in the parent: parent
    "89dfbe01490000b8100000000f05"             # ioctl(ebx, INIT_START)
    "89c5"                                     # parent: the PID into ebp
    "bfffffffff4889e631d24531d2b83d0000000f05"  # reap: wait4(-1, rsp, 0, NULL)
    "83f8f674be"                               # -ECHILD: next
    "39e875e3"                                 # not that child: reap
    "8b142489dfbe02490000b8100000000f05"       # ioctl(ebx, INIT_ENDED, status)
    "ebd0"                                     # reap
    "2f6465762f6e756c6c00"
    "2f6465762f696e697400"
)


@notrace
def init_program() -> bytes:
    """The ELF file: one segment, and a stack that is not executable."""
    start = 64 + 2 * 56
    size = start + len(_CODE)
    ident = b"\x7fELF\2\1\1" + bytes(9)
    header = struct.pack("<16s2HI3QI6H", ident, 2, 62, 1, _LOAD + start, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<2I6Q", 1, 5, 0, _LOAD, _LOAD, size, size, 0x1000)
    stack = struct.pack("<2I6Q", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return header + load + stack + _CODE


@notrace
def open_init() -> int:
    """Writes /init to rootfs, which the real root will hide, and answers a descriptor of it. Context: PID 1."""
    file = filp_open(b"/init", O_WRONLY | O_CREAT, 0o755)
    kernel_write(file, init_program(), 0)
    fput(file)
    fd = get_unused_fd_flags(O_CLOEXEC)
    fd_install(fd, filp_open(b"/init", O_RDONLY, 0))
    return fd


@notrace
def run_init_process(kernel: Kernel, fd: int) -> None:
    """Becomes the program that open_init() opened. Context: PID 1."""
    misc_register(kernel, Miscdevice(MISC_DYNAMIC_MINOR, b"init", _init_fops))
    kernel.printk("Run /init as init process")
    do_execveat(fd, b"", [b"/init"], [b"HOME=/", b"TERM=linux"], _AT_EMPTY_PATH)
    current().comm = b"init"                   # execveat would call it by the number of the descriptor


@may_sleep
def init_ioctl(file: File, command: int, argument: int) -> int:
    """->unlocked_ioctl of /dev/init. Errors: EPERM, ENOTTY."""
    task = current()
    kernel = task.kernel
    if command == INIT_START and task.real_parent.pid == 1 and kernel.commands and not kernel.commands[0].pid:
        return start_program(kernel.commands[0])
    if task.pid != 1:
        raise KernelError(EPERM)
    if command == INIT_WAIT:
        return wait_for_program(kernel)
    if command == INIT_ENDED:
        kernel.commands[0].status = argument & 0xFFFFFFFF
        for process in list(for_each_process(kernel)):
            if process.mm is not None and process is not task:
                send_sig(SIGKILL, process, 1)
        return 0
    raise KernelError(ENOTTY)


_init_fops = FileOperations(unlocked_ioctl=init_ioctl, llseek=noop_llseek)


@notrace
def wait_for_program(kernel: Kernel) -> int:
    """The last program and all that it left are gone: stops the machine until the host hands over another one."""
    if kernel.commands and kernel.commands[0].status is not None:
        del kernel.commands[0]
    while not kernel.commands:
        if kernel.shutting_down:
            kernel.shutting_down = False
            remount_disks_read_only(kernel)
        kernel.machine.stop()
        wait_event(kernel.init_wait, lambda: bool(kernel.commands) or kernel.shutting_down)
    return 0


@notrace
@may_sleep
def remount_disks_read_only(kernel: Kernel) -> None:
    """What the last step of a distribution's shutdown does: disks hold everything, and their file systems are clean."""
    for sb in reversed(list(kernel.vfs.super_blocks)):
        if sb.s_bdev is not None and sb.s_root is not None and not sb.s_flags & SB_RDONLY:
            try:
                reconfigure_super(sb, SB_RDONLY, b"", force=True)
            except KernelError as error:
                kernel.printk(f"{sb.s_id.decode()}: cannot be made read-only: error {error.errno}", 3)


@notrace
def start_program(command: Command) -> int:
    """The child: becomes a session leader with its own descriptors and identity, then the program."""
    task = current()
    kernel = task.kernel
    command.pid = task.pid
    try:
        ksys_setsid()
        for fd in (0, 1, 2):
            close_fd(fd)
        open_stdio(kernel, command.streams, command.uid, command.gid)
        cred = prepare_creds()
        if command.uid or command.gid:
            cred.uid = cred.euid = cred.suid = cred.fsuid = command.uid
            cred.gid = cred.egid = cred.sgid = cred.fsgid = command.gid
            if command.uid:
                cred.cap_permitted = cred.cap_effective = cred.cap_inheritable = cred.cap_ambient = 0
        commit_creds(cred)
        command.failed_path = command.cwd
        if command.uid or not chdir_on_demand(kernel, command.cwd):
            chdir_kernel(command.cwd)
        command.failed_path = b""
        do_execve_path(command)
    except KernelError as error:
        command.error = error.errno
        do_exit((127 if error.errno == ENOENT else 126) << 8)
    return 0


@notrace
def do_execve_path(command: Command) -> None:
    """execvp(3): a name without a slash is looked for in PATH. Raises what the last try raised."""
    name = command.argv[0]
    candidates = [name]
    if b"/" not in name:
        path = next((e[5:] for e in command.envp if e.startswith(b"PATH=")), b"/usr/bin:/bin")
        candidates = [directory + b"/" + name for directory in path.split(b":")]
    failure = ENOENT
    for candidate in candidates:
        try:
            do_execve_kernel(candidate, command.argv, command.envp)
            return
        except KernelError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                failure = error.errno
                command.failed_path = candidate
                if failure != EACCES:
                    break
    raise KernelError(failure)
