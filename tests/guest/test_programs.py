"""The guest programs of tests/programs: each says PASS or FAIL about one thing after another.

First on this host's Linux, which shows that the program asks for the right thing, then inside.
"""
import re

import pytest

from tests.conftest import PROGRAMS

TALKERS = {"fork_exec", "fuzz", "hogs", "hello_mmap", "pty_talk", "segfault", "signal_loop", "wild_pointers"}  # print text
ELSEWHERE = {"aio", "aio_direct", "ext4_ioctl", "fsx", "limits", "mqueue", "sg_io", "uprobe"}  # have tests of their own
SELF_CHECKING = sorted(path.stem for path in PROGRAMS.glob("*.c") if path.stem not in TALKERS | ELSEWHERE)
DYNAMIC = ("-O1", "-pthread")


def verdicts(result):
    """What was checked, if all of it held."""
    lines = result.stdout.decode().splitlines()
    assert [line for line in lines if not line.startswith("PASS ")] == []
    assert (result.status, result.stderr) == (0, b"")
    return lines


@pytest.mark.parametrize("name", SELF_CHECKING)
def test_program_holds_on_linux_and_inside(name, host, build_c, run_c):
    source = PROGRAMS / f"{name}.c"
    expected = verdicts(host([build_c(source)]))
    assert len(expected) > 4
    assert verdicts(run_c(source)) == expected


@pytest.mark.parametrize("name", ["threads", "sig_faults", "files", "times"])
@pytest.mark.parametrize(
    "flags", [DYNAMIC, (*DYNAMIC, "-no-pie"), (*DYNAMIC, "-static-pie")], ids=["pie", "exec", "static-pie"]
)
def test_program_holds_however_it_is_linked(name, flags, run_c):
    verdicts(run_c(PROGRAMS / f"{name}.c", flags=flags))


def test_fork_exec_and_wait_print_five_lines_with_matching_pids(run_c):
    """C06: `ls` is a relative path, which is not there: the execv fails, the child then exits with 0."""
    result = run_c(PROGRAMS / "fork_exec.c", cwd="/tmp")
    lines = result.stdout.decode().splitlines()
    said = dict(re.fullmatch(r"(.*), pid = (\d+)", line).groups() for line in lines[:-1])
    assert lines[-1] == "program execution successful"
    assert len(lines) == 5
    assert said["parent of child process"] == said["parent process"]
    assert said["child process"] != said["parent process"]
    assert said["Parent Of parent process"] == "1"


def test_fork_exec_runs_ls_where_there_is_one(run, build_c):
    from glasskernel import Share

    binary = build_c(PROGRAMS / "fork_exec.c")
    result = run(
        f"cd /usr/bin && /programs/{binary.name}", shares=[Share(str(binary.parent), "/programs")]
    )
    assert result.stdout.decode().splitlines()[-1] == "program execution successful"
    assert re.search(rb"^total \d+$", result.stdout, re.MULTILINE), "ls -lart /home"


def test_the_signal_program_prints_what_it_received_and_goes_on(run_c):
    """C05: one handler for SIGINT and SIGUSR1; pause() waits for the next."""
    result = run_c(PROGRAMS / "signal_loop.c", "4")
    lines = result.stdout.decode().splitlines()
    assert re.fullmatch(r"Process \d+ is waiting for a signal\.\.\.", lines[0])
    assert lines[1:] == ["Received SIGINT signal.", "Received SIGUSR1 signal."] * 2
    assert result.status == 0


def test_only_another_signal_ends_the_signal_program(run, build_c):
    from glasskernel import Share

    binary = build_c(PROGRAMS / "signal_loop.c")
    script = (f"/programs/{binary.name} & p=$!; sleep 1; kill -INT $p; sleep 1; kill -USR1 $p; sleep 1;"
              "kill -TERM $p; wait $p; echo $?")
    result = run(["/bin/bash", "-c", script], shares=[Share(str(binary.parent), "/programs")])
    assert result.stdout.decode().splitlines()[1:] == [
        "Received SIGINT signal.", "Received SIGUSR1 signal.", "143",
    ]


@pytest.mark.parametrize("text", ["111111122222333344456\n", "1111111111112222222222222223333333333344444444\n"])
def test_hello_mmap_prints_the_file_and_zeroes_its_head(text, run, host, build_c):
    """C11, B31, B87: hexdump shows the first row as zeros; the rest of the file stays."""
    from glasskernel import Share

    binary = build_c(PROGRAMS / "hello_mmap.c")
    script = 'printf %s "$TEXT" >f; DIR/NAME f; hexdump -x f; wc -c <f'.replace("NAME", binary.name)
    env = {"TEXT": text}
    expected = host(script.replace("DIR", str(binary.parent)), env=env)
    result = run(script.replace("DIR", "/programs"), env=env, shares=[Share(str(binary.parent), "/programs")])
    assert (result.status, result.stdout) == (expected.status, expected.stdout)
    assert result.stdout.decode().startswith(text + "\n")
    assert re.search(r"^0000000(    0000){8}$", result.stdout.decode(), re.MULTILINE)


def test_hello_mmap_says_what_it_cannot_open(run_c):
    assert run_c(PROGRAMS / "hello_mmap.c", "/no/such/file").stdout == b"File Open Error\n"


def test_an_access_outside_every_area_is_signal_11(run_c):
    """C31: SIGSEGV, exit status 139."""
    result = run_c(PROGRAMS / "segfault.c")
    assert (result.status, result.stdout) == (139, b"touching 0x10\n")
    assert result.wait_status & 0x7F == 11


@pytest.mark.parametrize(
    "address", ["0x7ffffffff000", "0xffff800000000000", "0xffffffff81000000", "0xdead000000000000"]
)
def test_so_is_one_at_the_edges_of_the_address_space(address, run_c):
    assert run_c(PROGRAMS / "segfault.c", address).status == 139


def test_writing_to_ones_own_text_is_signal_11(run_c):
    """C30"""
    assert run_c(PROGRAMS / "text_write.c", "die").status == 139


def test_four_dd_hogs_each_get_a_cpu(boot):
    """C32: top shows four rows near 100 %CPU on four CPUs. (They convert, too: time in dd's own code is cheap to emulate.)"""
    script = """
        for i in 1 2 3 4; do dd if=/dev/zero of=/dev/null conv=ucase bs=64k & done 2>/dev/null
        sleep 0.02; top -b -n 2 -d 0.1 | awk '$NF == "dd" {print $8, $9}' | tail -4; kill -9 $(pidof dd)"""
    rows = [line.split() for line in boot().run(["/bin/bash", "-c", script]).stdout.decode().splitlines()]
    assert len(rows) == 4
    for state, cpu in rows:
        assert state == "R"
        assert float(cpu) > 75  # in ticks of 10 ms, over about 110 ms
