"""Argument kinds for structures in user memory.

Linux: include/uapi/**; the offsets are the x86-64 ABI's.
Owns: one function a structure. Where strace shows only part of one and `...`, so do we.
Invariants: unreadable memory prints as an address, never raises.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from typing import Any, Final

from glasskernel.tools.strace import xlat
from glasskernel.tools.strace.call import Call, Kind, address, fields, flags, hexadecimal, i32, named
from glasskernel.tools.strace.kinds import makedev, open_flags, signal_name, symbolic_mode, text

# --- time -------------------------------------------------------------------------------------------------


def timespec_text(got: tuple[Any, ...]) -> str:
    return f"{{tv_sec={got[0]}, tv_nsec={got[1]}}}"


def timeval_text(got: tuple[Any, ...]) -> str:
    return f"{{tv_sec={got[0]}, tv_usec={got[1]}}}"


def timespec(call: Call, value: int) -> str:
    got = call.unpack("<2q", value)
    return address(value) if got is None else timespec_text(got)


def timeval(call: Call, value: int) -> str:
    got = call.unpack("<2q", value)
    return address(value) if got is None else timeval_text(got)


def timezone(call: Call, value: int) -> str:
    got = call.unpack("<2i", value)
    return address(value) if got is None else f"{{tz_minuteswest={got[0]}, tz_dsttime={got[1]}}}"


def itimerspec(call: Call, value: int) -> str:
    got = call.unpack("<4q", value)
    if got is None:
        return address(value)
    return fields(f"it_interval={timespec_text(got[:2])}", f"it_value={timespec_text(got[2:])}")


def itimerval(call: Call, value: int) -> str:
    got = call.unpack("<4q", value)
    if got is None:
        return address(value)
    return fields(f"it_interval={timeval_text(got[:2])}", f"it_value={timeval_text(got[2:])}")


def date(seconds: int, fraction: str = "") -> str:
    """ISO 8601; the log is in UTC, so that it is the same on every host."""
    try:
        moment = time.gmtime(seconds)
    except (OverflowError, ValueError, OSError):
        return ""
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", moment) + (f".{fraction}" if fraction.strip("0") else "") + "+0000"
    )


UTIME_NOW: Final = 0x3FFFFFFF
UTIME_OMIT: Final = 0x3FFFFFFE


def _utime(got: tuple[Any, ...]) -> str:
    if got[1] in (UTIME_NOW, UTIME_OMIT):
        return "UTIME_NOW" if got[1] == UTIME_NOW else "UTIME_OMIT"
    return f"{timespec_text(got)} /* {date(got[0], f'{got[1]:09d}')} */"


def utimes(call: Call, value: int) -> str:
    """struct timespec[2] of utimensat"""
    got = call.unpack("<4q", value)
    return address(value) if got is None else f"[{_utime(got[:2])}, {_utime(got[2:])}]"


def timevals(call: Call, value: int) -> str:
    """struct timeval[2] of utimes"""
    got = call.unpack("<4q", value)
    if got is None:
        return address(value)
    shown = [f"{timeval_text(tv)} /* {date(tv[0], f'{tv[1]:06d}')} */" for tv in (got[:2], got[2:])]
    return f"[{', '.join(shown)}]"


def time_at(call: Call, value: int) -> str:
    """time_t *"""
    got = call.unpack("<q", value)
    return address(value) if got is None else f"[{got[0]} /* {date(got[0])} */]"


def tms(call: Call, value: int) -> str:
    got = call.unpack("<4q", value)
    if got is None:
        return address(value)
    names = ("tms_utime", "tms_stime", "tms_cutime", "tms_cstime")
    return fields(*(f"{name}={ticks(n)}" for name, n in zip(names, got, strict=True)))


def ticks(count: int) -> str:
    """clock_t, with its meaning when it is not zero."""
    return f"{count} /* {count // 100}.{count % 100:02d} s */" if count else "0"


# --- files ------------------------------------------------------------------------------------------------


def stat(call: Call, value: int) -> str:
    got = call.unpack("<QQQIIIIQqqq", value)
    if got is None:
        return address(value)
    st_mode, st_rdev, st_size = got[3], got[7], got[8]
    third = (
        f"st_rdev={makedev(st_rdev)}" if st_mode & 0o170000 in (0o20000, 0o60000) else f"st_size={st_size}"
    )
    return fields(f"st_mode={symbolic_mode(st_mode)}", third, "...")


def statx(call: Call, value: int) -> str:
    got = call.unpack("<IIQIIIHHQQQ", value)
    if got is None:
        return address(value)
    return fields(
        f"stx_mask={flags(xlat.STATX_MASK, got[0], 'STATX_???')}",
        f"stx_attributes={flags(xlat.STATX_ATTR, got[2], 'STATX_ATTR_???')}",
        f"stx_mode={symbolic_mode(got[6])}",
        f"stx_size={got[9]}",
        "...",
    )


def statfs(call: Call, value: int) -> str:
    got = call.unpack("<7q2I3q", value)
    if got is None:
        return address(value)
    names = ("f_bsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
    return fields(
        f"f_type={named(xlat.FS_MAGIC, got[0] & 0xFFFFFFFF, 'FSMAGIC_???')}".replace(
            " /* FSMAGIC_??? */", ""
        ),
        *(f"{name}={n}" for name, n in zip(names, got[1:7], strict=True)),
        f"f_fsid={{val=[{hexadecimal(got[7])}, {hexadecimal(got[8])}]}}",
        f"f_namelen={got[9]}",
        f"f_frsize={got[10]}",
        f"f_flags={flags(xlat.STATFS, got[11], 'ST_???')}",
    )


def dirents(call: Call, value: int) -> str:
    """struct linux_dirent64[]: only counted, as the result says how many bytes."""
    raw = call.read(value, call.ret or 0)
    if raw is None:
        return address(value)
    count = offset = 0
    while offset + 19 <= len(raw):
        length = int.from_bytes(raw[offset + 16 : offset + 18], "little")
        if not length:
            break
        offset += length
        count += 1
    return f"{address(value)} /* {count} entr{'y' if count == 1 else 'ies'} */"


def iovec(count_arg: int) -> Kind:
    """struct iovec[] with the bytes to be written."""

    def show(call: Call, value: int) -> str:
        return iovec_text(call, value, call.args[count_arg], None)

    return show


def iovec_filled(count_arg: int) -> Kind:
    """struct iovec[] of which the kernel filled as many bytes as it returned."""

    def show(call: Call, value: int) -> str:
        return iovec_text(call, value, call.args[count_arg], call.ret or 0)

    return show


def iovec_text(call: Call, value: int, count: int, limit: int | None) -> str:
    left = limit

    def element(got: tuple[Any, ...]) -> str:
        nonlocal left
        base, length = got
        shown = length
        if left is not None:
            shown = min(length, left)
            left -= shown
        return f"{{iov_base={call.buffer(base, shown)}, iov_len={length}}}"

    return call.array(value, count, "<2Q", element) if count else ("[]" if value else "NULL")


def iovec_bases(count_arg: int) -> Kind:
    """struct iovec[] of a call that failed: addresses only."""

    def show(call: Call, value: int) -> str:
        return call.array(
            value,
            call.args[count_arg],
            "<2Q",
            lambda got: f"{{iov_base={address(got[0])}, iov_len={got[1]}}}",
        )

    return show


def open_how(call: Call, value: int) -> str:
    got = call.unpack("<3Q", value)
    if got is None:
        return address(value)
    parts = [f"flags={open_flags(got[0])}"]
    if got[0] & 0o20000100 or got[1]:
        parts.append(f"mode={'0' if got[1] else ''}{got[1]:o}")
    parts.append(f"resolve={flags(xlat.RESOLVE, got[2], 'RESOLVE_???')}")
    return fields(*parts)


def flock(call: Call, value: int) -> str:
    got = call.unpack("<hhiqqii", value)
    if got is None:
        return address(value)
    parts = [
        f"l_type={named(xlat.LOCK_TYPE, got[0], 'F_???')}",
        f"l_whence={named(xlat.SEEK, got[1], 'SEEK_???')}",
        f"l_start={got[3]}",
        f"l_len={got[4]}",
    ]
    if call.ret is not None:
        parts.append(f"l_pid={got[5]}")
    return fields(*parts)


# --- processes --------------------------------------------------------------------------------------------


def rlimit_value(limit: int) -> str:
    if limit == 0xFFFFFFFFFFFFFFFF:
        return "RLIM64_INFINITY"
    return f"{limit // 1024}*1024" if limit > 1024 and limit % 1024 == 0 else str(limit)


def rlimit(call: Call, value: int) -> str:
    got = call.unpack("<2Q", value)
    if got is None:
        return address(value)
    return fields(f"rlim_cur={rlimit_value(got[0])}", f"rlim_max={rlimit_value(got[1])}")


def rusage(call: Call, value: int) -> str:
    got = call.unpack("<4q", value)
    if got is None:
        return address(value)
    return fields(f"ru_utime={timeval_text(got[:2])}", f"ru_stime={timeval_text(got[2:])}", "...")


def wait_status(status: int) -> str:
    """The conditions sys/wait.h's macros would find true."""
    if status == 0xFFFF:
        return "WIFCONTINUED(s)"
    if status & 0xFF == 0x7F:
        event = status >> 16 & 0xFF
        shown = f"WIFSTOPPED(s) && WSTOPSIG(s) == {signal_name(status >> 8 & 0xFF)}"
        return shown + (f" | 0x{event:x}0000" if event else "")
    if status & 0x7F:
        core = " && WCOREDUMP(s)" if status & 0x80 else ""
        return f"WIFSIGNALED(s) && WTERMSIG(s) == {signal_name(status & 0x7F)}{core}"
    return f"WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}"


