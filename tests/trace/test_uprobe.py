"""uprobe_events: Documentation/trace/uprobetracer.rst, as shell scripts use it."""

import re
import subprocess

import pytest

from tests.conftest import need

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


def symbol(path, name, dynamic=True):
    """(offset in the file, address) of a function."""
    nm = need("nm", "binutils")
    out = subprocess.run([nm, *(["-D"] if dynamic else []), str(path)], check=True, capture_output=True, text=True).stdout
    address = next(int(line.split()[0], 16) for line in out.splitlines()
                   if len(line.split()) == 3 and line.split()[2].partition("@")[0] == name)
    segments = subprocess.run([need("readelf", "binutils"), "-lW", str(path)], check=True, capture_output=True, text=True).stdout
    for line in segments.splitlines():
        words = line.split()
        if words[:1] == ["LOAD"] and "R E" in line:
            offset, vaddr, size = int(words[1], 16), int(words[2], 16), int(words[4], 16)
            if vaddr <= address < vaddr + size:
                return address - vaddr + offset
    raise AssertionError(f"{name} is in no segment")


def test_malloc_of_libc_is_seen_with_its_argument_and_its_result(sh):
    offset = symbol(LIBC, "malloc")
    text = sh(f"echo 'p:m {LIBC}:{offset:#x} size=%di:u64 who=$comm' > uprobe_events;"
              f"echo 'r:mr {LIBC}:{offset:#x} $retval' >> uprobe_events; cat uprobe_events events/uprobes/m/format;"
              "echo 1 > events/uprobes/enable; cat /etc/hostname; echo 0 > events/uprobes/enable; cat trace uprobe_profile;"
              "cat /etc/hostname")
    assert text.startswith(f"p:uprobes/m {LIBC}:0x{offset:016x} size=%di:u64 who=$comm\n"
                           f"r:uprobes/mr {LIBC}:0x{offset:016x} arg1=$retval\nname: m\n")
    assert 'print fmt: "(%lx) size=%Lu who=\\"%s\\"", REC->__probe_ip, REC->size, __get_str(who)\n' in text
    assert re.search(r" +cat-\d+ +\[\d+\] \S+ +\d+\.\d{6}: m: \(0x7f[0-9a-f]+\) size=\d+ who=\"cat\"", text)
    assert re.search(r": mr: \(0x[0-9a-f]+ <- 0x7f[0-9a-f]+\) arg1=0x[0-9a-f]{8,}", text)
    assert re.search(rf"^  {LIBC} m {{43}} +\d+$", text, re.M)


@pytest.fixture
def program(build_c):
    from tests.conftest import PROGRAMS

    return build_c(PROGRAMS / "uprobe.c", "-O1", "-fno-pie", "-no-pie", "-pthread", "-w")


@pytest.fixture
def probed(boot, program):
    """probed(script) -> output of a shell whose $P is the program; its directory is mounted at /programs."""
    from glasskernel import Share

    kernel = boot(shares=[Share(str(program.parent), "/programs")])

    def go(script, status=0):
        done = kernel.run(["/bin/bash", "-c", f"P=/programs/{program.name}; cd /sys/kernel/tracing\n{script}"])
        assert done.status == status, (done.stdout[-3000:], done.stderr)
        return (done.stdout + done.stderr).decode()

    return go


def instructions(program, function):
    """Addresses of a function's instructions, of a program that is linked to a fixed address."""
    out = subprocess.run([need("objdump", "binutils"), "-d", f"--disassemble={function}", str(program)], check=True,
                         capture_output=True, text=True).stdout
    return [int(m[1], 16) for m in re.finditer(r"^ +([0-9a-f]+):\t(?:[0-9a-f]{2} )+ *\t", out, re.M)]


def test_a_program_runs_the_same_with_a_probe_at_every_instruction(probed, program):
    start = symbol(program, "mix", dynamic=False)
    places = instructions(program, "mix")
    script = "".join(f"echo 'p:i{n} '$P:{start + place - places[0]:#x} >> uprobe_events\n" for n, place in enumerate(places))
    expected = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    text = probed(f"{script}for i in events/uprobes/i*/enable; do echo 1 > $i || echo $i; done 2>&1 | grep -c error; $P; "
                  "echo 0 > events/uprobes/enable; echo =; $P; wc -l < uprobe_profile; awk '$3 > 0' uprobe_profile | wc -l")
    refused, _, rest = text.partition("\n")
    ours, _, tail = rest.partition("=\n")
    assert ours == expected
    again, counts = tail[: len(expected)], tail[len(expected) :].split()
    assert again == expected
    assert int(refused) == 0                     # ud2 is refused when it is met, not when it is asked for
    assert int(counts[0]) == len(places)
    assert int(counts[1]) >= len(places) - 3


