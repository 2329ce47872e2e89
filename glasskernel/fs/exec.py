"""execve(2): a process becomes another program.

Linux: fs/exec.c (5.3). Same: the order of steps and names, the limits on arguments (128 KB a string, a
    quarter of the stack limit or 6 MB in all), the point of no return in flush_old_exec() (a failure after
    it is SIGSEGV), set-id and capability rules, ETXTBSY, close-on-exec, recursion through interpreters,
    argc 0 allowed.
Differs: strings are gathered and stored in one go per vector, not one by one; the file opened for execution
    keeps others from writing to it until its last reference goes (Linux: VM_DENYWRITE areas), see __fput().
Owns: LinuxBinprm, kernel.formats. Gaps: core dumps, binfmt_misc, a.out,
    cred_guard_mutex (a second thread that calls execve meanwhile fails with EAGAIN in de_thread).
Invariant: before flush_old_exec() a failure leaves the caller as it was.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.arch.x86.process import flush_thread
from glasskernel.arch.x86.uaccess import get_user_u64, strncpy_from_user
from glasskernel.fs.dentry_open import deny_write_access
from glasskernel.fs.file import do_close_on_exec, get_close_on_exec, put_files_struct, unshare_files
from glasskernel.fs.file_table import fput
from glasskernel.fs.fsnotify import fsnotify_open
from glasskernel.fs.namei_open import OpenFlags, do_filp_open
from glasskernel.fs.path_walk import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    LOOKUP_OPEN,
    getname,
    getname_flags,
)
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.read_write import kernel_read
from glasskernel.fs.types import (
    FMODE_EXEC,
    MAY_EXEC,
    MAY_READ,
    MNT_NOEXEC,
    O_LARGEFILE,
    S_IFMT,
    S_IFREG,
    S_ISGID,
    S_ISUID,
    SB_NOEXEC,
)
from glasskernel.kernel.cred import commit_creds, prepare_exec_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import de_thread
from glasskernel.kernel.fork import mm_release
from glasskernel.kernel.locking.rwsem import down_read, down_write_killable, up_read, up_write
from glasskernel.kernel.pid import alloc_uid
from glasskernel.kernel.ptrace_stop import PTRACE_EVENT_EXEC, ptrace_event
from glasskernel.kernel.sched.core import cond_resched, fatal_signal_pending, sched_exec
from glasskernel.kernel.signal import flush_signal_handlers, force_sigsegv
from glasskernel.kernel.signal_types import SIGSEGV
from glasskernel.kernel.task import (
    PF_FORKNOEXEC,
    PF_KTHREAD,
    PF_NO_SETAFFINITY,
    PF_NPROC_EXCEEDED,
    PF_RANDOMIZE,
    RLIM_INFINITY,
    RLIMIT_NPROC,
    RLIMIT_STACK,
    Cred,
    FilesStruct,
    TaskStruct,
)
from glasskernel.lib.errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EFAULT,
    EINTR,
    EINVAL,
    ELOOP,
    ENOEXEC,
    ENOMEM,
    KernelError,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace
from glasskernel.mm.memory import get_user_page, vm_get_page_prot
from glasskernel.mm.mmap import (
    arch_pick_mmap_layout,
    expand_downwards,
    expand_stack,
    insert_vm_struct,
    mm_alloc,
    mmdrop,
    mmput,
    vm_area_alloc,
    vm_area_free,
    vma_adjust,
)
from glasskernel.mm.mprotect import mprotect_fixup
from glasskernel.mm.mremap import move_page_tables
from glasskernel.mm.types import (
    TASK_SIZE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_WRITE,
    MmStruct,
    VmAreaStruct,
)
from glasskernel.mm.vmacache import vmacache_flush
from glasskernel.security.commoncap import (
    LSM_UNSAFE_NO_NEW_PRIVS,
    LSM_UNSAFE_PTRACE,
    LSM_UNSAFE_SHARE,
    PER_CLEAR_ON_SETID,
    cap_bprm_set_creds,
    mnt_may_suid,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Path
    from glasskernel.init.kernel import Kernel

BINPRM_BUF_SIZE = 256          # 128 before 5.1
MAX_ARG_STRLEN = 32 * 4096     # one string with its NUL
MAX_ARG_STRINGS = 0x7FFF_FFFF
ARG_MAX = 131072
STK_LIM = 8 << 20              # _STK_LIM
STACK_TOP_MAX = TASK_SIZE
READ_IMPLIES_EXEC = 0x0400000  # personality
SUID_DUMP_DISABLE, SUID_DUMP_USER = 0, 1

BINPRM_FLAGS_ENFORCE_NONDUMP, BINPRM_FLAGS_PATH_INACCESSIBLE = 1, 4
EXSTACK_DEFAULT, EXSTACK_DISABLE_X, EXSTACK_ENABLE_X = 0, 1, 2

VM_STACK_INCOMPLETE_SETUP = VM_RAND_READ | VM_SEQ_READ
_VM_STACK_FLAGS = VM_GROWSDOWN | VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT

Strings = int | list[bytes]    # a char ** of user space, or the kernel's own


@slotted
class LinuxBinprm:
    """struct linux_binprm: a program on its way to run.

    p: where the strings begin on the new stack so far. arg_sizes, env_sizes: their lengths with the NUL.
    file, interp: what to load now; filename: what was asked for. mm: the new address space, until it is
    installed.
    """

    kernel: Kernel
    filename: bytes
    interp: bytes
    file: File
    cred: Cred
    mm: MmStruct | None = None
    vma: VmAreaStruct = None  # type: ignore[assignment]
    p: int = 0
    argmin: int = 0
    exec: int = 0
    argc: int = 0
    envc: int = 0
    arg_sizes: list[int] = field(default_factory=list)
    env_sizes: list[int] = field(default_factory=list)
    buf: bytes = b""                       # BINPRM_BUF_SIZE bytes, zero-padded
    recursion_depth: int = 0
    called_set_creds: bool = False
    cap_elevated: bool = False
    secureexec: bool = False
    committed: bool = False                # bprm.cred is the task's
    unsafe: int = 0                        # LSM_UNSAFE_*
    per_clear: int = 0
    interp_flags: int = 0                  # BINPRM_FLAGS_*
    rlim_stack: tuple[int, int] = (STK_LIM, RLIM_INFINITY)


@slotted(frozen=True)
class LinuxBinfmt:
    """struct linux_binfmt.

    load_binary(bprm): starts the program, or raises ENOEXEC to let the next one try.
    """

    name: str
    load_binary: Callable[[LinuxBinprm], None]


@notrace
def exec_init(kernel: Kernel) -> None:
    """Makes kernel.formats. Context: boot, before the formats register."""
    kernel.formats = []


@notrace
def register_binfmt(kernel: Kernel, fmt: LinuxBinfmt) -> None:
    """Adds a format; they are tried in the order of registration."""
    kernel.formats.append(fmt)


# ---- opening ----------------------------------------------------------------------------------------
@may_sleep
def open_exec(name: bytes) -> File:
    """Opens a program's interpreter. Raises what open(2) does, EACCES, ETXTBSY."""
    return do_open_execat(AT_FDCWD, name, 0)


