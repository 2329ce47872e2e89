"""Calls whose argument list depends on the arguments: open's mode, fcntl, clone, futex, prctl, select ...

Owns: one generator a call. Each yields the texts of its arguments, and EXIT where the entry half ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from glasskernel.tools.strace import kinds, structs, xlat
from glasskernel.tools.strace.call import (
    EXIT,
    EXIT_BARE,
    Call,
    Glue,
    Kind,
    address,
    fields,
    flags,
    hexadecimal,
    i32,
    i64,
    named,
    octal,
)

O_CREAT_OR_TMPFILE: Final = 0o20000100


def generic(call: Call) -> Iterator[str]:
    """What is not in the table: six registers, in hexadecimal."""
    for value in call.args:
        yield hexadecimal(value)


# --- files ------------------------------------------------------------------------------------------------


def open_(call: Call) -> Iterator[str]:
    """open, openat"""
    at = 0
    if call.name == "openat":
        yield kinds.dirfd(call, call.args[0])
        at = 1
    yield kinds.path(call, call.args[at])
    how = call.args[at + 1] & 0xFFFFFFFF
    yield kinds.open_flags(how)
    if how & O_CREAT_OR_TMPFILE:
        yield kinds.mode(call, call.args[at + 2])


def mknod(call: Call) -> Iterator[str]:
    """mknod, mknodat: the device only where the type has one."""
    at = 0
    if call.name == "mknodat":
        yield kinds.dirfd(call, call.args[0])
        at = 1
    yield kinds.path(call, call.args[at])
    mode = call.args[at + 1] & 0xFFFF
    yield kinds.symbolic_mode(mode) if mode & 0o170000 else octal(mode)
    if mode & 0o170000 in (0o20000, 0o60000):
        yield kinds.makedev(call.args[at + 2])


def readlink(call: Call) -> Iterator[str]:
    """readlink, readlinkat"""
    at = 0
    if call.name == "readlinkat":
        yield kinds.dirfd(call, call.args[0])
        at = 1
    yield kinds.path(call, call.args[at])
    yield EXIT
    yield address(call.args[at + 1]) if call.failed else kinds.filled(call, call.args[at + 1])
    yield str(i32(call.args[at + 2]))


def readv(call: Call) -> Iterator[str]:
    """readv, preadv, preadv2"""
    yield kinds.fd(call, call.args[0])
    yield EXIT
    filled = structs.iovec_bases(2) if call.failed else structs.iovec_filled(2)
    yield filled(call, call.args[1])
    yield str(call.args[2])
    yield from _positions(call)


def writev(call: Call) -> Iterator[str]:
    """writev, pwritev, pwritev2"""
    yield kinds.fd(call, call.args[0])
    yield structs.iovec(2)(call, call.args[1])
    yield str(call.args[2])
    yield from _positions(call)


def _positions(call: Call) -> Iterator[str]:
    if call.name.startswith("p"):
        yield str(i64(call.args[3]))
        if call.name.endswith("2"):
            yield flags(xlat.RWF, call.args[5] & 0xFFFFFFFF, "RWF_???")


def fcntl(call: Call) -> Iterator[str]:
    command, value = i32(call.args[1]), call.args[2]
    yield kinds.fd(call, call.args[0])
    yield named(xlat.FCNTL, command, "F_???")
    if command == 2:
        yield flags(xlat.FD_FLAGS, value & 0xFFFFFFFF, "FD_???")
    elif command == 4:
        yield kinds.open_flags(value & 0xFFFFFFFF)
    elif command in (6, 7, 37, 38):
        yield structs.flock(call, value)
    elif command in (5, 36):
        yield EXIT
        yield address(value) if call.failed else structs.flock(call, value)
    elif command in (1, 3):
        yield EXIT_BARE
        _fcntl_result(call, command)
    elif command == 10:
        yield kinds.signo(call, value)
    elif command == 1033:
        yield flags(xlat.SEALS, value & 0xFFFFFFFF, "F_SEAL_???")
    elif command == 1034:
        yield EXIT_BARE
        if call.ret:
            call.comment = f"seals {flags(xlat.SEALS, call.ret, None)}"
            call.hex_result = True
    elif command == 1025:
        yield EXIT_BARE
        if call.ret is not None and call.ret >= 0:
            call.hex_result, call.comment = True, named(xlat.LOCK_TYPE, call.ret, "F_???")
    elif command == 1026:
        yield flags(xlat.DNOTIFY, value & 0xFFFFFFFF, "DN_???")
    elif command == 1024:
        yield named(xlat.LOCK_TYPE, i32(value), "F_???")
    elif command in (0, 8, 1030, 1031):
        yield str(i32(value))
    elif command not in (9, 11, 1025, 1032):
        yield hexadecimal(value)


def _fcntl_result(call: Call, command: int) -> None:
    if call.ret is None or call.ret < 0:
        return
    if command == 1 and call.ret:
        call.hex_result, call.comment = True, f"flags {flags(xlat.FD_FLAGS, call.ret, None)}"
    elif command == 3:
        call.hex_result, call.comment = True, f"flags {kinds.open_flags(call.ret)}"


def statx(call: Call) -> Iterator[str]:
    yield kinds.dirfd(call, call.args[0])
    yield kinds.path(call, call.args[1])
    value = call.args[2] & 0xFFFFFFFF
    sync = named(xlat.STATX_SYNC, value & 0x6000, "AT_STATX_???")
    rest = value & ~0x6000
    yield f"{sync}|{flags(xlat.AT, rest, None)}" if rest else sync
    yield flags(xlat.STATX_MASK, call.args[3] & 0xFFFFFFFF, "STATX_???")
    yield EXIT
    yield address(call.args[4]) if call.failed else structs.statx(call, call.args[4])


def mount(call: Call) -> Iterator[str]:
    how = call.args[3]
    old = how & (0x20 | 0x1000 | 0x2000 | 0xE0000 | 0x100000)  # the type is not looked at
    yield kinds.path(call, call.args[0])
    yield kinds.path(call, call.args[1])
    yield (
        address(call.args[2])
        if old & (0x1000 | 0x2000) or (old and not call.args[2])
        else kinds.string(call, call.args[2])
    )
    yield flags(xlat.MOUNT, how, "MS_???")
    yield address(call.args[4]) if old & (0x1000 | 0x2000) else kinds.string(call, call.args[4])


def epoll_ctl(call: Call) -> Iterator[str]:
    operation = i32(call.args[1])
    yield str(i32(call.args[0]))
    yield named(xlat.EPOLL_CTL, operation, "EPOLL_CTL_???")
    yield str(i32(call.args[2]))
    yield address(call.args[3]) if operation == 2 else structs.epoll_event(call, call.args[3])


def select(call: Call) -> Iterator[str]:
    """select, pselect6: sets are shown as they go in; what is ready stands behind the result."""
    nfds = min(max(i32(call.args[0]), 0), 1024)
    size = (nfds + 63) // 64 * 8
    timeout: Kind = structs.timespec if call.name == "pselect6" else structs.timeval
    yield str(i32(call.args[0]))
    for value in call.args[1:4]:
        raw = call.read(value, size) if value else None
        yield address(value) if raw is None else f"[{' '.join(map(str, structs.fd_set(nfds, raw)))}]"
    yield timeout(call, call.args[4])
    if call.name == "pselect6":
        got = call.unpack("<2Q", call.args[5])
        yield (
            address(call.args[5])
            if got is None
            else fields(f"sigmask={structs.sigset(call, got[0])}", f"sigsetsize={got[1]}")
        )
    yield EXIT_BARE
    if call.ret == 0:
        call.comment = "Timeout"
    elif call.ret is not None and call.ret > 0:
        ready = []
        left = call.ret  # strace stops when it has shown as many as the result says
        for title, value in zip(("in", "out", "except"), call.args[1:4], strict=True):
            raw = call.read(value, size) if value else None
            if raw is not None and (members := structs.fd_set(nfds, raw)[:left]):
                left -= len(members)
                ready.append(f"{title} [{' '.join(map(str, members))}]")
        if call.args[4]:
            ready.append(f"left {timeout(call, call.args[4])}")
        call.comment = ", ".join(ready)


def poll(call: Call) -> Iterator[str]:
    """poll, ppoll"""
    yield structs.pollfds(call, call.args[0])
    yield str(call.args[1] & 0xFFFFFFFF)
    if call.name == "ppoll":
        yield structs.timespec(call, call.args[2])
        yield structs.sigset(call, call.args[3])
        yield str(call.args[4])
    else:
        yield str(i32(call.args[2]))
    yield EXIT_BARE
    if call.ret == 0:
        call.comment = "Timeout"
    elif call.ret is not None and call.ret > 0:
        ready = []
        for i in range(min(call.args[1] & 0xFFFFFFFF, 1024)):
            got = call.unpack("<iHH", call.args[0] + 8 * i)
            if got is not None and got[2]:
                ready.append(f"{{fd={got[0]}, revents={flags(xlat.POLL, got[2], 'POLL_???')}}}")
        call.comment = f"[{', '.join(ready)}]"
        if call.name == "ppoll" and call.args[2]:
            call.comment += f", left {structs.timespec(call, call.args[2])}"


# --- memory -----------------------------------------------------------------------------------------------


def mmap(call: Call) -> Iterator[str]:
    call.hex_result = True
    yield address(call.args[0])
    yield str(call.args[1])
    yield flags(xlat.PROT, call.args[2], "PROT_???")
    how = call.args[3] & 0xFFFFFFFF
    kind = named(xlat.MAP_TYPE, how & 0xF, "MAP_???")
    rest = how & ~0xF
    yield f"{kind}|{flags(xlat.MAP, rest, None)}" if rest else kind
    yield str(i32(call.args[4]))
    yield hexadecimal(call.args[5])


def mremap(call: Call) -> Iterator[str]:
    call.hex_result = True
    yield address(call.args[0])
    yield str(call.args[1])
    yield str(call.args[2])
    yield flags(xlat.MREMAP, call.args[3], "MREMAP_???")
    if call.args[3] & 6:
        yield address(call.args[4])


def mincore(call: Call) -> Iterator[str]:
    yield address(call.args[0])
    yield str(call.args[1])
    yield EXIT
    pages = (call.args[1] + 4095) // 4096
    raw = None if call.failed else call.read(call.args[2], min(pages, 32))
    if raw is None:
        yield address(call.args[2])
    else:
        shown = [str(byte) if byte < 2 else hexadecimal(byte) for byte in raw]
        yield f"[{', '.join(shown + (['...'] if pages > 32 else []))}]"


# --- processes --------------------------------------------------------------------------------------------

UC_SIGMASK: Final = 296  # offset in struct ucontext
CLONE_PIDFD: Final = 0x1000
CLONE_SETTLS: Final = 0x80000
CLONE_PARENT_SETTID: Final = 0x100000
CLONE_CHILD_TID: Final = 0x1200000  # CLEARTID | SETTID


def clone_flags(value: int, signal: int) -> str:
    """The low byte of clone's flags is the exit signal."""
    shown = flags(xlat.CLONE, value, "CLONE_???") if value else ""
    if signal:
        shown += ("|" if shown else "") + kinds.signal_name(signal)
    return shown or "0"


