"""ptrace(2): C programs that hold on Linux and inside, and Debian's own strace, gdb and cgdb on the kernel."""
import pathlib
import re

import pytest

from tests.conftest import need

HERE = pathlib.Path(__file__).parent
DEBUG = ("-g", "-O0", "-pthread", f"-I{HERE}")


@pytest.fixture
def c_program(build_c):
    """c_program(name) -> the directory and the name of a program with debugging information."""

    def build(name):
        binary = build_c(HERE / f"{name}.c", *DEBUG)
        return binary.parent, binary.name

    return build


@pytest.fixture
def inside(boot, c_program):
    """inside(script, program) -> Result of a shell script in which $P is the program."""
    from glasskernel import Share

    def go(script, program="hello", **options):
        directory, name = c_program(program)
        kernel = boot(shares=[Share(str(directory), "/programs")], **options)
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TERM": "xterm", "LC_ALL": "C", "P": f"/programs/{name}"}
        return kernel.run(["/bin/sh", "-c", script], env=environment, cwd="/tmp")

    return go


@pytest.fixture
def both(host, inside, c_program):
    """both(script, program) -> what the host's Linux and Glasskernel printed, without numbers that may differ."""

    def go(script, program="hello"):
        directory, name = c_program(program)
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TERM": "xterm", "LC_ALL": "C", "P": f"{directory}/{name}"}
        expected = host(["/bin/sh", "-c", script], env=environment)
        result = inside(script, program)
        assert result.status == expected.status, result
        return anonymous(expected.stdout, directory), anonymous(result.stdout, "/programs")

    return go


def anonymous(output, directory):
    """Without addresses, process and thread numbers, and directories."""
    text = output.decode().replace(str(directory), "DIR")
    text = re.sub(r"0x[0-9a-f]+", "ADDRESS", text)
    text = re.sub(r"(LWP|process|pid|Process) +\d+", r"\1 N", text)
    return text


def gdb(*commands, program="$P"):
    need("gdb", "gdb")
    quoted = " ".join(f"-ex '{command}'" for command in commands)
    return f"gdb -q -batch -nx {quoted} {program} 2>&1"


@pytest.mark.parametrize("name", ["requests", "stops", "ties"])
def test_program_holds_on_linux_and_inside(name, host, build_c, run_c):
    flags = ("-O1", "-static", "-pthread", f"-I{HERE}")
    expected = host([build_c(HERE / f"{name}.c", *flags)])
    lines = expected.stdout.decode().splitlines()
    assert [line for line in lines if not line.startswith("PASS ")] == []
    assert len(lines) >= 25
    result = run_c(HERE / f"{name}.c", flags=flags)
    assert result.stdout.decode().splitlines() == lines
    assert (result.status, result.stderr) == (0, b"")


def test_no_argument_hurts_the_kernel(run_c):
    """Random registers and requests. Only inside: on a host, a tracee with wild registers may sleep for ever."""
    result = run_c(HERE / "wild.c", flags=("-O1", "-static", "-pthread", f"-I{HERE}"))
    assert result.stdout.decode().splitlines() == [
        "PASS every tracee ends", "PASS every request is answered", "PASS nobody is left"]


def test_ltrace_finds_library_calls(inside):
    need("ltrace", "ltrace")
    result = inside("ltrace -e printf $P 2>&1")
    assert "printf(\"hello %d\\n\", 33)" in result.stdout.decode() and "+++ exited (status 0) +++" in result.stdout.decode()


# ---- strace ------------------------------------------------------------------------------------------------
def test_strace_follows_children_and_shows_what_linux_would(both):
    script = "strace -f -e trace=execve,write,exit_group,pipe2,pipe,dup2,kill -e signal=all -o /tmp/log.$$ " \
             "/bin/sh -c 'echo one; (exit 3); kill -TERM $$'; echo $?; sed -E 's/^[0-9]+ +//; s/[0-9]+ vars/N vars/; " \
             "s/kill\\([0-9]+/kill(N/; s/ += / = /; s/si_[us]time=[0-9]+, //g; s/si_(pid|uid|stime)=[0-9]+/si_\\1=N/g' /tmp/log.$$"
    expected, result = both(script)
    assert result == expected
    assert "+++ killed by SIGTERM +++" in result and "+++ exited with 3 +++" in result


