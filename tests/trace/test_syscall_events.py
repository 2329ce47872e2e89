"""syscalls:sys_enter_* and sys_exit_* through tracefs."""
from __future__ import annotations

import re

from glasskernel import Share
from tests.trace.listening import Listener

TRACING = "cd /sys/kernel/tracing\n"


def events(result):
    """(flags, text) of every line of a trace."""
    assert result.status == 0, result.stderr
    return re.findall(r"^ *\S+-\d+ +\[\d+\] (\S{4}) +[\d.]+: (.*)$", result.stdout.decode(), re.M)


def test_only_the_chosen_calls_are_shown(run):
    lines = events(run(TRACING + """
        echo 1 > events/syscalls/sys_enter_openat/enable
        echo 1 > events/syscalls/sys_exit_openat/enable
        cat /etc/passwd > /dev/null
        echo 0 > events/syscalls/enable
        cat trace"""))
    texts = [text for _, text in lines]
    assert all(text.startswith(("sys_openat(", "sys_openat -> ")) for text in texts)
    assert any(re.fullmatch(r"sys_openat\(dfd: ffffff9c, filename: [0-9a-f]+, flags: 0, mode: 0\)", text) for text in texts)
    assert "sys_openat -> 0x3" in texts
    assert all(flags == "...." for flags, _ in lines)


def test_an_error_is_shown_as_64_bits(run):
    result = run(TRACING + "echo 1 > events/syscalls/sys_exit_mkdir/enable; mkdir /proc; "
                           "echo 0 > events/syscalls/sys_exit_mkdir/enable; cat trace")
    assert "sys_mkdir -> 0xffffffffffffffef" in result.stdout.decode()


def test_calls_without_arguments(run):
    texts = [text for _, text in events(run(TRACING + """
        echo 1 > events/syscalls/sys_enter_getppid/enable
        perl -e 'getppid'
        echo 0 > events/syscalls/enable
        cat trace"""))]
    assert "sys_getppid()" in texts


def test_a_second_instance_has_its_own_choice(run):
    result = run(TRACING + """
        mkdir instances/other
        echo 1 > events/syscalls/sys_enter_openat/enable
        echo 1 > instances/other/events/syscalls/sys_enter_close/enable
        cat /dev/null
        echo 0 > events/syscalls/enable
        cat /dev/null
        echo 0 > instances/other/events/syscalls/enable
        grep -c sys_openat trace; grep -c sys_close trace
        grep -c sys_openat instances/other/trace; grep -c sys_close instances/other/trace
        rmdir instances/other""")
    counts = [int(n) for n in result.stdout.split()]
    assert counts[0] > 0 and counts[1] == 0 and counts[2] == 0 and counts[3] > 0


def test_every_event_at_once(run):
    """All 700 together, while programs run: nothing breaks, and every line has its text."""
    result = run(TRACING + """
        echo 1 > events/enable
        ls / | sort > /dev/null
        sleep 0.01
        echo 0 > events/enable
        cat trace""")
    lines = events(result)
    assert len(lines) > 500
    names = {re.match(r"\w+", text)[0] for _, text in lines}
    assert {"sched_switch", "sys_execve", "page_fault_user", "mm_page_alloc", "hrtimer_start", "sys_enter"} <= names


def test_int_0x80_is_shown_by_number_only(boot, build_c):
    """syscalls:* know the 64-bit table only; raw_syscalls shows i386's number and registers."""
    binary = build_c("""
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            long result;
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L), "b"(0x11L), "c"(0x22L), "d"(0x33L) : "memory", "r8", "r9",
                             "r10", "r11");
            return result != syscall(SYS_getpid);
        }""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    listener = Listener(kernel, {"sys_enter", "sys_exit"})
    result = kernel.run(["/bin/sh", "-c", TRACING + f"""
        echo 1 > events/syscalls/enable
        /programs/{binary.name}
        status=$?
        echo 0 > events/syscalls/enable
        cat trace
        exit $status"""])
    listener.stop()
    raw = [line for line in listener.lines["sys_enter"] if line.startswith("NR 20 (11, 22, 33, ")]
    assert len(raw) == 1
    assert b"sys_writev(" not in result.stdout            # 20 in the 64-bit table
    assert b"sys_getpid()" in result.stdout and result.status == 0
