"""Pseudo terminals and job control in the guest: the same C program, here and on the host."""

import pathlib
import subprocess

import pytest

PROGRAM = pathlib.Path(__file__).parent / "pty_behaviour.c"
TOPICS = [
    "data_flow", "vmin_vtime", "numbers", "sizes", "packets", "ends", "full", "signals", "jobs", "hangups", "rest",
    "sigio",
]


@pytest.mark.parametrize("topic", TOPICS)
def test_ptys_behave_as_the_hosts(topic, build_c, run_c):
    """pty(7), tty_ioctl(4), ioctl_console(2), termios(3)"""
    flags = ("-O1", "-static", "-D_GNU_SOURCE")
    host = subprocess.run([build_c(PROGRAM, *flags), topic], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    here = run_c(PROGRAM, topic, flags=flags)
    assert here.stdout.decode().splitlines() == host.stdout.decode().splitlines()
    assert here.status == host.returncode == 0


def test_devpts_is_an_instance_for_each_mount(run):
    """mount(8): each mount of devpts has pts numbers of its own, and options of its own."""
    done = run(
        "mkdir /tmp/a /tmp/b; mount -t devpts -o ptmxmode=666,mode=640 a /tmp/a; mount -t devpts b /tmp/b;"
        "ls /tmp/a; exec 3<>/tmp/a/ptmx; ls /tmp/a; ls /tmp/b; stat -c '%a %t %T' /tmp/a/0 /tmp/a/ptmx;"
        "grep -c 'devpts .*mode=640,ptmxmode=666' /proc/mounts; exec 3>&-; ls /tmp/a"
    )
    assert done.stdout.decode().split() == ["ptmx", "0", "ptmx", "ptmx", "640", "88", "0", "666", "5", "2", "1", "ptmx"]


def test_a_program_without_a_terminal_has_none(run):
    done = run("tty; [ -t 0 ] || echo no; cat </dev/tty; ps -o tty= -p $$")
    assert done.stdout.split() == [b"not", b"a", b"tty", b"no", b"?"]
    assert b"No such device or address" in done.stderr


def test_script_records_a_session(run):
    """script(1) runs a shell on a pty."""
    done = run("script -qc 'tty; stty -a | head -1; echo done' /tmp/log </dev/null; cat /tmp/log")
    assert b"/dev/pts/0" in done.stdout
    assert done.stdout.count(b"done\r\n") == 2