def test_strace_counts(inside):
    need("strace", "strace")
    result = inside("strace -c -o /tmp/counts ls / >/dev/null; cat /tmp/counts")
    rows = {line.split()[-1]: line.split() for line in result.stdout.decode().splitlines() if line.strip()}
    assert int(rows["execve"][3]) == 1 and int(rows["mmap"][3]) > 5
    assert "total" in rows


def test_strace_attaches_to_a_sleeper_and_lets_it_go(inside):
    result = inside("$P & sleep 0.01; timeout -s INT 0.05 strace -o /tmp/log -p $!; head -3 /tmp/log; tail -1 /tmp/log; "
                    "grep TracerPid /proc/$!/status; kill $!; wait $!; echo $?", "spin")
    lines = result.stdout.decode().splitlines()
    assert lines[0].startswith("restart_syscall(<... resuming interrupted") or "clock_nanosleep" in lines[0]
    assert lines[1].startswith("clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=0, tv_nsec=1000000}, ")
    assert lines[-2:] == ["TracerPid:\t0", "143"]
    assert b"detached" in result.stderr


def test_strace_sees_threads(inside):
    result = inside("strace -f -o /tmp/log $P; grep -c 'clone3(.*CLONE_THREAD' /tmp/log; grep -c 'exited with 0' /tmp/log",
                    "workers")
    assert result.stdout.decode().split("\n")[:3] == ["sum 6", "3", "4"], result


def test_strace_injects_an_error(inside):
    """strace changes the call's number and its result."""
    result = inside("strace -qq -o /dev/null -e inject=getuid,geteuid:retval=77 id -u; "
                    "strace -qq -o /dev/null -e inject=openat:error=EACCES:when=3+ cat /etc/passwd")
    assert result.stdout == b"77\n"
    assert b"Permission denied" in result.stderr


def test_strace_of_strace_is_refused(inside):
    """Two tracers: EPERM."""
    result = inside("strace -qq -o /dev/null sleep 1 & sleep 0.1; pid=$(pidof sleep); strace -p $pid; wait")
    assert b"Operation not permitted" in result.stderr


# ---- gdb ---------------------------------------------------------------------------------------------------
def test_gdb_breaks_steps_and_prints_as_on_linux(both):
    expected, result = both(gdb("break add", "run", "bt", "next", "print sum", "print counter", "step", "finish", "info locals",
                                "delete", "next", "set var total = 1000", "continue"))
    assert result == expected
    assert "Breakpoint 1, add (a=0, b=10)" in result and "Value returned is" in result and "hello " in result


def test_gdb_as_the_labs_use_it(both):
    """A081, A301, B25, B80, C29: break, run, info proc, info stack, si, x/i, and run again."""
    expected, result = both("cd /tmp; " + gdb("b main", "run", "info proc", "info stack", "si", "si", "x/i $pc", "info registers rip",
                                              "run", "info stack", "kill"))
    assert result == expected
    assert "Breakpoint 1, main (argc=1, argv=ADDRESS)" in result and "#0  main" in result and "cmdline = " in result


def test_gdb_shows_registers_and_code(both):
    expected, result = both(gdb("break add", "run", "info registers rip eflags cs ss orig_rax", "x/3i $pc", "stepi", "x/i $pc",
                                "p $_siginfo.si_signo", "delete", "p (int)add(20, 22)", "p $mxcsr", "kill"))
    assert result == expected
    assert "= 42" in result


def test_gdb_hardware_watchpoint(both):
    expected, result = both(gdb("break main", "run", "watch counter", "continue", "continue", "info watchpoints", "delete",
                                "continue"))
    assert result == expected
    assert "Hardware watchpoint 2: counter" in result and "New value = 21" in result


def test_gdb_hardware_breakpoint(both):
    expected, result = both(gdb("start", "hbreak add", "continue", "continue", "info breakpoints", "kill"))
    assert result == expected
    assert "hw breakpoint  keep y" in result