def test_return_probes_follow_tail_calls_longjmp_threads_forks_and_signals(probed, program):
    names = ("leaf", "tail", "deep", "thrown", "mix", "work", "on_signal")
    script = "".join(f"echo 'r:{name} '$P:{symbol(program, name, dynamic=False):#x}' $retval:s64 who=$comm' >> uprobe_events\n"
                     for name in names)
    expected = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    text = probed(f"{script}echo 1 > events/uprobes/enable; $P; echo 0 > events/uprobes/enable; echo =; cat uprobe_profile trace")
    ours, _, rest = text.partition("=\n")
    assert ours == expected.replace("breakpoint 0", "breakpoint 1")      # the program looks at its own code
    hits = {name: int(count) for name, count in re.findall(r"^  /programs/\w+ (\w+) +(\d+)$", rest, re.M)}
    assert hits["deep"] == 21 + 4 and hits["tail"] == 1 and hits["work"] == 3 and hits["mix"] == 2 and hits["on_signal"] == 3
    assert hits["thrown"] == 0                     # they never return
    assert hits["leaf"] == 12 * 2 + 1 + 1 + 3 + 90 + 5 * 2 + 1 + 1
    assert re.search(r"deep: \(0x\w+ <- 0x4\w+\) arg1=20 ", rest)


def test_probes_come_and_go_while_the_program_runs(probed, program):
    """A child of fork(2) that was made while a probe was there has no breakpoint left, and the file never had one."""
    offset, fault = (symbol(program, name, dynamic=False) for name in ("leaf", "fault"))
    expected = subprocess.run([str(program), "4"], capture_output=True, text=True, check=True).stdout
    text = probed(f"""
echo 'p:leaf '$P:{offset:#x}' n=%di:s64' > uprobe_events; echo 'p:fault '$P:{fault + 1:#x} >> uprobe_events
mkfifo /tmp/go; $P 4 wait < /tmp/go > /tmp/out & exec 3> /tmp/go
rounds() {{ until [ $(grep -c round /tmp/out) = $1 ]; do sleep 0.01; done; }}
rounds 1; echo 1 > events/uprobes/enable; grep -c uprobes /proc/$!/maps; echo >&3
rounds 2; grep -c leaf: trace; grep -c fault: trace; echo 0 > events/uprobes/enable; echo > trace; echo >&3
rounds 3; grep -c leaf: trace; echo 1 > events/uprobes/leaf/enable; echo 0 > events/uprobes/enable; echo >&3
rounds 4; echo > uprobe_events; cat uprobe_events; echo >&3; wait; echo =; grep -v round /tmp/out; cmp $P $P""", 0)
    counts, _, ours = text.partition("=\n")
    assert counts.split() == ["0", str(12 * 2 + 1 + 1 + 3 + 90 + 5 * 2 + 1 + 1), "1", "0"]
    assert ours == expected


def test_what_bash_reads_from_its_user(sh):
    offset = symbol("/bin/bash", "readline")
    text = sh(f"echo 'r:bash_ret /bin/bash:{offset:#x} line=+0($retval):string' > uprobe_events; echo 1 > events/uprobes/enable;"
              "printf 'echo hello there\\nexit\\n' | script -qc 'bash --norc -i' /dev/null >/dev/null; cat trace")
    assert 'line="echo hello there"' in text and 'line="exit"' in text


def test_stack_registers_memory_and_filters(probed, program):
    offset = symbol(program, "leaf", dynamic=False)
    counter = symbol(program, "mix", dynamic=False)
    text = probed(f"echo 'p:t/leaf '$P:{offset:#x}' n=%di:u64 sp=$stack ret=$stack0 same=+0(%sp) code=@+{counter:#x}:x8 "
                  "f=%flags ip=%ip bad=+0(@0x10):string who=$comm' > uprobe_events; echo 'n > 100 || n == 29' > events/t/leaf/filter;"
                  "echo 'hist:keys=n' > events/t/leaf/trigger; echo 1 > events/t/leaf/enable; $P > /dev/null; cat trace;"
                  "cat events/t/leaf/hist; echo > events/t/leaf/trigger; echo 0 > events/t/leaf/enable; echo '-:t/leaf' >> uprobe_events;"
                  "ls -d events/t; true")
    lines = re.findall(r"leaf: \((0x\w+)\) n=(\d+) sp=(0x7f\w+) ret=(0x\w+) same=(0x\w+) code=0x(\w+) f=0x\w+ ip=(0x\w+) bad=\(fault\)", text)
    assert len(lines) == 3 and all(line[1] == "29" and line[3] == line[4] and line[0] == line[6] for line in lines)
    assert re.search(r"^\{ n: +29 \} hitcount: +3$", text, re.M)
    assert "cannot access 'events/t'" in text


@pytest.mark.parametrize("probe, why, column", [
    ("p:x /no/file:0x10", "Failed to find the given file", 4), ("p:x /etc:0x10", "Not a regular file", 4),
    ("p:x /bin/bash:0x1z", "Invalid uprobe offset", 14), ("p:x /bin/bash:0x10 %zz", "Invalid register name", 19),
    ("p:x /bin/bash:0x10 $retval", "$retval is not available on probe", 19),
    ("p:x /bin/bash:0x10 a=@vfs_read", "Symbol is not available with uprobe", 21),
    ("p:1x /bin/bash:0x10", "Event name must follow the same rules as C identifiers", 2),
    ("p:x /bin/bash:0x10 $arg1", "Invalid $-valiable specified", 19),
])
def test_bad_probes_are_refused_and_logged(sh, probe, why, column):
    text = sh(f"echo '{probe}' >> uprobe_events; cat error_log uprobe_events")
    assert f"] trace_uprobe: error: {why}\n  Command: {probe}\n{' ' * (11 + column)}^\n" in text


