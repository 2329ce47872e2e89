"""Signal numbers, siginfo codes and layouts.

Linux: include/uapi/asm-generic/siginfo.h, signal.h, arch/x86/include/uapi/asm/signal.h,
    include/linux/signal.h (siginfo_layout is in kernel/signal.c). Same: numbers, the 128-byte siginfo of
    x86-64, which union member a code selects. Differs: a queued signal (struct sigqueue) and its
    kernel_siginfo are one object.
Owns: nothing. Invariants: a KernelSiginfo on a queue has `user` set when it is counted in that user's
    sigpending.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.pid import UserStruct

(SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2,
 SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU,
 SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS) = range(1, 32)
SIGIOT: Final = SIGABRT
SIGPOLL: Final = SIGIO
SIGRTMIN, SIGRTMAX, NSIG = 32, 64, 64

SIGNAL_NAMES: Final[dict[int, str]] = {
    **{
        number: name
        for name, number in list(globals().items())
        if name.startswith("SIG") and type(number) is int and number < 32
        and name not in ("SIGIOT", "SIGPOLL")
    },
    **{n: f"SIGRT_{n - 32}" if n > 32 else "SIGRTMIN" for n in range(32, 65)},
}

SIG_DFL, SIG_IGN = 0, 1
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2

SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO, SA_UNSUPPORTED = 0x1, 0x2, 0x4, 0x400
SA_RESTORER, SA_ONSTACK, SA_RESTART, SA_NODEFER = 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x4000_0000
SA_RESETHAND: Final = 0x8000_0000

SS_ONSTACK, SS_DISABLE, SS_AUTODISARM = 1, 2, 0x8000_0000
MINSIGSTKSZ: Final = 2048

# si_code
SI_USER, SI_KERNEL, SI_QUEUE, SI_TIMER = 0, 0x80, -1, -2
SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL = -3, -4, -5, -6
ILL_ILLOPC, ILL_ILLOPN, ILL_ILLADR, ILL_ILLTRP, ILL_PRVOPC, ILL_PRVREG, ILL_COPROC, ILL_BADSTK = range(1, 9)
FPE_INTDIV, FPE_INTOVF, FPE_FLTDIV, FPE_FLTOVF, FPE_FLTUND, FPE_FLTRES, FPE_FLTINV, FPE_FLTSUB = range(1, 9)
FPE_FLTUNK: Final = 14
SEGV_MAPERR, SEGV_ACCERR, SEGV_BNDERR, SEGV_PKUERR = 1, 2, 3, 4
BUS_ADRALN, BUS_ADRERR, BUS_OBJERR, BUS_MCEERR_AR, BUS_MCEERR_AO = 1, 2, 3, 4, 5
TRAP_BRKPT, TRAP_TRACE, TRAP_BRANCH, TRAP_HWBKPT, TRAP_UNK = 1, 2, 3, 4, 5
CLD_EXITED, CLD_KILLED, CLD_DUMPED, CLD_TRAPPED, CLD_STOPPED, CLD_CONTINUED = 1, 2, 3, 4, 5, 6
POLL_IN, POLL_OUT, POLL_MSG, POLL_ERR, POLL_PRI, POLL_HUP = 1, 2, 3, 4, 5, 6
SYS_SECCOMP: Final = 1


@notrace
def sigmask(sig: int) -> int:
    """The bit of one signal in a mask."""
    return 1 << (sig - 1)


@notrace
def _mask(*signals: int) -> int:
    return sum(1 << (sig - 1) for sig in signals)


ALL_SIGNALS: Final = (1 << 64) - 1
SIG_KERNEL_ONLY_MASK: Final = _mask(SIGKILL, SIGSTOP)
SIG_KERNEL_STOP_MASK: Final = _mask(SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU)
SIG_KERNEL_COREDUMP_MASK: Final = _mask(
    SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV, SIGBUS, SIGSYS, SIGXCPU, SIGXFSZ
)
SIG_KERNEL_IGNORE_MASK: Final = _mask(SIGCONT, SIGCHLD, SIGWINCH, SIGURG)
SYNCHRONOUS_MASK: Final = _mask(SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS)

# Which member of siginfo's union counts (enum siginfo_layout).
(SIL_KILL, SIL_TIMER, SIL_POLL, SIL_FAULT, SIL_FAULT_MCEERR, SIL_FAULT_BNDERR, SIL_FAULT_PKUERR, SIL_CHLD,
 SIL_RT, SIL_SYS) = range(10)

_LAYOUT_BY_SIGNAL: Final[dict[int, tuple[int, int]]] = {      # signal -> (largest si_code, layout)
    SIGILL: (11, SIL_FAULT),
    SIGFPE: (15, SIL_FAULT),
    SIGSEGV: (7, SIL_FAULT),
    SIGBUS: (5, SIL_FAULT),
    SIGTRAP: (5, SIL_FAULT),
    SIGCHLD: (6, SIL_CHLD),
    SIGPOLL: (6, SIL_POLL),
    SIGSYS: (1, SIL_SYS),
}


def siginfo_layout(sig: int, si_code: int) -> int:
    """Which member of siginfo's union counts."""
    return layout_of(sig, si_code)


SIG_SPECIFIC_SICODES = tuple(_LAYOUT_BY_SIGNAL)