def test_gdb_catches_system_calls_and_exec(both):
    expected, result = both(gdb("catch syscall write", "run", "p $orig_rax", "p $rax", "continue", "p $rax", "continue"))
    assert result == expected
    assert "call to syscall write" in result and "= -38" in result
    expected, result = both(gdb("catch exec", "run", "continue", program="--args /bin/sh -c 'exec /bin/true'"))
    assert "exec'd" in result and result.count("exited normally") == expected.count("exited normally") == 1


def test_gdb_sees_all_threads(inside):
    result = inside(gdb("break meet", "run", "info threads", "thread apply all bt 1", "delete", "continue"), "workers")
    text = result.stdout.decode()
    assert "meet () at" in text and text.count("[New Thread") == 3
    assert "sum 6" in text and "exited normally" in text


def test_gdb_follows_a_fork(inside):
    result = inside(gdb("set follow-fork-mode child", "set detach-on-fork on", "run",
                        program="--args /bin/sh -c '/bin/true; exit 5'"))
    assert "exited normally" in result.stdout.decode()


def test_gdb_attaches_dumps_core_and_detaches(inside):
    script = f"$P & sleep 0.01; {gdb('bt', 'gcore /tmp/core.1', 'set var go = 0', 'detach', program='-p $!')}; wait $!; " \
             f"echo status $?; {gdb('bt', program='$P /tmp/core.1')}"
    text = inside(script, "spin").stdout.decode()
    assert text.count("deep (n=41) at") == 2
    assert "done 42" in text and "status 0" in text


def test_gdb_in_a_terminal(inside):
    need("script", "bsdutils")
    result = inside("printf 'break add\\nrun\\nbt\\ncontinue 3\\nquit\\n' | TERM=dumb script -qc \"gdb -q -nx $P\" /dev/null")
    text = result.stdout.decode()
    assert "#0  add (a=0, b=10) at" in text and "Will ignore next 2 crossings of breakpoint 1" in text
    assert "hello 33" in text


def test_cgdb_shows_the_source_of_what_was_compiled_inside(boot):
    """Compiler, debugger and its curses interface, all of them inside."""
    from glasskernel import Share

    need("cgdb", "cgdb")
    need("gcc", "gcc libc6-dev")
    kernel = boot(shares=[Share(str(HERE), "/src")])
    keys = "".join(f"printf '{line}\\n'; sleep 2; " for line in ("break add", "run", "next", "kill", "y", "quit"))
    script = f"cp /src/hello.c . && gcc -g -o hello hello.c && (sleep 3; {keys}) | " \
             "script -qc 'stty rows 30 cols 80; cgdb -- -q -nx hello' /dev/null"
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TERM": "xterm", "LC_ALL": "C"}
    result = kernel.run(["/bin/sh", "-c", script], env=environment, cwd="/tmp")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\(B", "", result.stdout.decode(errors="replace"))
    assert result.status == 0, text
    assert "Breakpoint 1, add (a=0, b=10) at hello.c:6" in text and "killed]" in text
    assert "counter += sum;" in text, "the source window"


# ---- the kernel's side -------------------------------------------------------------------------------------
def test_no_work_is_added_to_calls_of_tasks_that_nobody_traces(boot):
    """A flag of the task is all that do_syscall_64 tests."""
    from glasskernel.arch.x86.entry import common

    kernel = boot()
    seen = []
    original = common.syscall_trace_enter
    common.syscall_trace_enter = lambda regs, task: seen.append(task) or original(regs, task)
    try:
        assert kernel.run(["/bin/true"]).status == 0
        assert not seen
        assert kernel.run(["/usr/bin/strace", "-o", "/dev/null", "/bin/true"]).status == 0
        assert seen
    finally:
        common.syscall_trace_enter = original


def test_tracing_is_deterministic(boot):
    """The same traced run takes the same virtual time."""
    ends = []
    for _ in range(2):
        kernel = boot()
        kernel.run(["/usr/bin/strace", "-f", "-o", "/tmp/log", "/bin/sh", "-c", "echo a | cat; true"])
        ends.append((kernel.now_ns, kernel.syscall_counts))
    assert ends[0] == ends[1]
