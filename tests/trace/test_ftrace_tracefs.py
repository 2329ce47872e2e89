"""Function tracing as a shell in the guest drives it: tracers, filters, commands, pids, instances, the profiler.

What is expected comes from sessions on a real kernel (reference/semantics): the same words, the same errors.
"""
from __future__ import annotations

import re

import pytest


@pytest.fixture
def sh(boot):
    """sh(script) -> what it prints, in tracefs, on one kernel for the whole test."""
    kernel = boot()

    def go(script):
        result = kernel.run(["/bin/bash", "-c", "cd /sys/kernel/tracing; " + script])
        return (result.stdout + result.stderr).decode()

    go.kernel = kernel
    return go


def test_the_tracers_are_linux_s(sh):
    assert sh("cat available_tracers").split()[-6:] == [
        "function_graph", "wakeup_dl", "wakeup_rt", "wakeup", "function", "nop"]


def test_a_filter_takes_names_globs_and_numbers(sh):
    assert sh("cat set_ftrace_filter") == "#### all functions enabled ####\n"
    assert sh("echo vfs_read > set_ftrace_filter; cat set_ftrace_filter") == "vfs_read\n"
    assert sh("echo 'vfs_read vfs_write' > set_ftrace_filter; cat set_ftrace_filter") == "vfs_read\nvfs_write\n"
    assert sh("echo '!vfs_read' >> set_ftrace_filter; cat set_ftrace_filter") == "vfs_write\n"
    found = sh("echo 'vfs_re*' > set_ftrace_filter; cat set_ftrace_filter").split()
    assert "vfs_read" in found and "vfs_rename" in found and all(name.startswith("vfs_re") for name in found)
    assert set(sh("echo '*_read' > set_ftrace_filter; cat set_ftrace_filter").split()) >= {"vfs_read", "ksys_read"}
    assert sh("sed -n 7p available_filter_functions") == sh("echo 7 > set_ftrace_filter; cat set_ftrace_filter")
    assert sh("echo > set_ftrace_filter; cat set_ftrace_filter") == "#### all functions enabled ####\n"
    assert sh("cat set_ftrace_notrace; echo dput > set_ftrace_notrace; cat set_ftrace_notrace; echo > set_ftrace_notrace") == (
        "#### no functions disabled ####\ndput\n")


def test_a_name_that_nothing_has_is_invalid(sh):
    assert sh("echo nosuchfn > set_ftrace_filter; cat set_ftrace_filter") == (
        "#### all functions enabled ####\n/bin/bash: line 1: echo: write error: Invalid argument\n")
    assert "Invalid argument" in sh("echo nosuchfn > set_graph_function")
    assert "Invalid argument" in sh("echo vfs_read:nosuchcommand > set_ftrace_filter")
    assert "Invalid argument" in sh("echo '!vfs_read:traceoff' > set_ftrace_filter")


def test_the_function_tracer_names_the_caller(sh):
    text = sh("echo vfs_read > set_ftrace_filter; echo function > current_tracer; cat /etc/hostname > /dev/null;"
              "echo nop > /dev/null; cat enabled_functions; cat trace; echo nop > current_tracer; cat enabled_functions")
    assert text.startswith("vfs_read (1)")
    lines = re.findall(r"^ +(\S+)-(\d+) +\[(\d{3})\] (.{4}) +(\d+\.\d{6}): (\S+) <-(\S+)$", text, re.M)
    assert lines and {line[5:] for line in lines} <= {("vfs_read", "ksys_read"), ("vfs_read", "ksys_pread64")}
    assert any(line[0] == "cat" for line in lines)


def test_a_stack_behind_each_function(sh):
    """options/func_stack_trace"""
    text = sh("echo vfs_read > set_ftrace_filter; echo function > current_tracer; echo 1 > options/func_stack_trace;"
              "cat /etc/hostname > /dev/null; cat trace; echo 0 > options/func_stack_trace")
    assert ("<stack trace>\n => vfs_read\n => ksys_read\n => __x64_sys_read\n => do_syscall_64\n"
            " => entry_SYSCALL_64_after_hwframe\n") in text


