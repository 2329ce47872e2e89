"""The syscall log says what strace(1) says.

strace_cases.json holds calls recorded on Linux under ptrace: registers, the memory each half of the call was
decoded from, and the line. A case is here only if strace 6.1 printed the same line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glasskernel.arch.x86.syscalls_32 import SYSCALL_NAMES_32, SYSCALL_NUMBERS_32
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES, SYSCALL_NUMBERS
from glasskernel.tools.strace import Strace
from glasskernel.tools.strace.table import TABLE

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("strace_cases.json").read_text())
NO_ARGS = (0, 0, 0, 0, 0, 0)


def nr(name: str) -> int:
    return SYSCALL_NUMBERS[name]


def log(**options: Any) -> tuple[Strace, Callable[[], list[str]]]:
    """A log of tasks without memory, and its lines so far."""
    out: list[str] = []
    tracer = Strace(out.append, read_memory=lambda pid, addr, size: None, **options)
    return tracer, lambda: "".join(out).splitlines()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{SYSCALL_NAMES.get(case['nr'], case['nr'])}")
def test_a_call_prints_as_strace_prints_it(case: dict[str, Any]) -> None:
    out: list[str] = []
    half = "at_entry"

    def read_memory(pid: int, addr: int, size: int) -> bytes | None:
        text = case[half][f"{addr:#x}+{size}"]
        return None if text is None else bytes.fromhex(text)

    tracer = Strace(out.append, read_memory=read_memory)
    tracer.enter(1, case["nr"], tuple(case["args"]))
    half = "at_exit"
    tracer.exit(1, case["nr"], tuple(case["args"]), case["ret"], 0)
    assert re.sub(r" +=", " =", "".join(out)) == case["line"] + "\n"


def test_a_call_without_memory_still_prints() -> None:
    """Whatever the registers hold, and whether the call fails or not, a decoder must not raise."""
    for name in SYSCALL_NUMBERS:
        for word in (0, 1, 0x7FFF_DEAD_BEEF, 0xFFFF_FFFF_FFFF_FFFF):
            for ret in (0, 1, -14, -512):
                tracer, lines = log()
                tracer.enter(1, nr(name), (word,) * 6)
                tracer.exit(1, nr(name), (word,) * 6, ret, 0)
                assert lines()[0].startswith(name + "(")


@pytest.mark.parametrize("fill", [0x00, 0x01, 0xFF])
def test_a_call_with_odd_memory_still_prints(fill: int) -> None:
    for name in SYSCALL_NUMBERS:
        for ret in (0, 1, 300, -14):
            out: list[str] = []
            tracer = Strace(out.append, read_memory=lambda pid, addr, size: bytes([fill]) * size)
            tracer.enter(1, nr(name), (0x10, 0x20, 0x30, 0x40, 0x50, 0x60))
            tracer.exit(1, nr(name), (0x10, 0x20, 0x30, 0x40, 0x50, 0x60), ret, 0)
            assert "".join(out).startswith(name + "(")


def test_results_stand_in_column_40() -> None:
    tracer, lines = log()
    tracer.enter(1, nr("getpid"), NO_ARGS)
    tracer.exit(1, nr("getpid"), NO_ARGS, 1, 0)
    assert lines() == ["getpid()                                = 1"]


def test_another_task_breaks_a_line_off() -> None:
    tracer, lines = log(pid_column=True)
    read = (3, 0x1000, 10, 0, 0, 0)
    tracer.enter(4, nr("read"), read)
    tracer.enter(5, nr("getpid"), NO_ARGS)
    tracer.exit(5, nr("getpid"), NO_ARGS, 5, 0)
    tracer.exit(4, nr("read"), read, -512, 0)
    assert lines() == [
        "4     read(3,  <unfinished ...>",
        "5     getpid()                          = 5",
        "4     <... read resumed>0x1000, 10)     = ? ERESTARTSYS (To be restarted if SA_RESTART is set)",
    ]


def test_a_second_task_is_announced_and_named_while_there_are_two() -> None:
    tracer, lines = log()
    tracer.enter(1, nr("getpid"), NO_ARGS)
    tracer.exit(1, nr("getpid"), NO_ARGS, 1, 0)
    tracer.enter(2, nr("exit_group"), NO_ARGS)
    tracer.exited(2, 0)
    tracer.enter(1, nr("pause"), NO_ARGS)
    assert lines()[1:] == [
        "strace: Process 2 attached",
        "[pid     2] exit_group(0)               = ?",
        "[pid     2] +++ exited with 0 +++",
        "pause(",
    ]


def test_without_follow_only_the_first_task_is_shown() -> None:
    tracer, lines = log(follow=False)
    tracer.enter(1, nr("pause"), NO_ARGS)
    tracer.enter(2, nr("pause"), NO_ARGS)
    tracer.exited(2, 0)
    assert lines() == ["pause("]


def test_a_task_killed_inside_a_call() -> None:
    tracer, lines = log()
    tracer.enter(1, nr("read"), (0, 0x1000, 10, 0, 0, 0))
    tracer.exited(1, 9)
    assert lines() == ["read(0,  <unfinished ...>)              = ?", "+++ killed by SIGKILL +++"]


def test_signals() -> None:
    tracer, lines = log()
    child = {"si_code": 1, "si_pid": 4, "si_uid": 0, "si_status": 0, "si_utime": 0, "si_stime": 2}
    tracer.signal(1, 17, child)
    tracer.signal(1, 17, {"si_code": 2, "si_pid": 4, "si_status": 9})
    tracer.signal(1, 15, {"si_code": 0, "si_pid": 7, "si_uid": 0})
    tracer.signal(1, 11, {"si_code": 1, "si_addr": 0})
    tracer.signal(1, 11, {"si_code": 0x80})
    tracer.signal(1, 14, {"si_code": 0x80})
    tracer.signal(1, 14, {"si_code": -2})
    tracer.stopped(1, 19)
    tracer.exited(1, 11 | 0x80)
    assert lines() == [
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=4, si_uid=0, si_status=0, si_utime=0, "
        "si_stime=2 /* 0.02 s */} ---",
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_KILLED, si_pid=4, si_uid=0, si_status=SIGKILL, "
        "si_utime=0, si_stime=0} ---",
        "--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=7, si_uid=0} ---",
        "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---",
        "--- SIGSEGV {si_signo=SIGSEGV, si_code=SI_KERNEL, si_addr=NULL} ---",
        "--- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---",
        "--- SIGALRM {si_signo=SIGALRM, si_code=SI_TIMER, si_timerid=0, si_overrun=0, si_int=0, "
        "si_ptr=NULL} ---",
        "--- stopped by SIGSTOP ---",
        "+++ killed by SIGSEGV (core dumped) +++",
    ]


def test_every_name_in_the_table_is_a_system_call() -> None:
    assert set(TABLE) <= set(SYSCALL_NUMBERS)


@pytest.mark.parametrize(
    ("numbers", "names"),
    [(SYSCALL_NUMBERS, SYSCALL_NAMES), (SYSCALL_NUMBERS_32, SYSCALL_NAMES_32)],
    ids=["x86-64", "i386"],
)
def test_names_and_numbers_are_inverse(numbers: dict[str, int], names: dict[int, str]) -> None:
    assert len(numbers) == len(names)
    assert all(numbers[name] == number for number, name in names.items())


@pytest.mark.parametrize(("bits", "numbers"), [(64, SYSCALL_NUMBERS), (32, SYSCALL_NUMBERS_32)])
def test_numbers_are_those_of_the_hosts_header(bits: int, numbers: dict[str, int]) -> None:
    header = Path(f"/usr/include/x86_64-linux-gnu/asm/unistd_{bits}.h")
    if not header.exists():
        pytest.skip("no kernel headers on this host")
    found = re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())
    assert {name: int(number) for name, number in found if int(number) <= 450}.items() <= numbers.items()