@may_sleep
def do_open_execat(fd: int, name: bytes, flags: int) -> File:
    """Opens a file for execution and keeps writers out. Raises EACCES (no regular file, noexec), ETXTBSY."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    lookup = LOOKUP_FOLLOW
    if flags & AT_SYMLINK_NOFOLLOW:
        lookup &= ~LOOKUP_FOLLOW
    if flags & AT_EMPTY_PATH:
        lookup |= LOOKUP_EMPTY
    file = do_filp_open(fd, name, OpenFlags(O_LARGEFILE, 0, MAY_EXEC, LOOKUP_OPEN, lookup))
    if file.f_inode.i_mode & S_IFMT != S_IFREG or path_noexec(file.f_path):
        fput(file)
        raise KernelError(EACCES)
    try:
        deny_write_access(file)
    except KernelError:
        fput(file)
        raise
    file.f_mode |= FMODE_EXEC              # __fput() lets writers in again
    if name:
        fsnotify_open(file)
    return file


def path_noexec(path: Path) -> bool:
    """True if nothing may be executed from this mount."""
    return bool(path.mnt.mnt_flags & MNT_NOEXEC or path.mnt.mnt_sb.s_flags & SB_NOEXEC)


# ---- the new stack ----------------------------------------------------------------------------------
def bprm_mm_init(bprm: LinuxBinprm) -> None:
    """A new address space with one page of stack at its very top. Raises ENOMEM."""
    mm = bprm.mm = mm_alloc(bprm.kernel)
    bprm.rlim_stack = current().signal.rlim[RLIMIT_STACK]
    __bprm_mm_init(bprm, mm)


def __bprm_mm_init(bprm: LinuxBinprm, mm: MmStruct) -> None:
    vm_flags = vm_stack_flags() | VM_STACK_INCOMPLETE_SETUP
    vma = vm_area_alloc(mm, STACK_TOP_MAX - 4096, STACK_TOP_MAX, vm_flags)
    vma.vm_page_prot = vm_get_page_prot(vm_flags)
    vma.vm_pgoff = vma.vm_start >> 12
    try:
        insert_vm_struct(mm, vma)
    except KernelError:
        vm_area_free(vma)
        raise
    bprm.vma = vma
    bprm.p = vma.vm_end - 8


@notrace
def vm_stack_flags() -> int:
    """VM_STACK_FLAGS: executable for the personality in which everything readable is."""
    return _VM_STACK_FLAGS | (VM_EXEC if current().personality & READ_IMPLIES_EXEC else 0)


@may_sleep
def get_arg_page(bprm: LinuxBinprm, pos: int) -> int:
    """The frame of the new stack that holds `pos`; the stack grows down to it. Raises E2BIG, ENOMEM."""
    vma = bprm.vma
    if pos < vma.vm_start:
        try:
            expand_downwards(vma, pos)
        except KernelError:
            raise KernelError(E2BIG) from None
    mm = bprm.mm
    assert mm is not None
    return get_user_page(mm, pos & ~0xFFF, True)


@may_sleep
def count(argv: Strings, maximum: int) -> list[int] | list[bytes]:
    """The strings of a vector: their addresses, up to the NULL. Raises EFAULT, E2BIG."""
    if not isinstance(argv, int):
        return argv
    pointers: list[int] = []
    if argv:
        task = current()
        while True:
            pointer = get_user_u64(argv)
            if not pointer:
                break
            pointers.append(pointer)
            argv += 8
            if len(pointers) >= maximum:
                raise KernelError(E2BIG)
            if fatal_signal_pending(task):
                raise KernelError(EINTR)
            cond_resched()
    return pointers


def prepare_arg_pages(bprm: LinuxBinprm, argc: int, envc: int) -> None:
    """How far down the strings may reach: a quarter of the stack limit, 128 KB at least. Raises E2BIG."""
    bprm.argc = argc
    bprm.envc = envc
    limit = max(min(STK_LIM // 4 * 3, bprm.rlim_stack[0] // 4), ARG_MAX)
    pointers = (argc + envc) * 8
    if limit <= pointers:
        raise KernelError(E2BIG)
    bprm.argmin = bprm.p - (limit - pointers)


@may_sleep
def copy_strings(bprm: LinuxBinprm, strings: list[int] | list[bytes], sizes: list[int]) -> None:
    """Puts strings on the new stack, below what is there, and their sizes into `sizes`.

    Raises EFAULT, E2BIG.
    """
    parts: list[bytes] = []
    total = 0
    room = bprm.p - bprm.argmin
    for string in strings:
        text = strncpy_from_user(string, MAX_ARG_STRLEN) if isinstance(string, int) else string
        if text is None or len(text) >= MAX_ARG_STRLEN:
            raise KernelError(E2BIG)
        total += len(text) + 1
        if total > room:
            raise KernelError(E2BIG)
        parts.append(text)
        sizes.append(len(text) + 1)
    if not parts:
        return
    parts.append(b"")
    blob = memoryview(b"\0".join(parts))
    bprm.p -= total
    ram = bprm.kernel.machine.ram
    pos = bprm.p
    done = 0
    while done < total:
        offset = pos & 0xFFF
        chunk = min(4096 - offset, total - done)
        start = (get_arg_page(bprm, pos) << 12) + offset
        ram[start : start + chunk] = blob[done : done + chunk]
        pos += chunk
        done += chunk


@may_sleep
def copy_strings_kernel(bprm: LinuxBinprm, strings: list[bytes], sizes: list[int]) -> None:
    """copy_strings() for the kernel's own strings."""
    copy_strings(bprm, strings, sizes)


