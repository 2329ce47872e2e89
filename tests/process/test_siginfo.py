"""struct siginfo as x86-64 programs read it: sigaction(2), include/uapi/asm-generic/siginfo.h."""
import struct

import pytest

from glasskernel.kernel.signal_types import (
    BUS_MCEERR_AR,
    CLD_EXITED,
    FPE_INTDIV,
    POLL_IN,
    SEGV_BNDERR,
    SEGV_MAPERR,
    SI_QUEUE,
    SI_SIGIO,
    SI_TIMER,
    SI_TKILL,
    SI_USER,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGIO,
    SIGNAL_NAMES,
    SIGRTMIN,
    SIGSEGV,
    SIGSYS,
    SIGUSR1,
    SYS_SECCOMP,
    KernelSiginfo,
)


def field(data, offset, kind):
    return struct.unpack_from("<" + kind, data, offset)[0]


@pytest.mark.parametrize(
    ("info", "fields"),
    [
        (KernelSiginfo(SIGUSR1, SI_USER, si_pid=5, si_uid=7), {(16, "i"): 5, (20, "I"): 7}),
        (KernelSiginfo(SIGUSR1, SI_TKILL, si_pid=5, si_uid=7), {(16, "i"): 5, (20, "I"): 7}),
        (KernelSiginfo(SIGRTMIN, SI_QUEUE, si_pid=5, si_value=1 << 63), {(16, "i"): 5, (24, "Q"): 1 << 63}),
        (KernelSiginfo(SIGRTMIN, SI_TIMER, si_tid=2, si_overrun=3, si_value=9),
         {(16, "i"): 2, (20, "i"): 3, (24, "Q"): 9}),
        (KernelSiginfo(SIGCHLD, CLD_EXITED, si_pid=5, si_uid=7, si_status=-1, si_utime=11, si_stime=12),
         {(16, "i"): 5, (20, "I"): 7, (24, "i"): -1, (32, "q"): 11, (40, "q"): 12}),
        (KernelSiginfo(SIGSEGV, SEGV_MAPERR, si_addr=0x7FFF00001234), {(16, "Q"): 0x7FFF00001234}),
        (KernelSiginfo(SIGFPE, FPE_INTDIV, si_addr=0x401000), {(16, "Q"): 0x401000}),
        (KernelSiginfo(SIGBUS, BUS_MCEERR_AR, si_addr=4096, si_addr_lsb=12), {(16, "Q"): 4096, (24, "h"): 12}),
        (KernelSiginfo(SIGSEGV, SEGV_BNDERR, si_addr=1, si_lower=2, si_upper=3),
         {(16, "Q"): 1, (32, "Q"): 2, (40, "Q"): 3}),
        (KernelSiginfo(SIGIO, POLL_IN, si_band=0x41, si_fd=3), {(16, "q"): 0x41, (24, "i"): 3}),
        (KernelSiginfo(SIGIO, SI_SIGIO, si_band=1, si_fd=4), {(16, "q"): 1, (24, "i"): 4}),
        (KernelSiginfo(SIGSYS, SYS_SECCOMP, si_call_addr=9, si_syscall=59, si_arch=0xC000003E),
         {(16, "Q"): 9, (24, "i"): 59, (28, "I"): 0xC000003E}),
    ],
    ids=lambda v: f"{SIGNAL_NAMES[v.si_signo]}_{v.si_code}" if isinstance(v, KernelSiginfo) else "",
)
def test_union_members_lie_where_programs_look(info, fields):
    data = info.pack()
    assert len(data) == 128
    assert struct.unpack_from("<iii", data) == (info.si_signo, 0, info.si_code)
    assert {key: field(data, *key) for key in fields} == fields


def test_what_user_space_queued_comes_out_as_it_went_in():
    given = struct.pack("<iiiiiIQ", 99, 4, SI_QUEUE, 0x5A5A, 12, 34, 56) + bytes(range(96))
    info = KernelSiginfo.unpack(given, SIGRTMIN)
    assert info.pack() == struct.pack("<i", SIGRTMIN) + given[4:]
    assert (info.si_pid, info.si_uid, info.si_value, info.si_errno) == (12, 34, 56, 4)


def test_names():
    assert SIGNAL_NAMES[1] == "SIGHUP"
    assert SIGNAL_NAMES[29] == "SIGIO"
    assert len(SIGNAL_NAMES) == 64
