"""Inventory rows about tracing, and those of other rooms that only a trace can show."""
import re

import pytest

from tests.labs.replay import Shell
from tests.labs.test_seed_001_tracing import END, WRITE, graph, in_order, records


@pytest.fixture
def sh(boot):
    return Shell(boot(home=True), "/sys/kernel/debug/tracing")


def tops(text, comm):
    """What the kernel's entries call first, of one task, in a function_graph trace with funcgraph-proc."""
    return set(re.findall(rf"^ *\d+\) +{comm}-\d+ +\|[ \d.us+!#*@$]*\|  (\w+)\(\)", text, re.M))


def test_a003_the_kernel_is_entered_by_events(sh):
    text = sh("echo 1 > options/funcgraph-proc; echo function_graph > current_tracer; /bin/true; sleep 0.3; echo 0 > tracing_on; cat trace")
    program = tops(text, "true")
    assert "do_syscall_64" in program and "do_page_fault" in program
    interrupts = {"smp_apic_timer_interrupt", "smp_reschedule_interrupt", "smp_call_function_single_interrupt", "do_IRQ",
                  "smp_irq_work_interrupt"}
    entries = {"do_syscall_64", "do_page_fault", "exit_to_usermode_loop", "prepare_exit_to_usermode", "schedule_tail", *interrupts}
    assert program <= entries, program - entries
    idle = tops(text, "<idle>")
    assert idle & interrupts


def test_a008_contexts_are_in_the_flags(sh):
    """Which context a record is from, and whose: the caller's in a system call."""
    found = records(sh(f"echo 1 > events/irq/enable; echo 1 > events/raw_syscalls/sys_enter/enable; {WRITE}; cat trace"))
    for record in found:
        context = record["flags"][2]
        if record["event"] in ("irq_handler_entry", "irq_handler_exit"):
            assert context == "h", record
        elif record["event"] in ("softirq_entry", "softirq_exit"):
            assert context == "s", record
        elif record["event"] == "sys_enter":
            assert context == "." and record["comm"] != "<idle>"
    assert {r["event"] for r in found} >= {"irq_handler_entry", "softirq_entry", "sys_enter"}
    assert {r["comm"] for r in found if "NR 1 " in r["fields"]} >= {"dd"}


def test_a026_every_traced_function_can_be_hit(sh):
    text = sh("(/bin/true; ls / | cat) > /dev/null; echo function > current_tracer; (/bin/true; ls / | cat) > /dev/null; echo 0 > tracing_on; cat trace; echo ==; "
              "cat available_filter_functions; echo nop > current_tracer; echo > trace; echo 1 > tracing_on")
    trace, available = text.split("==\n")
    hit = set(re.findall(r"^ *(?:true|ls|cat)-.*: (\w+) <-\w", trace, re.M))
    assert len(hit) > 300 and hit <= set(available.split())
    for name in sorted(hit)[::40]:                          # one at a time: it, and only it
        text = sh(f"echo {name} > set_ftrace_filter; echo function > current_tracer; (/bin/true; ls / | cat) > /dev/null; sleep 0.05; "
                  "cat trace; echo nop > current_tracer; echo > set_ftrace_filter")
        assert set(re.findall(r": (\w+) <-", text)) == {name}


LIFE = """for i in 1 2 3 4 5; do seq 300 | sort -n | tail -1 > /dev/null; sleep 0.002; done
sleep 9 & sleep 0.01; kill -STOP $!; sleep 0.01; kill -CONT $!; sleep 0.01; kill $!; wait
"""


def check_transitions(steps):
    """(event, fields) in order: nobody who sleeps or is stopped runs before somebody woke it."""
    asleep, wakeups, states = set(), 0, set()
    for event, fields in steps:
        if event == "sched_switch":
            assert fields["next_pid"] not in asleep, fields
            state = fields["prev_state"]
            states.add(state[0])
            if state not in ("R", "R+"):
                asleep.add(fields["prev_pid"])
        else:
            wakeups += fields["pid"] in asleep
            asleep.discard(fields["pid"])
    assert wakeups > 10 and states >= {"S", "T"} and states & {"X", "Z"}, states


def test_a077_no_sleeper_runs_before_it_was_woken(boot):
    """On one CPU: the clocks of several may differ by a turn, and so may the stamps of a sleep and a wakeup."""
    sh = Shell(boot(cpus=1), "/sys/kernel/tracing")
    found = records(sh("echo 20000 > buffer_size_kb; for e in sched_switch sched_wakeup sched_wakeup_new; do echo 1 > "
                       f"events/sched/$e/enable; done\n{LIFE}echo 0 > events/enable; cat trace"))
    check_transitions([(r["event"], dict(re.findall(r"(prev_pid|prev_state|next_pid|pid)=(\S+)", r["fields"]))) for r in found])


def test_a077_nor_on_four_cpus(boot):
    """In the order in which the kernel does it."""
    kernel = boot()
    with kernel.trace(events=["sched:sched_switch", "sched:sched_wakeup", "sched:sched_wakeup_new"]) as t:
        kernel.run(["/bin/bash", "-c", LIFE])
    found = [(r.name.split(":")[-1], dict(re.findall(r"(prev_pid|prev_state|next_pid|pid)=(\S+)", r.text))) for r in t]
    check_transitions(found)


