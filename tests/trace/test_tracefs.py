"""/sys/kernel/tracing as shell scripts see it. What Linux prints is in the reference captures (5.10), with 5.3's columns."""

import re
import time

import pytest

from glasskernel import Share
from tests.conftest import need

HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {n}/{n}   #P:4
#
#                              _-----=> irqs-off
#                             / _----=> need-resched
#                            | / _---=> hardirq/softirq
#                            || / _--=> preempt-depth
#                            ||| /     delay
#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION
#              | |       |   ||||       |         |
"""


def records(text):
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_an_empty_trace_is_the_header(sh):
    assert sh("cat trace") == HEADER.format(n=0)


def test_a_marker_is_a_record(sh):
    text = sh("echo hello > trace_marker; cat trace")
    assert text.startswith(HEADER.format(n=1))
    assert re.fullmatch(r" {12}bash-\d+ +\[00\d\] \.\.\.\. +\d+\.\d{6}: tracing_mark_write: hello", records(text)[0])


def test_markers_while_tracing_is_off_are_refused(sh):
    assert "Bad file descriptor" in sh("echo 0 > tracing_on; echo hello > trace_marker", 1)
    assert "Invalid argument" in sh("echo 1 > tracing_on; echo 0 > options/markers; echo x > trace_marker", 1)


def test_raw_markers_begin_with_a_number(sh):
    text = sh(r"printf '\1\0\0\0abcd' > trace_marker_raw; cat trace")
    assert records(text)[0].endswith(": # 1 buf: 61 62 63 64")
    assert "Invalid argument" in sh("printf abc > trace_marker_raw", 1)


def test_truncating_empties_the_buffer(sh):
    assert sh("echo a > trace_marker; > trace; echo b > trace_marker; cat trace").count("tracing_mark_write") == 1
    assert sh("echo 0 > trace; cat trace") == HEADER.format(n=0)


def test_reading_does_not_take_but_trace_pipe_does(sh):
    text = sh("echo a > trace_marker; cat trace > /tmp/1; cat trace > /tmp/2; cmp /tmp/1 /tmp/2; head -n 1 trace_pipe; cat trace")
    assert records(text)[0].endswith(": a") and len(records(text)) == 1


def test_trace_pipe_waits_for_records(sh):
    text = sh("timeout 5 head -n 2 trace_pipe > /tmp/got & sleep 1; echo one > trace_marker; sleep 1; echo two > trace_marker; wait; "
              "cat /tmp/got")
    assert [line.rsplit(": ", 1)[1] for line in records(text)] == ["one", "two"]


def test_trace_pipe_ends_when_tracing_was_switched_off(sh):
    text = sh("echo one > trace_marker; cat trace_pipe > /tmp/got & sleep 1; echo 0 > tracing_on; echo 1 > tracing_on; echo two > "
              "trace_marker; sleep 1; echo 0 > tracing_on; kill -0 $! && kill $!; wait; cat /tmp/got")
    assert "one" in text and "two" in text


def test_trace_pipe_without_waiting(sh):
    program = "import os; f = os.open('trace_pipe', os.O_RDONLY | os.O_NONBLOCK)\ntry: os.read(f, 99)\nexcept BlockingIOError: print('EAGAIN')"
    assert sh(f"python3 -c \"{program}\"") == "EAGAIN\n"


def test_poll_says_when_there_is_something(sh):
    program = ("import os, select; p = select.poll(); p.register(os.open('per_cpu/cpu0/trace_pipe_raw', os.O_RDONLY), 1); "
               "p.register(os.open('trace_pipe', os.O_RDONLY), 1); print(p.poll(10)); os.system('echo x > trace_marker'); "
               "print(len(p.poll(1000)) > 0)")
    assert sh(f"python3 -c \"{program}\"") == "[]\nTrue\n"


def test_the_tracer_cannot_change_while_a_trace_pipe_is_open(sh):
    assert "Device or resource busy" in sh("exec 3< trace_pipe; echo function > current_tracer", 1)


def test_words_that_linux_refuses(sh):
    for command in ("echo foo > current_tracer", "echo xyz > tracing_on", "echo nosuch > trace_clock", "echo nosuchopt > trace_options",
                    "echo 2 > options/overwrite", "echo 0 > buffer_size_kb", "echo zz > tracing_cpumask", "echo 1 > options/test_nop_refuse",
                    "echo nosuch:event > set_event", "echo abc > set_event_pid", "echo 2 > events/sched/enable"):
        assert "Invalid argument" in sh(command, 1), command
    assert "Operation not permitted" in sh("mkdir foo", 1)
    assert "Operation not permitted" in sh("rmdir instances", 1)
    assert "No such file" in sh("mkdir instances/a/b", 1)


def test_options(sh):
    assert sh("cat options/overwrite; echo nooverwrite > trace_options; cat options/overwrite; grep overwrite trace_options") == (
        "1\n0\nnooverwrite\n")
    assert sh("tail -2 trace_options") == "notest_nop_accept\nnotest_nop_refuse\n"


def test_clocks(sh):
    assert sh("cat trace_clock; echo global > trace_clock; cat trace_clock") == (
        "[local] global counter uptime perf mono mono_raw boot x86-tsc host\n"
        "local [global] counter uptime perf mono mono_raw boot x86-tsc host\n")
    text = sh("echo counter > trace_clock; echo a > trace_marker; echo b > trace_marker; cat trace")
    assert [re.search(r" +(\d+): tracing", line)[1] for line in records(text)] == ["1", "2"]


def test_the_host_clock_is_the_hosts(sh):
    """Ours, on request: the stamps lie between two looks at the host's clock; durations stay virtual."""
    before = time.monotonic_ns()
    text = sh("echo host > trace_clock; echo a > trace_marker; echo b > trace_marker; cat trace")
    stamps = [float(re.search(r" +([\d.]+): tracing", line)[1]) * 1e9 for line in records(text)]
    assert before - 1000 < stamps[0] <= stamps[1] < time.monotonic_ns() + 1000