def wait_status_at(call: Call, value: int) -> str:
    got = call.unpack("<I", value)
    return address(value) if got is None else f"[{{{wait_status(got[0])}}}]"


def host_name(call: Call, value: int) -> str:
    """A name no longer than the kernel takes"""
    return call.buffer(value, call.args[1]) if call.args[1] <= 64 else address(value)


def utsname(call: Call, value: int) -> str:
    got = call.read(value, 130)
    if got is None:
        return address(value)
    return fields(f"sysname={text(got[:65])}", f"nodename={text(got[65:])}", "...")


def sysinfo(call: Call, value: int) -> str:
    got = call.unpack("<q3Q6QHH4xQQI", value)
    if got is None:
        return address(value)
    names = ("totalram", "freeram", "sharedram", "bufferram", "totalswap", "freeswap", "procs")
    return fields(
        f"uptime={got[0]}",
        f"loads=[{got[1]}, {got[2]}, {got[3]}]",
        *(f"{name}={n}" for name, n in zip(names, got[4:11], strict=True)),
        f"totalhigh={got[12]}",
        f"freehigh={got[13]}",
        f"mem_unit={got[14]}",
    )


def _cpu_set(call: Call, value: int, length: int) -> str:
    raw = call.read(value, min(length, 1024)) if value else None
    if raw is None:
        return address(value)
    mask = int.from_bytes(raw, "little")
    return f"[{' '.join(str(cpu) for cpu in range(len(raw) * 8) if mask >> cpu & 1)}]"