def clone(call: Call) -> Iterator[str]:
    how = call.args[0]
    yield f"child_stack={address(call.args[1])}"
    yield f"flags={clone_flags(how & 0xFFFFFFFFFFFFFF00, how & 0xFF)}"
    if not how & (CLONE_PIDFD | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_TID):
        return
    yield EXIT_BARE
    if how & (CLONE_PIDFD | CLONE_PARENT_SETTID):
        shown = address(call.args[2]) if call.failed else kinds.int_at(call, call.args[2])
        yield f"parent_tid={shown}"
    if how & CLONE_SETTLS:
        yield f"tls={hexadecimal(call.args[4])}"
    if how & CLONE_CHILD_TID:
        yield f"child_tidptr={address(call.args[3])}"


def clone3(call: Call) -> Iterator[str]:
    """The kernel's answers (pidfd, parent_tid) follow the structure after `=>`."""
    got = call.unpack("<8Q", call.args[0])
    if got is None or call.args[1] < 64:
        yield address(call.args[0])
        yield str(call.args[1])
        return
    how, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls = got
    parts = [f"flags={flags(xlat.CLONE, how, 'CLONE_???')}"]
    if how & CLONE_PIDFD:
        parts.append(f"pidfd={address(pidfd)}")
    if how & CLONE_CHILD_TID:
        parts.append(f"child_tid={address(child_tid)}")
    if how & CLONE_PARENT_SETTID:
        parts.append(f"parent_tid={address(parent_tid)}")
    parts.append(f"exit_signal={kinds.signal_name(signal)}")
    parts.append(f"stack={address(stack)}")
    parts.append(f"stack_size={hexadecimal(stack_size)}")
    if how & CLONE_SETTLS:
        parts.append(f"tls={hexadecimal(tls)}")
    yield fields(*parts)
    if how & (CLONE_PIDFD | CLONE_PARENT_SETTID):
        yield EXIT_BARE
        answers = []
        if how & CLONE_PIDFD and (number := call.unpack("<i", pidfd)) is not None:
            answers.append(f"pidfd=[{number[0]}]")
        if how & CLONE_PARENT_SETTID and (number := call.unpack("<i", parent_tid)) is not None:
            answers.append(f"parent_tid=[{number[0]}]")
        if answers and not call.failed:
            yield Glue(f" => {fields(*answers)}")
    yield str(call.args[1])