def test_a_graph_of_one_function_down_to_a_depth(sh):
    """set_graph_function, max_graph_depth"""
    text = sh("echo vfs_read > set_graph_function; echo 2 > max_graph_depth; cat max_graph_depth;"
              "echo function_graph > current_tracer; echo > trace; cat /etc/hostname > /dev/null; cat trace")
    assert text.startswith("2\n# tracer: function_graph\n#\n# CPU  DURATION                  FUNCTION CALLS\n")
    bodies = re.findall(r"\|  vfs_read\(\) \{\n(.*?)\|  \}\n", text, re.S)
    assert bodies
    for body in bodies:
        assert all(re.fullmatch(r" \d\) .[ ] *[\d.]+ us +\|    \S+\(\);", line) for line in body.splitlines()[:-1]), body


def test_functions_and_what_they_call_can_be_left_out(sh):
    """set_graph_notrace"""
    text = sh("echo vfs_read > set_graph_notrace; echo function_graph > current_tracer; echo > trace;"
              "cat /etc/hostname > /dev/null; echo 0 > tracing_on; cat trace")
    assert "ksys_read()" in text and "vfs_read()" not in text and "new_sync_read" not in text


def test_a_graph_can_be_read_while_it_is_made(sh):
    """trace_pipe: what was read is gone, and leaf calls stay one line."""
    text = sh("echo __x64_sys_newuname > set_graph_function; echo function_graph > current_tracer; cat trace_pipe > /tmp/p & p=$!;"
              "sleep 0.01; uname > /dev/null; uname > /dev/null; sleep 0.1; kill $p; wait $p 2> /dev/null; echo nop > current_tracer; cat /tmp/p")
    assert "|  __x64_sys_newuname() {\n" in text and re.search(r"\(\);$", text, re.M)
    assert text.count("() {") == len(re.findall(r"\|  +\}$", text, re.M))


def test_an_event_is_a_comment_in_a_graph(sh):
    text = sh("echo __x64_sys_nanosleep > set_graph_function; echo '*nanosleep*' > set_graph_function;"
              "echo function_graph > current_tracer; echo 1 > events/sched/sched_switch/enable; sleep 0.001;"
              "echo hello > trace_marker; echo 0 > tracing_on; cat trace")
    assert re.search(r"/\* sched_switch: prev_comm=sleep .* ==> next_comm=\S+ .* \*/", text)
    assert "/* hello */" in text


def test_a_function_can_stop_and_start_tracing(sh):
    """traceoff, with and without a count"""
    assert sh("echo do_sys_open:traceoff > set_ftrace_filter; cat set_ftrace_filter; cat tracing_on") == (
        "#### all functions enabled ####\ndo_sys_open:traceoff:unlimited\n0\n")
    assert sh("echo '!do_sys_open:traceoff' > set_ftrace_filter; cat set_ftrace_filter; echo 1 > tracing_on; cat tracing_on") == (
        "#### all functions enabled ####\n1\n")
    assert sh("echo do_sys_open:traceoff:2 > set_ftrace_filter; cat set_ftrace_filter") == (
        "#### all functions enabled ####\ndo_sys_open:traceoff:count=1\n")
    assert sh("echo 1 > tracing_on; true; cat tracing_on; cat set_ftrace_filter") == (
        "0\n#### all functions enabled ####\ndo_sys_open:traceoff:count=0\n")


def test_a_function_can_leave_a_stack_or_switch_an_event(sh):
    assert " => do_sys_open\n" in sh(
        "echo do_sys_open:stacktrace:1 > set_ftrace_filter; true > /dev/null; cat trace; echo '!do_sys_open:stacktrace' > set_ftrace_filter")
    assert sh("cat events/sched/sched_switch/enable; echo do_sys_open:enable_event:sched:sched_switch > set_ftrace_filter;"
              "cat /dev/null; cat events/sched/sched_switch/enable; tail -1 set_ftrace_filter") == (
        "0\n1\ndo_sys_open:enable_event:sched:sched_switch:unlimited\n")


