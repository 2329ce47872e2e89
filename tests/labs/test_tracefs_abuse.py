"""tracefs under abuse: nonsense in every file, a buffer that is too small, tracers that come and go a thousand times."""
import gc
import re

import pytest

from tests.labs.replay import Shell

NONSENSE = r"""
import errno, os, sys
words = [b"", b"\n", b"\xff\xfe\x00nonsense", b"-1\n", b"9" * 40 + b"\n", b"a:b:c/d e\n", b"(((a == && b\n", b"x" * 5000, b"p:../.. vfs_read+zz $no @@\n",
         b"hist:keys=nosuch:vals=:sort=\n", b"!\n", b"%s%n%x\n", b" \t \n"]
allowed = {getattr(errno, name) for name in "EINVAL ENOENT ENODEV EBUSY ERANGE ENOMEM EPERM EACCES EBADF E2BIG ENOSPC EEXIST EFAULT EIO".split()}
tries = refused = 0
files = {}
for top, folders, names in os.walk("/sys/kernel/tracing"):
    folders.sort()
    for name in sorted(names):
        path = os.path.join(top, name)
        if os.stat(path).st_mode & 0o222:
            family = (name if "/events/" in path or "/options/" in path or "per_cpu" in path else path)
            for word in words if files.setdefault(family, 0) < 6 else words[2:4]:
                files[family] += word is words[0]
                tries += 1
                try:
                    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    try:
                        n = os.write(fd, word)
                        assert 0 <= n <= len(word), (path, word, n)
                    finally:
                        os.close(fd)
                except OSError as error:
                    refused += 1
                    assert error.errno in allowed, (path, word, error)
                    assert error.errno != errno.EIO or name in ("set_event",), (path, word, error)
print(len(files), tries, refused)
"""


@pytest.fixture
def sh(boot):
    return Shell(boot(), "/sys/kernel/tracing")


@pytest.mark.patience(120)
def test_nonsense_in_every_file_is_refused_in_linuxs_words(sh):
    sh.write("/tmp/nonsense.py", NONSENSE)
    families, tries, refused = map(int, sh("python3 /tmp/nonsense.py").split())
    assert families > 60 and tries > 1500 and refused > 900
    log = sh("cat error_log")                              # the last eight, of whatever writes such messages
    assert 1 <= log.count("] ") <= 8 and log.count("  Command: ") == log.count(": error: "), log
    # and everything works as before
    assert sh("> error_log; echo 'prev_pid ==' > events/sched/sched_switch/filter; cat error_log 2>&1").count("Command: prev_pid ==") == 1
    text = sh("""echo nop > current_tracer; echo 0 > events/enable; echo > set_event_pid; echo > set_ftrace_filter; echo > set_ftrace_pid
        echo f > tracing_cpumask; echo 1 > tracing_on; echo 1408 > buffer_size_kb; echo > trace; echo good > trace_marker; cat trace""")
    assert text.endswith(": good\n")


def test_a_small_buffer_counts_what_it_loses(sh):
    """64 KB a CPU under a load of many times that: what is there and what was lost is everything."""
    text = sh("""echo 64 > buffer_size_kb; echo 1 > events/raw_syscalls/enable
        for i in 1 2 3 4 5 6 7 8; do seq 1000 | sort -n | tail -1; done > /dev/null
        python3 -c 'import os
for i in range(3000): os.getppid()'
        echo 0 > events/enable
        head -3 trace; for c in 0 1 2 3; do cat per_cpu/cpu$c/stats; grep -vc '^#' per_cpu/cpu$c/trace; done""")
    entries, written = map(int, re.search(r"# entries-in-buffer/entries-written: (\d+)/(\d+) ", text).groups())
    stats = [dict(re.findall(r"^([a-z ]+): (\d+)", part, re.M)) for part in text.split("entries: ")[1:] for part in ["entries: " + part]]
    assert len(stats) == 4
    assert sum(int(s["entries"]) for s in stats) == entries
    assert sum(int(s["entries"]) + int(s["overrun"]) for s in stats) == written > 6000
    assert written > entries and any(int(s["overrun"]) > 1000 for s in stats)
    assert all(int(s["dropped events"]) == int(s["commit overrun"]) == 0 for s in stats)
    assert all(int(s["bytes"]) <= 68 << 10 for s in stats)
    shown = [int(n) for n in re.findall(r"^read events: \d+\n(\d+)$", text, re.M)]
    # per_cpu/cpuN/trace begins with a line about the losses, of a CPU that lost something
    assert [n - (int(s["overrun"]) > 0 and n != int(s["entries"])) for n, s in zip(shown, stats, strict=True)] == [int(s["entries"]) for s in stats]


def test_losses_are_said_where_they_happened(sh):
    """trace_pipe: CPU:n [LOST n EVENTS], once, and the number is what the stats say."""
    text = sh("""echo 64 > buffer_size_kb; echo 1 > tracing_cpumask; echo 1 > events/raw_syscalls/sys_enter/enable
        taskset 1 python3 -c 'import os
for i in range(9000): os.getppid()'
        echo 0 > events/enable; grep overrun per_cpu/cpu0/stats; timeout 1 cat trace_pipe | head -3; true""", 0)
    overrun = int(re.search(r"^overrun: (\d+)", text, re.M)[1])
    assert overrun > 1000 and f"CPU:0 [LOST {overrun} EVENTS]" in text


@pytest.mark.patience(200)
def test_tracers_come_and_go_a_thousand_times(sh):
    """The invariants of the kernel hold afterwards (fixture boot); the memory is what it was; calls run unhooked."""
    script = """echo ksys_read > set_ftrace_filter; echo ksys_read > set_graph_function
        for i in `seq 334`; do echo function > current_tracer; echo function_graph > current_tracer; echo nop > current_tracer; done
        echo > set_ftrace_filter; echo > set_graph_function; echo > trace; cat current_tracer; sync; echo 3 > /proc/sys/vm/drop_caches
        sleep 1; grep MemFree /proc/meminfo"""
    seen = []
    for _ in range(3):
        tracer, free = sh(script).split("MemFree:")
        gc.collect()
        seen.append((int(free.split()[0]), len(gc.get_objects())))
        assert tracer == "nop\n"
    (_, _), (free1, objects1), (free2, objects2) = seen    # the first run fills caches; CPUs keep some slabs at hand
    assert abs(free1 - free2) <= 256 and abs(objects1 - objects2) < 600, seen
