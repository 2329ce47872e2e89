"""Programs on a terminal: a pseudo terminal inside the guest, typed at by tests/programs/pty_talk.c."""
import re

import pytest

from tests.conftest import PROGRAMS, need


@pytest.fixture
def talk(build_c, boot, host):
    """talk(size, argv, expect, type, ...) -> what the program showed, on Linux and inside alike unless inside=True."""
    from glasskernel import Share
    from tests.conftest import ENV

    binary = build_c(PROGRAMS / "pty_talk.c")

    def go(size, argv, *dialog, on_linux=True, env=None):
        env = {**ENV, "TERM": "dumb", "PS1": "> ", **(env or {})}
        words = [size, *argv, "--", *dialog]
        kernel = boot(shares=[Share(str(binary.parent), "/programs")])
        result = kernel.run([f"/programs/{binary.name}", *words], env=env, cwd="/tmp")
        if on_linux:
            expected = host([str(binary), *words], env=env)
            assert normal(result.stdout) == normal(expected.stdout)
            assert result.status == expected.status
        assert result.status != 99, "it did not say what was expected:\n" + result.stdout.decode()
        return result.stdout.decode()

    return go


def normal(output):
    return re.sub(r"\d{2,}|(?<=pts/)\d", "N", output.decode())


BASH = ["bash", "--norc", "--noprofile", "-i"]


def test_bash_job_control(talk):
    """A128: ^Z stops, bg continues in the background, fg brings back, ^C interrupts; kill ends a stopped job."""
    talk("24x80", BASH,
         "> ", r"sh -c 'echo r\=$?; exec sleep 1000'\n", "r=0", "^Z", "Stopped", "", "> ", r"jobs\n",
         "> ", r"bg\n", "> ", r"jobs\n", "> ", r"fg\n", "sleep 1000'", r"\p^C", "> ", r"echo $?\n", "130", "",
         "> ", r"sh -c 'echo r\=$?; cat >f'\n", "r=0", r"typed\n^D", "> ", r"cat f\n", "typed\r\n", "", "> ", r"exit 3\n")  # fmt: skip


def test_a_stopped_job_that_is_killed_is_reported(talk):
    """A129, C19: bash prints Stopped, then Killed."""
    out = talk("24x80", BASH, "> ", r"sh -c 'echo r\=$?; exec sleep 1000'\n", "r=0", "^Z", "Stopped", "", "> ",
               r"kill -9 %1\n", "> ", r"\pwait %1\n", "Killed", "", "> ", r"exit\n", on_linux=False)
    assert "Stopped" in out and "Killed" in out


def test_a_background_job_that_reads_the_terminal_stops(talk):
    talk("24x80", BASH, "> ", r"cat & sleep 0.2\n", "Stopped", "", "> ", r"jobs\n", "Stopped", "", "> ",
         r"kill -9 %1; wait\n", "> ", r"exit\n", on_linux=False)


def test_line_editing_in_the_shell_and_in_the_terminal(talk):
    """Canonical mode: ^H erases, ^W a word, ^U the line, ^D ends; readline's own mode does its own."""
    talk("24x80", ["cat"], "", r"abcd\n", "abcd\r\nabcd", "^D")
    talk("24x80", ["sh", "-c", r"stty erase ^H; echo r=$?; read x; echo \[$x\]"], "r=0", r"abX^Hc dY^W e\n", "[", "")
    talk("24x80", BASH, "> ", r"echo helo^Blo^E\n", "> ", r"exit\n")


def test_stty_shows_and_sets_modes_and_size(talk):
    out = talk("30x100", ["sh", "-c", "stty size; stty -a; stty -echo -icanon min 1 time 0; stty; stty rows 10 cols 20; stty size"])
    assert out.startswith("30 100\r\n") and out.rstrip().endswith("10 20")


def test_ps_shows_the_terminal(talk):
    """A091: the TTY column says pts/N."""
    out = talk("24x80", ["sh", "-c", "tty; ps -o tty=,stat= -p $$; who am i | wc -l"])
    assert "/dev/pts/0" in out and "pts/0" in out.split("\n")[1]


def test_interrupt_reaches_the_foreground_group_only(talk):
    talk("24x80", BASH, "> ", r"(trap 'echo caught' INT; sleep 1; echo survived) & sh -c 'echo r\=$?; exec sleep 50'\n",
         "r=0", "^C", "> ", r"wait; echo end\n", "survived", "", "> ", r"exit\n", on_linux=False)


def test_script_records_a_session(agree):
    need("script", "bsdutils")
    agree("script -qec 'tty | cut -c1-8; echo hello; exit 4' log </dev/null; echo $?; tail -n +2 log | head -2; script -qc 'test -t 1 && echo tty' /dev/null </dev/null")


def test_less_pages_through_a_file(talk):
    need("less", "less")
    out = talk("10x40", ["sh", "-c", "seq 100 >n; exec less n"], "9", " ", "18", "G", "100", "q", env={"TERM": "vt100"})
    assert "55" not in out.split("100")[0]


def test_vi_edits_and_saves(talk):
    need("vi", "vim-tiny")
    out = talk("10x40", ["sh", "-c", "printf 'one\\ntwo\\n' >f; busybox vi f; cat f"], "two", r"ccnew\e\p:wq\n", "new\r\ntwo", "",
               env={"TERM": "vt100"}, on_linux=False)
    assert out.rstrip().endswith("new\r\ntwo")


def test_top_runs_on_a_terminal_until_q(talk):
    out = talk("20x80", ["top", "-d", "0.5"], "PID USER", "q", env={"TERM": "vt100"}, on_linux=False)
    assert "load average" in out


def test_a_window_that_changes_sends_sigwinch(talk):
    out = talk("24x80", BASH, "> ", r"trap 'echo winch $(stty size)' WINCH; x=$(stty rows 33)\n", "winch 33 80", "", "> ", r"exit\n",
               on_linux=False)
    assert "winch 33 80" in out