def test_what_is_on_cannot_go_and_what_cannot_bear_a_probe_stays_off(sh, build_c):
    text = sh("echo 'p:x /bin/bash:0x0' > uprobe_events; echo 1 > events/uprobes/x/enable; echo 'p:y /bin/bash' >> uprobe_events;"
              "echo -:x >> uprobe_events; echo > uprobe_events; echo 0 > events/uprobes/x/enable; echo -:nobody >> uprobe_events;"
              "echo -:x >> uprobe_events; cat uprobe_events")
    assert text.count("Device or resource busy") == 2 and text.count("No such file") == 1
    assert text.count("Invalid argument") == 1


def test_trace_cmd_records_them(boot):
    need("trace-cmd", "trace-cmd")
    offset = symbol(LIBC, "malloc")
    done = boot().run(["/bin/bash", "-c", f"cd /tmp; echo 'p:m {LIBC}:{offset:#x} size=%di:u64' > /sys/kernel/tracing/uprobe_events;"
                       "trace-cmd record -q -e uprobes:m sh -c 'sleep 0.2; cat /etc/hostname' >/dev/null 2>&1; trace-cmd report 2>&1"])
    assert re.search(r"cat-\d+ +\[00\d\] +\d+\.\d+: m: +\(0?x?7f[0-9a-f]+\) size=\d+", done.stdout.decode()), done.stdout[-2000:]


def test_all_kinds_of_dynamic_events_are_in_one_file(sh):
    """dynamic_events: in the order in which they were defined, each removable whatever it is."""
    text = sh("echo 'p:k vfs_read' >> dynamic_events; echo 's:lat u64 ns; pid_t pid' >> dynamic_events;"
              "echo 'p:u /bin/bash:0x1000' >> dynamic_events; cat dynamic_events; cat kprobe_events uprobe_events synthetic_events;"
              "echo -:lat >> dynamic_events; echo 1 > events/uprobes/u/enable; echo > dynamic_events; echo 0 > events/uprobes/u/enable;"
              "echo -:uprobes/u >> dynamic_events; cat dynamic_events; echo -:u >> dynamic_events; echo > dynamic_events; cat dynamic_events")
    assert text.startswith("p:kprobes/k vfs_read\ns:synthetic/lat\tu64 ns; pid_t pid\np:uprobes/u /bin/bash:0x0000000000001000\n"
                           "p:kprobes/k vfs_read\np:uprobes/u /bin/bash:0x0000000000001000\nlat\tu64 ns; pid_t pid\n"
                           "p:kprobes/k vfs_read\n/bin/bash: ")
    assert text.count("busy") == 1 and text.count("No such file") == 1


def test_a_debugger_has_its_own_breakpoints_in_a_probed_program(probed, program):
    """gdb wants SIGTRAP with SI_KERNEL for them, and steps over ours."""
    need("gdb", "gdb")
    offset = symbol(program, "leaf", dynamic=False)
    text = probed(f"echo 'p:leaf '$P:{offset:#x} > uprobe_events; echo 1 > events/uprobes/enable;"
                  "gdb -q -batch -nx -ex 'handle SIGUSR1 SIGSEGV nostop noprint' -ex 'break tail' -ex run -ex 'bt 1' -ex stepi -ex delete "
                  "-ex continue $P 2>&1; echo 0 > events/uprobes/enable; cat uprobe_profile")
    assert "Breakpoint 1, " in text and re.search(r"#0 +0x\w+ in tail \(\)", text)
    assert "exited normally" in text and "SIGTRAP" not in text
    assert re.search(r" leaf +131$", text, re.M)


def test_faults_threads_and_forks_in_the_middle_of_a_step(probed, program):
    """The faulting instruction, system calls' callers, a forking main(): all of them bear probes."""
    script, count = "", 0
    for function in ("fault", "main", "deep", "thrown", "work", "on_signal", "on_fault"):
        start, places = symbol(program, function, dynamic=False), instructions(program, function)
        for place in places:
            script += f"echo 'p:i{count} '$P:{start + place - places[0]:#x}\n"
            count += 1
    expected = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    text = probed(f"{{ {script} }} > uprobe_events; echo 1 > events/uprobes/enable; $P; cat /proc/self/status | grep -c x; "
                  "echo 0 > events/uprobes/enable; echo =; wc -l < uprobe_profile; awk '$3 > 0' uprobe_profile | wc -l; $P")
    ours, _, rest = text.partition("=\n")
    assert ours.startswith(expected)
    counts = rest.split()[:2]
    assert int(counts[0]) == count and int(counts[1]) > count * 3 // 4
    assert rest.endswith(expected)