def wait4(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    yield EXIT
    reaped = call.ret is not None and call.ret > 0
    yield structs.wait_status_at(call, call.args[1]) if reaped else address(call.args[1])
    yield flags(xlat.WAIT, call.args[2] & 0xFFFFFFFF, "W???")
    yield structs.rusage(call, call.args[3]) if reaped else address(call.args[3])


def waitid(call: Call) -> Iterator[str]:
    yield named(xlat.WAITID, i32(call.args[0]), "P_???")
    yield str(i32(call.args[1]))
    yield EXIT
    yield address(call.args[2]) if call.failed else structs.siginfo(call, call.args[2])
    yield flags(xlat.WAIT, call.args[3] & 0xFFFFFFFF, "W???")
    yield address(call.args[4]) if call.failed else structs.rusage(call, call.args[4])


def nanosleep(call: Call) -> Iterator[str]:
    """nanosleep, clock_nanosleep: the remainder is only written when a signal cut the sleep short."""
    at, absolute = 0, False
    if call.name == "clock_nanosleep":
        yield kinds.clock(call, call.args[0])
        yield flags(xlat.TIMER_FLAGS, call.args[1] & 0xFFFFFFFF, "TIMER_???")
        at, absolute = 2, bool(call.args[1] & 1)
    yield structs.timespec(call, call.args[at])
    if absolute and call.name == "clock_nanosleep":
        yield EXIT
        yield address(call.args[at + 1])
        return
    yield EXIT
    cut_short = call.ret is not None and -517 < call.ret <= -512
    yield structs.timespec(call, call.args[at + 1]) if cut_short else address(call.args[at + 1])


def futex(call: Call) -> Iterator[str]:
    word, operation, value, fourth, second, third = call.args
    command = operation & 0x7F
    yield address(word)
    private = "_PRIVATE" if operation & 0x80 else ""
    clock = "|FUTEX_CLOCK_REALTIME" if operation & 0x100 else ""
    yield named(xlat.FUTEX, command, "FUTEX_???") + private + clock
    if command not in xlat.FUTEX.names:
        yield str(value & 0xFFFFFFFF)
        yield address(fourth)
        yield address(second)
        yield hexadecimal(third)
        return
    if command not in (7, 8, 6, 13):
        yield str(value & 0xFFFFFFFF)
    if command in (0, 6, 9, 11, 13):
        yield structs.timespec(call, fourth)
    if command in (9, 10):
        yield _bitset(third)
    elif command in (3, 4, 12):
        yield str(fourth & 0xFFFFFFFF)
        yield address(second)
        if command != 3:
            yield str(third & 0xFFFFFFFF)
    elif command == 5:
        yield str(fourth & 0xFFFFFFFF)
        yield address(second)
        yield _wake_op(third & 0xFFFFFFFF)
    elif command == 11:
        yield address(second)


def _bitset(value: int) -> str:
    value &= 0xFFFFFFFF
    return "FUTEX_BITSET_MATCH_ANY" if value == 0xFFFFFFFF else hexadecimal(value)


def _wake_op(value: int) -> str:
    operations = ("FUTEX_OP_SET", "FUTEX_OP_ADD", "FUTEX_OP_OR", "FUTEX_OP_ANDN", "FUTEX_OP_XOR")
    compares = ("EQ", "NE", "LT", "LE", "GT", "GE")
    number, compare = value >> 28 & 7, value >> 24 & 15
    if number >= len(operations) or compare >= len(compares):
        return hexadecimal(value)
    shift = "FUTEX_OP_OPARG_SHIFT<<28|" if value >> 31 else ""
    operand, against = hexadecimal(value >> 12 & 0xFFF), hexadecimal(value & 0xFFF)
    return f"{shift}{operations[number]}<<28|{operand}<<12|FUTEX_OP_CMP_{compares[compare]}<<24|{against}"


def prctl(call: Call) -> Iterator[str]:
    option = call.args[0] & 0xFFFFFFFF
    value = call.args[1]
    yield named(xlat.PRCTL, option, "PR_???")
    if option == 3:
        yield EXIT_BARE
        if call.ret is not None and call.ret >= 0:
            call.comment = xlat.DUMPABLE.names.get(call.ret, "")
    elif option in _PRCTL_NOTHING:
        return
    elif option in _PRCTL_OUT_INT:
        yield EXIT
        yield address(value) if call.failed else kinds.int_at(call, value)
    elif option == 40:
        yield EXIT
        yield address(value) if call.failed else kinds.hex64_at(call, value)
    elif option == 1:
        yield kinds.signo(call, value)
    elif option == 4:
        yield named(xlat.DUMPABLE, value, "SUID_DUMP_???")
    elif option == 15:
        yield call.string(value, 15)
    elif option == 16:
        yield EXIT
        yield address(value) if call.failed else call.string(value, 16)
    elif option in (23, 24):
        yield named(xlat.CAPABILITY, value, "CAP_???")
    elif option in (8, 29, 36):
        yield str(value)
    elif option == 0x53564D41:
        yield named(xlat.PRCTL_VMA, value, "PR_SET_VMA_???")
        yield address(call.args[2])
        yield str(call.args[3])
        yield call.string(call.args[4], 80) if not value else hexadecimal(call.args[4])
    elif option == 22:
        yield named(xlat.SECCOMP_MODE, value, "SECCOMP_MODE_???")
        if value == 2:
            yield address(call.args[2])
    elif option in (38, 39, 41, 42):
        for later in call.args[1:5]:
            yield str(later) if later < 1 << 32 else hexadecimal(later)
            if option == 42:
                break
    else:
        for later in call.args[1:5]:
            yield hexadecimal(later)


_PRCTL_NOTHING: Final = frozenset((7, 13, 21, 27, 30, 31, 32, 34))
_PRCTL_OUT_INT: Final = frozenset((2, 5, 9, 11, 19, 25, 37))


def membarrier(call: Call) -> Iterator[str]:
    """The query answers with the set of commands the kernel knows."""
    command = call.args[0] & 0xFFFFFFFF
    yield named(xlat.MEMBARRIER, command, "MEMBARRIER_CMD_???")
    yield hexadecimal(call.args[1] & 0xFFFFFFFF)
    if not command:
        yield EXIT_BARE
        if call.ret is not None and call.ret > 0:
            call.hex_result, call.comment = True, flags(xlat.MEMBARRIER, call.ret, None)


def arch_prctl(call: Call) -> Iterator[str]:
    code = call.args[0] & 0xFFFFFFFF
    yield named(xlat.ARCH_PRCTL, code, "ARCH_???")
    if code in (0x1003, 0x1004):
        yield EXIT
        yield address(call.args[1]) if call.failed else kinds.hex64_at(call, call.args[1])
    elif code in (0x1011,):
        return
    else:
        yield hexadecimal(call.args[1])


def rt_sigreturn(call: Call) -> Iterator[str]:
    """The mask about to be restored, from the frame at the stack pointer (if the kernel told us that)."""
    got = call.unpack("<Q", call.stack_pointer + UC_SIGMASK) if call.stack_pointer else None
    if got is not None:
        yield f"{{mask={structs.sigset_text(got[0])}}}"


def rt_sigtimedwait(call: Call) -> Iterator[str]:
    yield structs.sigset(call, call.args[0])
    yield EXIT
    yield address(call.args[1]) if call.failed else structs.siginfo(call, call.args[1])
    yield structs.timespec(call, call.args[2])
    yield str(call.args[3])
    if call.ret is not None and call.ret > 0:
        call.comment = kinds.signal_name(call.ret)


def ptrace(call: Call) -> Iterator[str]:
    request = call.args[0] & 0xFFFFFFFF
    yield named(xlat.PTRACE, request, "PTRACE_???")
    if request == 0:
        return
    yield str(i32(call.args[1]))
    if request in (8, 16):
        return
    if request in (0x4200, 0x4206):
        yield address(call.args[2])
        yield flags(xlat.PTRACE_O, call.args[3] & 0xFFFFFFFF, "PTRACE_O_???")
        return
    yield address(call.args[2])
    if request in (7, 9, 17, 24):
        yield kinds.signal_name(i32(call.args[3]))
    else:
        yield address(call.args[3])


def sysv_get(call: Call) -> Iterator[str]:
    """shmget, semget, msgget"""
    key = call.args[0] & 0xFFFFFFFF
    yield "IPC_PRIVATE" if not key else hexadecimal(key)
    how = call.args[1] if call.name == "msgget" else call.args[2]
    if call.name == "shmget":
        yield str(call.args[1])
    elif call.name == "semget":
        yield str(i32(call.args[1]))
    names, mode = flags(xlat.IPC_GET, how & 0xFFFFFE00, None), octal(how & 0o777)
    yield f"{names}|{mode}" if how & 0xFFFFFE00 else mode


def ioprio_set(call: Call) -> Iterator[str]:
    yield named(xlat.IOPRIO_WHO, i32(call.args[0]), "IOPRIO_WHO_???")
    yield str(i32(call.args[1]))
    yield ioprio(call.args[2])


def ioprio(value: int) -> str:
    kind = named(xlat.IOPRIO_CLASS, value >> 13 & 7, "IOPRIO_CLASS_???")
    return f"IOPRIO_PRIO_VALUE({kind}, {value & 0x1FFF})"
