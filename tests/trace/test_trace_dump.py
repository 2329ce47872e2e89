"""dump and cpudump: Documentation/trace/ftrace.rst."""

import re

import pytest


@pytest.mark.parametrize("command", ["dump", "cpudump"])
def test_a_function_dumps_the_trace_to_the_kernels_log(boot, command):
    kernel = boot(cmdline="oops=panic", cpus=1 if command == "cpudump" else 4)
    done = kernel.run(["/bin/bash", "-c", f"""cd /sys/kernel/tracing; echo do_umount:{command} > set_ftrace_filter; cat set_ftrace_filter
        mkdir /tmp/m; mount -t tmpfs x /tmp/m; exec > /tmp/out 2>&1; echo "hello there" > trace_marker; umount /tmp/m
        mount -t tmpfs x /tmp/m; umount /tmp/m; echo 1 > tracing_on; cat trace >&2"""])
    assert done.status == 0
    assert f"do_umount:{command}:count=1\n" in done.stdout.decode()
    log = kernel.run(["/bin/sh", "-c", "dmesg"]).stdout.decode()
    assert re.search(r"\] Dumping ftrace buffer:\n\[.*\] -{33}\n(?s:.*)tracing_mark_write: hello there\n(?s:.*)\] -{33}\n", log)
    assert log.count("Dumping ftrace buffer") == 1


def test_an_empty_buffer_says_so(boot):
    kernel = boot(cmdline="oops=panic")
    log = kernel.run(["/bin/bash", "-c", "cd /sys/kernel/tracing; echo do_umount:dump > set_ftrace_filter; mkdir /tmp/m; "
                      "mount -t tmpfs x /tmp/m; umount /tmp/m; dmesg"]).stdout.decode()
    assert "] Dumping ftrace buffer:\n" in log and "]    (ftrace buffer empty)\n" in log