def remove_arg_zero(bprm: LinuxBinprm) -> None:
    """Drops argv[0]: the interpreter of a script gets names of its own."""
    if bprm.argc:
        bprm.p += bprm.arg_sizes.pop(0)
        bprm.argc -= 1


def bprm_change_interp(bprm: LinuxBinprm, interp: bytes) -> None:
    """The program to load is another one: a script's interpreter."""
    bprm.interp = interp


@may_sleep
def setup_arg_pages(bprm: LinuxBinprm, stack_top: int, executable_stack: int) -> None:
    """Moves the stack to its place, gives it its rights and some room. Raises ENOMEM, EFAULT.

    stack_top: where it ends. executable_stack: EXSTACK_*. Context: task, the new mm is current.
    """
    mm = current().mm
    assert mm is not None
    vma = bprm.vma
    kernel = bprm.kernel
    stack_top = (arch_align_stack(kernel, stack_top) + 0xFFF) & ~0xFFF
    minimum = kernel.sysctl.mmap_min_addr
    if stack_top < minimum or vma.vm_end - vma.vm_start > stack_top - minimum:
        raise KernelError(ENOMEM)
    stack_shift = vma.vm_end - stack_top
    bprm.p -= stack_shift
    bprm.exec -= stack_shift
    mm.arg_start = bprm.p
    vm_flags = vm_stack_flags()
    if executable_stack == EXSTACK_ENABLE_X:
        vm_flags |= VM_EXEC
    elif executable_stack == EXSTACK_DISABLE_X:
        vm_flags &= ~VM_EXEC
    vm_flags |= mm.def_flags | VM_STACK_INCOMPLETE_SETUP
    down_write_killable(mm.mmap_sem)
    try:
        vma = mprotect_fixup(vma, vma.vm_start, vma.vm_end, vm_flags)
        if stack_shift:
            shift_arg_pages(vma, stack_shift)
        vma.vm_flags &= ~VM_STACK_INCOMPLETE_SETUP
        stack_size = vma.vm_end - vma.vm_start
        limit = bprm.rlim_stack[0] & ~0xFFF
        if stack_size + 131072 > limit:
            stack_base = vma.vm_end - limit
        else:
            stack_base = vma.vm_start - 131072
        mm.start_stack = bprm.p
        bprm.vma = vma
        try:
            expand_stack(vma, stack_base)
        except KernelError:
            raise KernelError(EFAULT) from None
    finally:
        up_write(mm.mmap_sem)