def test_sizes_are_pages_of_4080_bytes(sh):
    assert sh("cat buffer_size_kb buffer_total_size_kb") == "7 (expanded: 1408)\n28 (expanded: 5632)\n"
    assert sh("echo 1408 > buffer_size_kb; cat buffer_size_kb buffer_total_size_kb; echo 100 > buffer_size_kb; cat buffer_size_kb "
              "buffer_total_size_kb; echo 4 > per_cpu/cpu0/buffer_size_kb; cat buffer_size_kb per_cpu/cpu0/buffer_size_kb; "
              "echo 1 > free_buffer; cat buffer_size_kb") == "1410\n5640\n103\n412\nX\n7\n7\n"


def test_lost_records_are_counted(sh):
    text = sh("echo 1 > buffer_size_kb; for i in `seq 400`; do echo $i > trace_marker; done; cat per_cpu/cpu*/stats; head -3 trace; cat trace")
    counts = [sum(int(n) for n in re.findall(rf"^{name}: (\d+)", text, re.M)) for name in ("entries", "overrun", "dropped events")]
    assert counts[0] + counts[1] == 400 and not counts[2] and counts[1]
    assert f"# entries-in-buffer/entries-written: {counts[0]}/400 " in text
    assert records(text)[-1].endswith(": 400")
    text = sh("> trace; echo 0 > options/overwrite; for i in `seq 400`; do echo $i > trace_marker; done; cat trace 2>&1", 0)
    assert records(text)[0].split(": ")[-1] == "1" or "Bad file" in text


def test_a_snapshot_is_the_buffer_as_it_was(sh):
    assert "# * Snapshot is freed *\n" in sh("cat snapshot")
    text = sh("echo then > trace_marker; echo 1 > snapshot; echo now > trace_marker; cat snapshot; echo ==; cat trace")
    snapshot, _, live = text.partition("==")
    assert "then" in snapshot and "now" not in snapshot and "now" in live and "then" not in live
    assert "# * Snapshot is allocated *\n" in sh("echo 2 > snapshot; cat snapshot")
    assert "# * Snapshot is freed *\n" in sh("echo 0 > snapshot; cat snapshot")