def cpu_set_in(call: Call, value: int) -> str:
    """A mask of CPUs; its length in bytes is the argument before it."""
    return _cpu_set(call, value, call.args[1])


def cpu_set_out(call: Call, value: int) -> str:
    """The kernel's answer; its length in bytes is the result."""
    return _cpu_set(call, value, call.ret or 0)


def groups(call: Call, value: int) -> str:
    """gid_t[], counted by the argument before it"""
    return call.array(value, call.args[0] & 0xFFFFFFFF, "<I", lambda got: str(got[0]))


def groups_filled(call: Call, value: int) -> str:
    """gid_t[], counted by the result"""
    return call.array(value, (call.ret or 0) if call.args[0] else 0, "<I", lambda got: str(got[0]))


def pointer_at(call: Call, value: int) -> str:
    got = call.unpack("<Q", value)
    return address(value) if got is None else f"[{address(got[0])}]"


def size_at(call: Call, value: int) -> str:
    got = call.unpack("<Q", value)
    return address(value) if got is None else f"[{got[0]}]"


def sched_param(call: Call, value: int) -> str:
    got = call.unpack("<i", value)
    return address(value) if got is None else f"[{got[0]}]"


def sched_attr(call: Call, value: int) -> str:
    got = call.unpack("<IIQiIQQQ", value)
    if got is None:
        return address(value)
    names = ("sched_nice", "sched_priority", "sched_runtime", "sched_deadline", "sched_period")
    return fields(
        f"size={got[0]}",
        f"sched_policy={named(xlat.SCHED, got[1], 'SCHED_???')}",
        f"sched_flags={flags(xlat.SCHED_FLAG, got[2], 'SCHED_FLAG_???')}",
        *(f"{name}={n}" for name, n in zip(names, got[3:], strict=True)),
        *_util_clamp(call, value, got[0]),
    )