def shift_arg_pages(vma: VmAreaStruct, shift: int) -> None:
    """Moves the stack area, its pages included, down by `shift` bytes. Raises EFAULT, ENOMEM.

    mmap_sem held.
    """
    old_start, old_end = vma.vm_start, vma.vm_end
    new_start, new_end = old_start - shift, old_end - shift
    tree = vma.vm_mm.vmas
    below = tree.before(old_start)
    if below is not None and below.vm_end > new_start:
        raise KernelError(EFAULT)
    vma_adjust(vma, new_start, old_end, vma.vm_pgoff)    # the pages keep their index in the area: rmap finds them by it
    if move_page_tables(vma, old_start, vma, new_start, old_end - old_start) != old_end - old_start:
        raise KernelError(ENOMEM)
    vma_adjust(vma, new_start, new_end, vma.vm_pgoff)


def arch_align_stack(kernel: Kernel, sp: int) -> int:
    """16-byte alignment, and up to 8 KB of random offset (arch/x86/kernel/process.c)."""
    if current().flags & PF_RANDOMIZE:
        sp -= int.from_bytes(kernel.machine.random_bytes(4), "little") % 8192
    return sp & ~0xF


# ---- credentials ------------------------------------------------------------------------------------
def prepare_bprm_creds() -> Cred:
    """prepare_exec_creds(): a copy of the caller's credentials for the new program to change. Only the session keyring
    stays.
    """
    new = prepare_exec_creds()
    new.thread_keyring = new.process_keyring = None
    return new