def test_instances_are_buffers_of_their_own(sh):
    text = sh("mkdir instances/a; ls instances; cat instances/a/current_tracer instances/a/available_tracers; echo in > "
              "instances/a/trace_marker; echo 1 > instances/a/events/sched/sched_switch/enable; sleep 0.1; cat trace; echo ==; "
              "cat instances/a/trace; cat set_event; rmdir instances/a; ls instances")
    top, _, own = text.partition("==")
    assert top.startswith("a\nnop\nwakeup_dl wakeup_rt wakeup function nop\n") and top.endswith(HEADER.format(n=0))
    assert "tracing_mark_write: in" in own and "sched_switch: prev_comm=" in own and records(own)[-1] != "a"
    assert "Device or resource busy" in sh("mkdir instances/b; exec 3< instances/b/trace_pipe; rmdir instances/b", 1)
    assert sh("rmdir instances/b; ls instances") == ""


def test_events_are_switched_by_system_and_by_name(sh):
    assert sh("cat set_event events/enable; echo sched:sched_switch > set_event; cat set_event events/enable events/sched/enable "
              "events/sched/sched_switch/enable") == "0\nsched:sched_switch\nX\nX\n1\n"
    assert sh("echo sched_wakeup >> set_event; echo '!sched:sched_switch' >> set_event; cat set_event; echo > set_event; cat set_event"
              ) == "sched:sched_wakeup\n"
    assert sh("echo 1 > events/signal/enable; cat events/signal/enable; cat set_event; echo > set_event; cat events/signal/enable"
              ) == "1\nsignal:signal_generate\nsignal:signal_deliver\n0\n"
    assert sh("echo 1 > events/sched/sched_switch/enable; sleep 0.01; echo 0 > events/sched/sched_switch/enable; grep -c sched_switch: trace"
              ) != "0\n"
    assert not any(sh.kernel.tp.listeners.values())


def test_a_format_file_and_an_id(sh):
    assert sh("cat events/ftrace/print/format; ls events/ftrace/print; cat events/sched/sched_switch/filter; "
              "grep -c . events/sched/sched_switch/id; wc -c < events/header_page; cat events/header_event | head -1") == """\
name: print
ID: 5
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:unsigned long ip;	offset:8;	size:8;	signed:0;
	field:char buf[];	offset:16;	size:0;	signed:1;

print fmt: "%ps: %s", (void *)REC->ip, REC->buf
format
none
1
205
# compressed entry header
"""


def test_set_event_pid_with_event_fork(sh):
    text = sh("echo $$ > set_event_pid; echo 1 > options/event-fork; cat set_event_pid | grep -cx $$; echo 1 > "
              "events/sched/sched_process_exec/enable; bash -c 'exec /bin/true'; cat trace; echo > set_event_pid; cat set_event_pid")
    assert text.startswith("1\n") and "filename=/bin/true" in text and text.count("sched_process_exec:") >= 2
    text = sh("> trace; echo 1 > set_event_pid; echo 0 > options/event-fork; /bin/true; grep -c sched_process_exec: trace", 1)
    assert text == "0\n"


def test_cpumask_limits_who_records(sh):
    assert sh("cat tracing_cpumask; echo 0 > tracing_cpumask; cat tracing_cpumask; echo x > trace_marker 2>/dev/null; grep -c : trace"
) == "f\n0\n2\n"


def test_saved_names(sh):
    assert re.search(r"^\d+ bash$", sh("echo x > trace_marker; cat saved_cmdlines saved_cmdlines_size"), re.M)
    text = sh("echo 1 > options/record-tgid; echo y > trace_marker; tail -1 trace; cat saved_tgids")
    pid = re.search(r"bash-(\d+)", text)[1]
    assert f"({pid:>5}) [00" in text and f"\n{pid} {pid}\n" in text


def test_a_kernel_stack_stands_behind_the_record(sh):
    text = sh("echo 1 > options/stacktrace; echo 1 > events/sched/sched_process_exec/enable; /bin/true; cat trace")
    stack = text.partition("<stack trace>\n")[2].partition("           ")[0]
    assert " => __x64_sys_execve\n => do_syscall_64\n => entry_SYSCALL_64_after_hwframe\n" in stack


def test_user_stacks_name_the_mapped_file(sh):
    text = sh("echo 1 > options/userstacktrace; echo 1 > options/sym-userobj; echo hello > trace_marker; cat trace; true")
    assert re.search(r"<user stack trace>\n => /usr/lib/x86_64-linux-gnu/libc.so.6\[\+0x[0-9a-f]+\]\n", text)