def _util_clamp(call: Call, value: int, size: int) -> list[str]:
    """Fields that only the second version of struct sched_attr has."""
    got = call.unpack("<2I", value + 48) if size >= 56 else None
    return [] if got is None else [f"sched_util_min={got[0]}", f"sched_util_max={got[1]}"]


def cap_header(call: Call, value: int) -> str:
    got = call.unpack("<Ii", value)
    if got is None:
        return address(value)
    version = named(xlat.CAP_VERSION, got[0], "_LINUX_CAPABILITY_VERSION_???")
    return fields(f"version={version}", f"pid={got[1]}")


def cap_data(call: Call, value: int) -> str:
    got = call.unpack("<6I", value)
    if got is None:
        return address(value)
    names = ("effective", "permitted", "inheritable")
    return fields(*(f"{name}={_capabilities(got[i] | got[i + 3] << 32)}" for i, name in enumerate(names)))


def _capabilities(mask: int) -> str:
    shown = [f"1<<{name}" for number, name in xlat.CAPABILITY.names.items() if mask >> number & 1]
    rest = mask >> len(xlat.CAPABILITY.names) << len(xlat.CAPABILITY.names)
    if rest:
        shown.append(hexadecimal(rest))
    return "|".join(shown) or "0"


# --- signals ----------------------------------------------------------------------------------------------


def sigset_text(mask: int) -> str:
    """[INT CHLD], or ~[KILL STOP] when most signals are in the set."""
    mask &= 0xFFFFFFFFFFFFFFFF
    inverted = mask.bit_count() >= 42
    if inverted:
        mask ^= 0xFFFFFFFFFFFFFFFF
    names = " ".join(signal_name(n + 1).removeprefix("SIG") for n in range(64) if mask >> n & 1)
    return f"{'~' if inverted else ''}[{names}]"


def sigset(call: Call, value: int) -> str:
    got = call.unpack("<Q", value)
    return address(value) if got is None else sigset_text(got[0])


SA_RESTORER: Final = 0x4000000


def sigaction(call: Call, value: int) -> str:
    got = call.unpack("<4Q", value)
    if got is None:
        return address(value)
    handler, sa_flags, restorer, mask = got
    parts = [
        f"sa_handler={({0: 'SIG_DFL', 1: 'SIG_IGN'}).get(handler, hex(handler))}",
        f"sa_mask={sigset_text(mask)}",
        f"sa_flags={flags(xlat.SA, sa_flags, 'SA_???')}",
    ]
    if sa_flags & SA_RESTORER:
        parts.append(f"sa_restorer={address(restorer)}")
    return fields(*parts)


def stack_t(call: Call, value: int) -> str:
    got = call.unpack("<QiiQ", value)
    if got is None:
        return address(value)
    return fields(
        f"ss_sp={address(got[0])}",
        f"ss_flags={flags(xlat.SS, got[1] & 0xFFFFFFFF, 'SS_???')}",
        f"ss_size={got[3]}",
    )


def sigevent(call: Call, value: int) -> str:
    got = call.unpack("<Qiii", value)
    if got is None:
        return address(value)
    parts = []
    if got[0]:
        parts.append(f"sigev_value={{sival_int={i32(got[0])}, sival_ptr={address(got[0])}}}")
    parts.append(f"sigev_signo={signal_name(got[1])}")
    parts.append(f"sigev_notify={named(xlat.SIGEV, got[2], 'SIGEV_???')}")
    if got[2] == 4:
        parts.append(f"sigev_notify_thread_id={got[3]}")
    return fields(*parts)


FAULTS: Final = frozenset((4, 5, 7, 8, 11))
SIGCHLD: Final = 17
SIGIO: Final = 29
SIGSYS: Final = 31