def check_unsafe_exec(bprm: LinuxBinprm) -> None:
    """Notes what makes gaining rights dangerous: a tracer, no_new_privs, a stranger who shares our cwd."""
    task = current()
    if task.ptrace:
        bprm.unsafe |= LSM_UNSAFE_PTRACE
    if task.cred.no_new_privs:
        bprm.unsafe |= LSM_UNSAFE_NO_NEW_PRIVS
    sharers = sum(1 for t in task.signal.threads if t.fs is task.fs)
    if task.fs.users > sharers:
        bprm.unsafe |= LSM_UNSAFE_SHARE


def bprm_fill_uid(bprm: LinuxBinprm) -> None:
    """The ids of a set-user-ID or set-group-ID program."""
    cred, old = bprm.cred, current().cred
    cred.euid, cred.egid = old.euid, old.egid
    if not mnt_may_suid(bprm.file) or old.no_new_privs:
        return
    inode = bprm.file.f_inode
    mode = inode.i_mode
    if mode & S_ISUID:
        bprm.per_clear |= PER_CLEAR_ON_SETID
        cred.euid = inode.i_uid
    if mode & (S_ISGID | 0o10) == S_ISGID | 0o10:
        bprm.per_clear |= PER_CLEAR_ON_SETID
        cred.egid = inode.i_gid


@may_sleep
def prepare_binprm(bprm: LinuxBinprm) -> None:
    """Credentials and the first 256 bytes of the file to load. Raises EIO, EPERM."""
    bprm_fill_uid(bprm)
    cap_bprm_set_creds(bprm)
    lsm = bprm.kernel.lsm
    if lsm is not None:
        lsm.security_bprm_set_creds(bprm)
    bprm.called_set_creds = True
    head = kernel_read(bprm.file, BINPRM_BUF_SIZE, 0)
    bprm.buf = head + bytes(BINPRM_BUF_SIZE - len(head))


def install_exec_creds(bprm: LinuxBinprm) -> None:
    """The new program's credentials become the task's."""
    lsm = bprm.kernel.lsm
    if lsm is not None:
        lsm.security_bprm_committing_creds(bprm)
    commit_creds(bprm.cred)
    bprm.committed = True
    if lsm is not None:
        lsm.security_bprm_committed_creds(bprm)


def would_dump(bprm: LinuxBinprm, file: File) -> None:
    """Who may execute but not read a program must not get its contents from a core dump or /proc."""
    try:
        inode_permission(file.f_inode, MAY_READ)
    except KernelError:
        bprm.interp_flags |= BINPRM_FLAGS_ENFORCE_NONDUMP


# ---- the point of no return -------------------------------------------------------------------------
@may_sleep
def flush_old_exec(bprm: LinuxBinprm) -> None:
    """Leaves the old program: other threads die, the address space is exchanged, close-on-exec files close.

    Raises EAGAIN, EINTR while there still is a way back (bprm.mm set).
    """
    task = current()
    de_thread(task)
    mm = bprm.mm
    assert mm is not None
    set_mm_exe_file(mm, bprm.file)
    would_dump(bprm, bprm.file)
    exec_mmap(mm)
    bprm.mm = None                         # from here on a failure kills the task
    task.flags &= ~(PF_RANDOMIZE | PF_FORKNOEXEC | PF_KTHREAD | PF_NO_SETAFFINITY)
    flush_thread(task)
    task.personality &= ~bprm.per_clear
    do_close_on_exec(task.files)


def set_mm_exe_file(mm: MmStruct, file: File) -> None:
    """/proc/PID/exe"""
    file.f_count += 1
    old, mm.exe_file = mm.exe_file, file
    if old is not None:
        fput(old)