def test_only_the_tasks_of_set_ftrace_pid(sh):
    assert sh("echo 1 > set_ftrace_pid; cat set_ftrace_pid; echo 2 >> set_ftrace_pid; cat set_ftrace_pid; echo abc > set_ftrace_pid;"
              "cat set_ftrace_pid; echo > set_ftrace_pid; cat set_ftrace_pid") == (
        "1\n1\n2\nno pid\nno pid\n/bin/bash: line 1: echo: write error: Invalid argument\n")
    def pids(text):
        return set(re.findall(r"^ +\S+-(\d+) ", text, re.M))

    script = ("echo $$ > set_ftrace_pid; echo vfs_read vfs_write > set_ftrace_filter; echo function > current_tracer; echo > trace;"
              "echo x > /dev/null; cat /etc/hostname > /dev/null; cat trace; echo $$")
    shell = sh(script).split()[-1]
    assert pids(text := sh(script)) == {text.split()[-1]} and text.split()[-1] != shell
    text = sh("echo 1 > options/function-fork; " + script)
    assert text.split()[-1] in pids(text) and len(pids(text)) > 1


def test_an_instance_has_a_function_tracer_of_its_own(sh):
    text = sh("mkdir instances/foo; echo do_sys_open > instances/foo/set_ftrace_filter; echo function > instances/foo/current_tracer;"
              "cat /etc/hostname > /dev/null; cat set_ftrace_filter; grep -c 'do_sys_open <-' instances/foo/trace; grep -c '<-' trace;"
              "echo function_graph > instances/foo/current_tracer; echo nop > instances/foo/current_tracer; rmdir instances/foo")
    lines = text.split("\n")
    assert lines[0] == "#### all functions enabled ####" and int(lines[1]) > 2 and lines[2] == "0"
    assert "Invalid argument" in text             # the graph tracer is for the top instance only


def test_the_profiler_counts_and_times(sh):
    """function_profile_enabled, trace_stat/functionN"""
    text = sh("echo 1 > function_profile_enabled; cat /etc/hostname > /dev/null; echo 0 > function_profile_enabled; cat trace_stat/function*")
    assert text.startswith("  Function                               Hit    Time            Avg             s^2\n  --------    ")
    assert re.search(r"^  vfs_read +[1-9]\d*    +\d+\.\d+ us +\d+\.\d+ us +\d+\.\d+ us +$", text, re.M)
    sh("echo function_graph > current_tracer")
    assert "busy" in sh("echo 1 > function_profile_enabled")


def test_the_longest_wait_of_a_realtime_task(sh):
    """wakeup_rt: the trace is of the worst case, in latency format."""
    text = sh("echo wakeup_rt > current_tracer; chrt -f 5 sleep 0.001; cat tracing_max_latency; cat trace")
    assert "# wakeup_rt latency trace v1.1.5 on 5.3.0-glasskernel\n" in text
    assert re.search(r"#    \| task: sleep-\d+ \(uid:0 nice:0 policy:1 rt_prio:5\)", text)
    assert re.search(r"<idle>-0 .* 0:120:R   \+ \[\d{3}\] +\d+: 94:R sleep\n", text)
    assert re.search(r"<idle>-0 .* 0:120:R ==> \[\d{3}\] +\d+: 94:R sleep\n$", text)
    assert "ttwu_do_wakeup <-" in text and "__schedule <-" in text
    assert sh("echo nop > current_tracer; cat options/latency-format") == "0\n"


def test_the_commands_of_an_instance_go_with_it(boot):
    """`vfs_read:traceoff:unlimited` of an instance that is gone does nothing, and costs nothing."""
    kernel = boot(cmdline="oops=panic")
    done = kernel.run(["/bin/bash", "-c", "cd /sys/kernel/tracing/instances; mkdir i; echo 'vfs_read:traceoff' > i/set_ftrace_filter;"
                       "echo $$ > i/set_ftrace_pid; grep -c traceoff i/set_ftrace_filter; rmdir i && cat /etc/hostname >/dev/null && mkdir i;"
                       "cat i/set_ftrace_filter i/set_ftrace_pid i/tracing_on"])
    assert done.stdout.decode() == "1\n#### all functions enabled ####\nno pid\n1\n", done
    assert all(tr in kernel.tracing.trace_arrays for tr in kernel.ftrace.instances)