def test_raw_pages_by_read_and_by_splice(sh):
    text = sh("for i in 1 2 3; do echo $i > trace_marker; done; for c in 0 1 2 3; do timeout 1 dd if=per_cpu/cpu$c/trace_pipe_raw bs=4096 "
              "count=1 2>/dev/null; done > /tmp/raw; wc -c < /tmp/raw; strings /tmp/raw | tr '\\n' ' '")
    assert int(text.split()[0]) % 4096 == 0
    assert sh("grep -c . trace") == "11\n"


def test_only_root_may_look(boot):
    kernel = boot()
    done = kernel.run(["/bin/sh", "-c", "ls /sys/kernel/tracing; ls /sys/kernel/debug; stat -c '%a %F' /sys/kernel/tracing"], uid=1000, cwd="/")
    assert done.stdout == b"700 directory\n" and done.stderr.count(b"Permission denied") == 2


def test_debugfs_mounts_tracing_when_it_is_entered(sh):
    assert sh("grep -c 'debug/tracing' /proc/mounts; cat /sys/kernel/debug/tracing/current_tracer; grep debug/tracing /proc/mounts; "
              "stat -f -c %t /sys/kernel/tracing /sys/kernel/debug") == (
        "0\nnop\ntracefs /sys/kernel/debug/tracing tracefs rw,nosuid,nodev,noexec,relatime 0 0\n74726163\n64626720\n")


def test_mountinfo_has_the_field_that_uftrace_wants(sh):
    assert re.search(r" /sys/kernel/tracing \S+ shared:\d+ - tracefs ", sh("cat /proc/self/mountinfo"))


def test_nobody_looked_nothing_was_made(boot):
    """Booting and running programs does not pay for tracing."""
    kernel = boot()
    kernel.run(["/bin/true"])
    assert kernel.tracing is None and kernel.tracefs.root.fill is not None


@pytest.mark.patience(120)
def test_trace_cmd_records_and_reports(sh):
    """Debian's own tool reads our pages, by splice and read, and our formats."""
    need("trace-cmd", "trace-cmd")
    text = sh("cd /tmp; trace-cmd record -o t.dat -e sched -e raw_syscalls ls / > out 2>&1 || cat out; trace-cmd report t.dat")
    assert "cpus=4" in text
    assert re.search(r"ls-\d+ +\[00\d\] +\d+\.\d{6}: sched_process_exec: +filename=/usr/bin/ls", text)
    assert "sys_enter:" in text and "sched_switch:" in text


def test_tracing_does_not_change_the_run(boot):
    """The same program with every event recorded, and with none: the same virtual time."""

    def run(on):
        kernel = boot()
        kernel.run(["/bin/sh", "-c", f"cd /sys/kernel/tracing; echo {on} > events/sched/enable; echo {on} > events/signal/enable; "
                                     "ls / | sort > /tmp/out"])
        return kernel.now_ns, kernel.tracing.global_trace.buffer.buffers[0].entries

    (quiet, nothing), (traced, records_made) = run(0), run(1)
    assert quiet == traced and records_made > nothing == 0


@pytest.mark.patience(120)
def test_uftrace_shows_user_and_kernel_functions(boot, build_c):
    """uftrace -k finds tracefs, sets its filters, reads raw pages; its replay nests kernel functions in the program's."""
    need("uftrace", "uftrace")
    binary = build_c("#include <unistd.h>\nint foo(void) { return getppid(); }\nint main(void) { return foo() < 0; }", "-pg", "-O0")
    done = boot(shares=[Share(str(binary.parent), "/programs")]).run(["/bin/sh", "-c", (
        f"cp /programs/{binary.name} /tmp/u; cd /tmp; uftrace record -k -d d ./u; uftrace replay -k -d d; "
        "cat /sys/kernel/tracing/current_tracer")])
    text = done.stdout.decode()
    assert re.search(r"(?s) main\(\) \{\n.* +foo\(\) \{\n.* getppid\(\) \{\n.*  __x64_sys_getppid\(\);\n.*\} /\* getppid \*/", text), text + done.stderr.decode()
    assert text.endswith("nop\n")