@may_sleep
def exec_mmap(mm: MmStruct) -> None:
    """Installs the new address space and lets the old one go; a parent in vfork() goes on."""
    task = current()
    old = task.mm
    if old is not None:
        mm_release(task, old)
        down_read(old.mmap_sem)
    task.mm = mm
    active_mm = task.active_mm
    vmacache_flush(task)
    task.active_mm = mm                    # the way out to user mode loads its tables (activate_mm)
    if old is not None:
        up_read(old.mmap_sem)
        signal = task.signal
        pages = max(old.hiwater_rss, sum(old.rss_stat[i] for i in (0, 1, 3)))
        if pages > signal.maxrss:
            signal.maxrss = pages
        mmput(old)
    elif active_mm is not None and active_mm is not mm:
        mmdrop(active_mm)


@may_sleep
def setup_new_exec(bprm: LinuxBinprm) -> None:
    """The task takes the new program's shape: mmap layout, name, signals, dumpable."""
    task = current()
    mm = task.mm
    assert mm is not None
    bprm.secureexec = bprm.secureexec or bprm.cap_elevated
    if bprm.secureexec:
        task.pdeath_signal = 0
        if bprm.rlim_stack[0] > STK_LIM:
            bprm.rlim_stack = (STK_LIM, bprm.rlim_stack[1])
    arch_pick_mmap_layout(mm, task, bprm.rlim_stack[0])
    task.sas_ss_sp = task.sas_ss_size = 0
    task.sas_ss_flags = 2                  # SS_DISABLE
    cred = task.cred
    if bprm.interp_flags & BINPRM_FLAGS_ENFORCE_NONDUMP or cred.euid != cred.uid or cred.egid != cred.gid:
        set_dumpable(mm, SUID_DUMP_DISABLE)
    else:
        set_dumpable(mm, SUID_DUMP_USER)
    perf = task.kernel.perf
    if perf is not None:
        perf.event_exec(task)
    __set_task_comm(task, bprm.filename.rsplit(b"/", 1)[-1])
    if perf is not None:
        perf.event_comm(task, True)
    task.did_exec = True
    flush_signal_handlers(task, False)


def set_dumpable(mm: MmStruct, value: int) -> None:
    """SUID_DUMP_*"""
    mm.dumpable = value


def __set_task_comm(task: TaskStruct, name: bytes) -> None:
    """The name that ps shows: 15 bytes."""
    probe = task.kernel.tp.task_rename
    if probe is not None:
        probe(task, name)
    task.comm = name[:15]


def finalize_exec(bprm: LinuxBinprm) -> None:
    """The stack limit that the layout was made for is the task's from now on."""
    current().signal.rlim[RLIMIT_STACK] = bprm.rlim_stack


# ---- finding the loader -----------------------------------------------------------------------------
@may_sleep
def search_binary_handler(bprm: LinuxBinprm) -> None:
    """Lets the formats try. Raises ENOEXEC if none knows the file, ELOOP after four interpreters."""
    if bprm.recursion_depth > 5:
        raise KernelError(ELOOP)
    for fmt in bprm.kernel.formats:
        bprm.recursion_depth += 1
        try:
            fmt.load_binary(bprm)
            return
        except KernelError as e:
            if bprm.mm is None:            # behind flush_old_exec(): nothing to return to
                force_sigsegv(SIGSEGV)
                raise
            if e.errno != ENOEXEC:
                raise
        finally:
            bprm.recursion_depth -= 1
    raise KernelError(ENOEXEC)


@may_sleep
def exec_binprm(bprm: LinuxBinprm) -> None:
    """Loads, and tells a tracer: its message is the number that the caller had before de_thread()."""
    task = current()
    old_vpid = task.pid
    search_binary_handler(bprm)
    probe = task.kernel.tp.sched_process_exec
    if probe is not None:
        probe(task, old_vpid, bprm)
    if task.ptrace:
        ptrace_event(PTRACE_EVENT_EXEC, old_vpid)


# ---- entry points -----------------------------------------------------------------------------------
@may_sleep
def do_execve(filename: bytes, argv: Strings, envp: Strings) -> None:
    """execve(2)"""
    do_execveat_common(AT_FDCWD, filename, argv, envp, 0)