def test_a158_the_lock_of_a_page_fault(sh):
    text = sh("""echo down_read_trylock > set_ftrace_filter; echo function > current_tracer; ls / > /dev/null; echo 0 > tracing_on
        cat set_ftrace_filter trace""")
    assert text.startswith("down_read_trylock\n")
    assert ("down_read_trylock", "do_user_addr_fault") in re.findall(r": (\w+) <-(\w+)", text)


def test_a179_the_frames_of_a_page_fault(sh):
    text = sh("""echo 20000 > buffer_size_kb; echo do_page_fault > set_graph_function; echo function_graph > current_tracer
        ls / > /dev/null; python3 -c pass; echo 0 > tracing_on; cat trace""")
    path, seen = {}, set()
    for cpu, depth, name in graph(text):
        stack = path.setdefault(cpu, [])
        stack[depth:] = [name]
        seen.add(tuple(stack))
    for names in (["do_page_fault", "__do_page_fault", "handle_mm_fault", "__handle_mm_fault", "handle_pte_fault"],
                  ["handle_pte_fault", "do_anonymous_page", "alloc_pages_vma"], ["handle_pte_fault", "do_fault", "do_read_fault"],
                  ["do_fault", "__do_fault", "filemap_fault"], ["handle_pte_fault", "do_wp_page"]):
        assert any(in_order(names, stack) for stack in seen), names


def test_a295_the_format_of_function_graph(sh):
    """Columns, comments for events, and the marks of long calls: + above 10 us, ! above 100 us, # above 1 ms."""
    text = sh(f"{END}; echo 1 > events/sched/sched_switch/enable; echo function_graph > current_tracer; sleep 0.003; cat /etc/services > "
              "/dev/null; echo 0 > tracing_on; cat trace")
    assert text.startswith("# tracer: function_graph\n#\n# CPU  DURATION                  FUNCTION CALLS\n"
                           "# |     |   |                     |   |   |   |\n")
    for mark, number in re.findall(r"^ *\d+\) ([ +!#*@$]) *([\d.]+) us", text, re.M):
        us = float(number)
        wanted = "$" if us > 1e6 else "@" if us > 1e5 else "*" if us > 1e4 else "#" if us > 1e3 else "!" if us > 100 else "+" if us > 10 else " "
        assert mark == wanted, (mark, number)
    marks = set(re.findall(r"^ *\d+\) ([+!#]) *[\d.]+ us", text, re.M))
    assert marks >= {"+", "!", "#"}, marks
    assert re.search(r"^ *\d+\) {15}\|  +/\* sched_switch: prev_comm=\S+ .* \*/$", text, re.M)
    assert re.search(r"^ *\d+\) +sleep-\d+ +=> +\S+$|^ *\d+\) +\S+ +=> +sleep-\d+ *$", text, re.M)


def test_a298_only_the_subtrees_asked_for(sh):
    text = sh(f"""{END}; echo wb_workfn > set_graph_function; echo smp_apic_timer_interrupt > set_graph_notrace
        cat set_graph_function set_graph_notrace; echo function_graph > current_tracer
        {WRITE}; sync; sleep 0.1; echo 0 > tracing_on; cat trace; echo > set_graph_function; echo > set_graph_notrace
        cat set_graph_function set_graph_notrace""")
    assert text.startswith("wb_workfn\nsmp_apic_timer_interrupt\n") and text.rstrip().count("#### all functions enabled ####") == 1
    calls = graph(text)
    assert {name for _cpu, depth, name in calls if depth == 0} == {"wb_workfn"}
    assert {"wb_do_writeback", "wb_writeback"} <= {name for _cpu, _depth, name in calls}
    assert "smp_apic_timer_interrupt" not in text.split("\n", 2)[2]


def test_a293_a_second_reader_gets_only_what_is_new(sh):
    text = sh("""echo one > trace_marker; timeout -s INT 0.1 cat trace_pipe > /tmp/1; echo $?; echo two > trace_marker
        timeout -s INT 0.1 cat trace_pipe > /tmp/2; echo $?; cat /tmp/1; echo ==; cat /tmp/2""")
    first, second = text.split("==\n")
    assert first.startswith("124\n124\n") and first.endswith(": one\n") and second.endswith(": two\n") and "one" not in second


def test_a005_one_symbol_table(sh):
    names = set(sh("cut -d' ' -f3 /proc/kallsyms").split())
    assert names >= {"ext4_file_read_iter", "vfs_read", "handle_mm_fault", "schedule", "do_IRQ", "blk_mq_make_request",
                     "tcp_v4_rcv", "ip_rcv", "e1000_intr", "unix_stream_sendmsg"}


def test_the_readme_tells_of_files_that_there_are(sh):
    """Linux's README in tracefs: each file that it begins a line with exists, unless it belongs to an event."""
    text = sh("ls; echo ==; ls events/sched/sched_switch; echo ==; ls instances | wc -l; cat README")
    files, event, readme = text.split("==\n")
    names = set(re.findall(r"^  ([a-z_]+)(?:/\w+)?[\t ]+- ", readme, re.M))
    there = set(files.split()) | set(event.split())
    assert len(names) > 12 and names <= there, names - there