def siginfo_text(signo: int, info: Mapping[str, int]) -> str:
    """struct siginfo as a mapping of its field names; which are shown depends on signal and code."""
    code = info.get("si_code", 0)
    specific = xlat.SI_CODES.get(signo)
    name = specific.names.get(code) if specific is not None and 0 < code < 0x80 else None
    parts = [f"si_signo={signal_name(signo)}", f"si_code={name or named(xlat.SI_CODE, code, 'SI_???')}"]
    if info.get("si_errno"):
        parts.append(f"si_errno={info['si_errno']}")

    def sender() -> list[str]:
        return [f"si_pid={info.get('si_pid', 0)}", f"si_uid={info.get('si_uid', 0)}"]

    def value() -> list[str]:
        pointer = info.get("si_ptr", info.get("si_value", 0))
        return [f"si_int={i32(info.get('si_int', pointer))}", f"si_ptr={address(pointer)}"]

    if code == -2:
        timer = info.get("si_timerid", info.get("si_tid", 0))
        parts += [
            f"si_timerid={hexadecimal(timer)}",
            f"si_overrun={info.get('si_overrun', 0)}",
        ]
        parts += value()
    elif code in (0, -6):
        parts += sender()
    elif code < 0:
        parts += sender() + value()
    elif signo == SIGCHLD:
        status = info.get("si_status", 0)
        parts += sender()
        parts.append(f"si_status={status if code == 1 else signal_name(status)}")
        parts.append(f"si_utime={ticks(info.get('si_utime', 0))}")
        parts.append(f"si_stime={ticks(info.get('si_stime', 0))}")
    elif signo in FAULTS:
        parts.append(f"si_addr={address(info.get('si_addr', 0))}")
    elif signo == SIGIO and code < 0x80:
        band = flags(xlat.POLL, info.get("si_band", 0), "POLL_???")
        parts += [f"si_band={band}", f"si_fd={info.get('si_fd', 0)}"]
    elif signo == SIGSYS:
        parts.append(f"si_call_addr={address(info.get('si_call_addr', 0))}")
        parts += [f"si_syscall={info.get('si_syscall', 0)}", f"si_arch={hexadecimal(info.get('si_arch', 0))}"]
    elif code != 0x80:
        parts += sender() + value()
    return fields(*parts)


def siginfo(call: Call, value: int) -> str:
    """siginfo_t in user memory"""
    raw = call.read(value, 48)
    if raw is None:
        return address(value)
    signo, errno, code = struct.unpack_from("<iii", raw)
    if not signo:
        return "{}"
    info = {"si_errno": errno, "si_code": code}
    info["si_pid"], info["si_uid"] = struct.unpack_from("<iI", raw, 16)
    if code == -2:
        info["si_timerid"], info["si_overrun"], info["si_ptr"] = struct.unpack_from("<iiQ", raw, 16)
    elif signo == SIGCHLD and 0 < code < 0x80:
        info["si_status"], info["si_utime"], info["si_stime"] = struct.unpack_from("<i4xqq", raw, 24)
    elif signo in FAULTS and code > 0:
        (info["si_addr"],) = struct.unpack_from("<Q", raw, 16)
    elif signo == SIGIO and 0 < code < 0x80:
        info["si_band"], info["si_fd"] = struct.unpack_from("<qi", raw, 16)
    else:
        (info["si_ptr"],) = struct.unpack_from("<Q", raw, 24)
    return siginfo_text(signo, info)


# --- readiness --------------------------------------------------------------------------------------------


def pollfds(call: Call, value: int) -> str:
    def element(got: tuple[Any, ...]) -> str:
        if got[0] < 0:
            return f"{{fd={got[0]}}}"
        return f"{{fd={got[0]}, events={flags(xlat.POLL, got[1], 'POLL_???')}}}"

    return call.array(value, call.args[1], "<iHH", element) if call.args[1] else ("[]" if value else "NULL")


def epoll_event_text(got: tuple[Any, ...]) -> str:
    events = flags(xlat.EPOLL, got[0], "EPOLL_???")
    return f"{{events={events}, data={{u32={got[1] & 0xFFFFFFFF}, u64={got[1]}}}}}"


def epoll_event(call: Call, value: int) -> str:
    got = call.unpack("<IQ", value)
    return address(value) if got is None else epoll_event_text(got)


def epoll_events(call: Call, value: int) -> str:
    count = call.ret or 0
    return call.array(value, count, "<IQ", epoll_event_text) if count else ("[]" if value else "NULL")


def fd_set(nfds: int, raw: bytes) -> list[int]:
    mask = int.from_bytes(raw, "little")
    return [n for n in range(nfds) if mask >> n & 1]