@may_sleep
def do_execveat(fd: int, filename: bytes, argv: Strings, envp: Strings, flags: int) -> None:
    """execveat(2)"""
    do_execveat_common(fd, filename, argv, envp, flags)


@may_sleep
def do_execveat_common(fd: int, filename: bytes, argv: Strings, envp: Strings, flags: int) -> None:
    __do_execve_file(fd, filename, argv, envp, flags)


@may_sleep
def __do_execve_file(fd: int, filename: bytes, argv: Strings, envp: Strings, flags: int) -> None:
    """Replaces the current task's program. On return its registers start the new one.

    Raises E2BIG, EACCES, EAGAIN, EFAULT, EINVAL, EIO, ELIBBAD, ELOOP, ENOENT, ENOEXEC, ENOMEM, ETXTBSY; the
    caller goes on as before, or dies with SIGSEGV if it was too late.
    """
    task = current()
    kernel = task.kernel
    if task.flags & PF_NPROC_EXCEEDED and nproc_exceeded(task):
        raise KernelError(EAGAIN)
    task.flags &= ~PF_NPROC_EXCEEDED
    displaced: FilesStruct | None = unshare_files(task)
    bprm: LinuxBinprm | None = None
    try:
        cred = prepare_bprm_creds()
        file = do_open_execat(fd, filename, flags)
        try:
            bprm = LinuxBinprm(kernel, filename, filename, file, cred)
            check_unsafe_exec(bprm)
            sched_exec()
            if fd != AT_FDCWD and filename[:1] != b"/":
                bprm.filename = b"/dev/fd/%d/%s" % (fd, filename) if filename else b"/dev/fd/%d" % fd
                bprm.interp = bprm.filename
                if get_close_on_exec(fd):
                    bprm.interp_flags |= BINPRM_FLAGS_PATH_INACCESSIBLE
            bprm_mm_init(bprm)
            argument_strings = count(argv, MAX_ARG_STRINGS)
            environment_strings = count(envp, MAX_ARG_STRINGS)
            prepare_arg_pages(bprm, len(argument_strings), len(environment_strings))
            prepare_binprm(bprm)
            copy_strings_kernel(bprm, [bprm.filename], [])
            bprm.exec = bprm.p
            copy_strings(bprm, environment_strings, bprm.env_sizes)
            copy_strings(bprm, argument_strings, bprm.arg_sizes)
            would_dump(bprm, bprm.file)
            exec_binprm(bprm)
        except KernelError:
            if bprm is not None and bprm.mm is not None:
                mmput(bprm.mm)
            raise
        finally:
            opened = bprm.file if bprm is not None else file
            if opened is not None:         # None: a script's interpreter could not be opened
                fput(opened)
    except KernelError:
        if displaced is not None:          # reset_files_struct(): the old table comes back
            private, task.files = task.files, displaced
            put_files_struct(private)
        raise
    if displaced is not None:
        put_files_struct(displaced)


@notrace
def nproc_exceeded(task: TaskStruct) -> bool:
    """setuid() noted that the user has too many processes: is it still so?"""
    limit = task.signal.rlim[RLIMIT_NPROC][0]
    return limit != RLIM_INFINITY and alloc_uid(task.kernel, task.real_cred.uid).processes > limit


@may_sleep
def do_execve_kernel(filename: bytes, argv: list[bytes], envp: list[bytes]) -> None:
    """do_execve() for a kernel thread that becomes a process (init): the strings are the kernel's."""
    do_execve(filename, argv, envp)


@syscall
def sys_execve(filename: UserPtr, argv: UserPtr, envp: UserPtr) -> int:
    """execve(2)"""
    do_execve(getname(filename), argv, envp)
    return 0


@syscall
def sys_execveat(fd: int, filename: UserPtr, argv: UserPtr, envp: UserPtr, flags: int) -> int:
    """execveat(2)"""
    lookup_flags = LOOKUP_EMPTY if flags & AT_EMPTY_PATH else 0
    do_execveat(fd, getname_flags(filename, lookup_flags), argv, envp, flags)
    return 0