@notrace
def layout_of(sig: int, si_code: int) -> int:
    """SIL_*: what a siginfo of this signal and code carries."""
    if SI_USER < si_code < SI_KERNEL:
        known = _LAYOUT_BY_SIGNAL.get(sig)
        if known is not None and si_code <= known[0]:
            if sig == SIGBUS and BUS_MCEERR_AR <= si_code <= BUS_MCEERR_AO:
                return SIL_FAULT_MCEERR
            if sig == SIGSEGV and si_code == SEGV_BNDERR:
                return SIL_FAULT_BNDERR
            if sig == SIGSEGV and si_code == SEGV_PKUERR:
                return SIL_FAULT_PKUERR
            return known[1]
        return SIL_POLL if si_code <= 6 else SIL_KILL
    if si_code == SI_TIMER:
        return SIL_TIMER
    if si_code == SI_SIGIO:
        return SIL_POLL
    return SIL_RT if si_code < 0 else SIL_KILL


SIGINFO_SIZE: Final = 128
_HEAD = struct.Struct("<iiii")                   # si_signo, si_errno, si_code, padding
_KILL = struct.Struct("<iI")                     # si_pid, si_uid
_TIMER = struct.Struct("<iiQ")                   # si_tid, si_overrun, si_value
_RT = struct.Struct("<iIQ")                      # si_pid, si_uid, si_value
_CHLD = struct.Struct("<iIiiqq")                 # si_pid, si_uid, si_status, padding, si_utime, si_stime
_FAULT = struct.Struct("<Q")                     # si_addr
_MCEERR = struct.Struct("<Qh")                   # si_addr, si_addr_lsb
_BNDERR = struct.Struct("<QQQQ")                 # si_addr, padding, si_lower, si_upper
_PKUERR = struct.Struct("<QQI")                  # si_addr, padding, si_pkey
_POLL = struct.Struct("<qi")                     # si_band, si_fd
_SYS = struct.Struct("<QiI")                     # si_call_addr, si_syscall, si_arch


@slotted
class KernelSiginfo:
    """struct kernel_siginfo and struct sigqueue in one: one signal on its way.

    raw: the 128 bytes as user space gave them (rt_sigqueueinfo, signals with a private layout); None: pack().
    user: who is charged for the queue entry. preallocated: a POSIX timer's own entry (SIGQUEUE_PREALLOC):
    it goes back to its timer instead of being freed; another expiry while it is queued counts an overrun.
    rearm: called as rearm(info) by dequeue_signal() for a preallocated entry; it may fill si_overrun and
    restart the timer (posixtimer_rearm).
    """

    si_signo: int
    si_code: int = SI_USER
    si_errno: int = 0
    si_pid: int = 0
    si_uid: int = 0
    si_status: int = 0
    si_utime: int = 0                            # clock ticks (1/100 s)
    si_stime: int = 0
    si_value: int = 0                            # sigval as u64
    si_tid: int = 0                              # timer id
    si_overrun: int = 0
    si_addr: int = 0
    si_addr_lsb: int = 0
    si_lower: int = 0
    si_upper: int = 0
    si_pkey: int = 0
    si_band: int = 0
    si_fd: int = 0
    si_call_addr: int = 0
    si_syscall: int = 0
    si_arch: int = 0
    raw: bytes | None = None
    user: UserStruct | None = None
    preallocated: bool = False
    queued: bool = False                         # preallocated entries: on a queue now
    rearm: Callable[[KernelSiginfo], None] | None = None
    timer: Any = None                            # the timer's own

    @notrace
    def pack(self) -> bytes:
        """The 128 bytes of struct siginfo."""
        if self.raw is not None:
            return self.raw
        sig, code = self.si_signo, self.si_code
        layout = layout_of(sig, code)
        if layout == SIL_KILL:
            tail = _KILL.pack(self.si_pid, self.si_uid)
        elif layout == SIL_CHLD:
            tail = _CHLD.pack(self.si_pid, self.si_uid, self.si_status, 0, self.si_utime, self.si_stime)
        elif layout == SIL_FAULT:
            tail = _FAULT.pack(self.si_addr)
        elif layout == SIL_RT:
            tail = _RT.pack(self.si_pid, self.si_uid, self.si_value)
        elif layout == SIL_TIMER:
            tail = _TIMER.pack(self.si_tid, self.si_overrun, self.si_value)
        elif layout == SIL_POLL:
            tail = _POLL.pack(self.si_band, self.si_fd)
        elif layout == SIL_FAULT_MCEERR:
            tail = _MCEERR.pack(self.si_addr, self.si_addr_lsb)
        elif layout == SIL_FAULT_BNDERR:
            tail = _BNDERR.pack(self.si_addr, 0, self.si_lower, self.si_upper)
        elif layout == SIL_FAULT_PKUERR:
            tail = _PKUERR.pack(self.si_addr, 0, self.si_pkey)
        else:
            tail = _SYS.pack(self.si_call_addr, self.si_syscall, self.si_arch)
        return (_HEAD.pack(sig, self.si_errno, code, 0) + tail).ljust(SIGINFO_SIZE, b"\0")

    @classmethod
    def unpack(cls, data: bytes, sig: int) -> KernelSiginfo:
        """The siginfo that user space built for `sig`. Keeps the bytes: they come out as they went in."""
        _, errno, code, _ = _HEAD.unpack_from(data)
        pid, uid, value = _RT.unpack_from(data, 16)
        raw = _HEAD.pack(sig, errno, code, 0)[:12] + bytes(data[12:SIGINFO_SIZE])
        return cls(sig, code, errno, pid, uid, si_value=value, raw=raw)


# What callers pass instead of a siginfo (include/linux/sched/signal.h). NOINFO: SI_USER from the current
# task; PRIV: SI_KERNEL, from the kernel itself.
SEND_SIG_NOINFO: Final = 0
SEND_SIG_PRIV: Final = 1
SigInfoArg = KernelSiginfo | int
