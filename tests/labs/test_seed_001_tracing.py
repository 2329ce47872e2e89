"""Labs of seed 001 with tracefs (B22-B24, B26, B33, B34, B50, B52, B53, B55, B56, B58, B59): the commands as written there.

`cat trace_pipe` ends as the labs end it, with an interrupt from the keyboard: timeout(1) sends it here.
"""
import re

import pytest

from tests.conftest import need

TRACING = "/sys/kernel/debug/tracing"
RECORD = re.compile(r"^ *(?P<comm>.{1,16}?)-(?P<pid>\d+) +\[(?P<cpu>\d{3})\] (?P<flags>[d.][nNp.][hHsZz.][0-9a-f.]) "
                    r"+(?P<time>\d+\.\d{6}): (?P<event>\w+): (?P<fields>.*)$")
WRITE = "(cd /root; dd if=/dev/zero of=big bs=64k count=4 conv=fsync 2>/dev/null)"
END = "echo nop > current_tracer; echo 0 > options/stacktrace; echo 0 > events/enable; echo > trace"


class Lab:
    """A root shell in the directory of tracefs, of the default machine."""

    def __init__(self, kernel):
        self.kernel = kernel

    def sh(self, script, status=0):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", "TERM": "xterm"}
        done = self.kernel.run(["/bin/bash", "-c", f"cd {TRACING}/\n{script}"], env=environment)
        assert done.status == status, (script, done)
        return done.stdout.decode(errors="replace")

    def pipe(self, before, load):
        """What `cat trace_pipe` shows while something happens."""
        return self.sh(f"{before}\ntimeout -s INT 1 cat trace_pipe > /tmp/pipe & sleep 0.1; {load}; wait\n"
                       "echo 0 > events/enable; cat /tmp/pipe")


@pytest.fixture
def lab(boot):
    return Lab(boot(home=True))


def records(text):
    """The records of a trace, as dicts; each with its stack."""
    found = []
    for line in text.splitlines():
        if line.startswith(" => "):
            found[-1]["stack"].append(line[4:])
        elif line and not line.startswith("#"):
            match = RECORD.match(line)
            if match:
                found.append({**match.groupdict(), "stack": []})
            else:
                assert line.endswith(": <stack trace>"), line
    return found


def with_stacks(text):
    """The records, each with the stack that follows it on the same task."""
    found, last = [], {}
    target = None
    for line in text.splitlines():
        if line.startswith(" => "):
            target["stack"].append(line[4:])
        elif line.endswith(": <stack trace>"):
            target = last[line.split("[")[0].strip()]
        elif line and not line.startswith("#"):
            record = {**RECORD.match(line).groupdict(), "stack": []}
            found.append(record)
            last[line.split("[")[0].strip()] = record
    return found


def fields(record):
    return dict(re.findall(r"(\w+)=(\S*)", record["fields"]))


def in_order(names, stack):
    """Whether the names are in the stack, in this order, perhaps with others between."""
    rest = iter(stack)
    return all(name in rest for name in names)


def test_lab_b22_page_faults_are_traced(lab):
    found = records(lab.pipe("echo 1 > events/exceptions/page_fault_user/enable", "/bin/true"))
    assert len(found) > 50 and {r["event"] for r in found} == {"page_fault_user"}
    for record in found:
        assert re.fullmatch(r"address=0x[0-9a-f]+ ip=0x[0-9a-f]+ error_code=0x[0-9a-f]+", record["fields"])
        assert record["flags"][0] == "d" and record["flags"][2] == "."       # the CPU has interrupts off, in process context
        assert int(fields(record)["error_code"], 16) & 4                     # user mode
    # C10: what is not there, read or fetched: 4, 0x14; written: 6; copy on write: 7
    assert {int(fields(r)["error_code"], 16) for r in found} == {0x4, 0x6, 0x7, 0x14}
    assert {r["comm"] for r in found} >= {"true", "bash", "cat"}


def test_lab_b23_tracing_ends(lab):
    text = lab.sh("echo 1 > options/stacktrace; echo 1 > events/sched/enable; echo function_graph > current_tracer; /bin/true\n"
                  f"{END}\n"
                  "/bin/true; cat current_tracer options/stacktrace events/enable; cat trace | grep -v '^#' | wc -l")
    assert text == "nop\n0\n0\n0\n"


def test_lab_b26_only_the_process_that_gdb_steps_is_traced(lab):
    """The fault event appears when the instruction that faults is stepped; nobody else's faults appear."""
    need("gdb", "gdb")
    program = ("static char page[1 << 14];\nint main(void)\n{\n    char *p = page + 8192;\n    *p = 1;\n    return 0;\n}\n")
    lab.sh(f"cd /tmp; printf '{program.replace(chr(10), chr(92) + 'n')}' > touch.c; gcc -g -O0 -no-pie -o touch touch.c")
    commands = ["b 5", "run", "shell echo $(pidof touch) > set_event_pid", "shell echo > trace", "print/x (long)p", "info program"]
    commands += ["x/i $pc", "si", "shell echo mark > trace_marker", "x/i $pc", "si", "shell echo mark > trace_marker", "kill"]
    gdb = " ".join(f"-ex '{c}'" for c in commands)
    text = lab.sh(f"echo 1 > events/exceptions/page_fault_user/enable\ngdb -q -batch -nx {gdb} /tmp/touch 2>&1; "
                  "echo 0 > events/enable; echo; echo ==; cat trace")
    session, _, trace = text.partition("==")
    address = int(re.search(r"\$1 = (0x[0-9a-f]+)", session)[1], 16)
    pcs = [int(pc, 16) for pc in re.findall(r"^=> (0x[0-9a-f]+) <main", session, re.M)]
    assert "mov" in session and len(pcs) == 2
    found = records(trace)
    assert {r["comm"] for r in found if r["event"] == "page_fault_user"} == {"touch"}
    steps = " ".join("mark" if r["event"] == "tracing_mark_write" else fields(r)["ip"] for r in found)
    before, after, *_ = steps.split("mark")
    assert not before.strip()                                                # rax = p: no fault
    assert [int(ip, 16) for ip in after.split()] == [pcs[1]]
    (fault,) = [r for r in found if r["event"] == "page_fault_user"]
    assert int(fields(fault)["address"], 16) == address and fields(fault)["error_code"] == "0x6"


def test_lab_b33_page_allocations_in_order(lab):
    text = lab.sh(f"{END}\necho  1 > events/kmem/mm_page_alloc/enable\n/bin/true\ncat trace")
    found = records(text)
    assert len(found) > 50
    for record in found:
        assert re.fullmatch(r"page=[0-9a-f]{16} pfn=\d+ order=\d+ migratetype=\d gfp_flags=[A-Z_|0-9x]+", record["fields"]), record
    assert {fields(r)["order"] for r in found} >= {"0"}
    pfns = [fields(r)["pfn"] for r in found]
    assert len(dict.fromkeys(pfns)) > 20


def test_lab_b34_page_allocations_with_their_stacks(lab):
    found = with_stacks(lab.sh(f"{END}\necho  1 > events/kmem/mm_page_alloc/enable\necho 1 > options/stacktrace\n(true); /bin/true\ncat trace"))
    assert len(found) > 50 and all(r["stack"] for r in found)
    assert all("__alloc_pages_nodemask" in r["stack"] for r in found)
    for names in (["__alloc_pages_nodemask", "alloc_pages_vma", "do_anonymous_page", "__handle_mm_fault", "handle_mm_fault"],
                  ["__alloc_pages_nodemask", "alloc_pages_current", "pte_alloc_one", "__pte_alloc"],
                  ["__alloc_pages_nodemask", "alloc_pages_vma", "wp_page_copy", "do_wp_page", "__handle_mm_fault"]):
        assert any(in_order(names, r["stack"]) for r in found), names


TOP = r"""
import os, pty, signal, sys, threading, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "-i"])
threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(fd, 4096), b"")], daemon=True).start()
for wait, keys in ((1, b"top -d 1\n"), (3, b"\x1a"), (2, b"kill -9 %1; exit\n")):
    time.sleep(wait); os.write(fd, keys)
time.sleep(1)
"""


def test_lab_b50_signals_of_top(lab):
    """Ctrl-Z on top: SIGTSTP to its handler, SIGSTOP from itself, SIGCHLD to the shell; the seed's records and stacks."""
    lab.kernel.run(["/usr/bin/tee", "/tmp/top.py"], stdin=TOP.encode())
    text = lab.sh(f"""{END}
        echo 1 > events/signal/enable
        echo 1 > options/stacktrace
        pidof top
        python3 /tmp/top.py & sleep 2; pidof top
        pidof top > set_event_pid
        timeout -s INT 4 cat trace_pipe > /tmp/pipe; wait; cat /tmp/pipe""")
    pid, _, trace = text.partition("\n")
    found = [r for r in with_stacks(trace) if r["comm"] == "top" and r["pid"] == pid]
    entry = ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"]
    back = ["get_signal", "do_signal", "exit_to_usermode_loop", *entry]
    shell = fields(found[3])["pid"]
    expected = [
        ("signal_deliver", r"sig=20 errno=0 code=128 sa_handler=[0-9a-f]+ sa_flags=4000000", back),
        ("signal_generate", rf"sig=19 errno=0 code=-6 comm=top pid={pid} grp=0 res=0",
         ["__send_signal", "send_signal", "do_send_sig_info", "do_send_specific", "do_tkill", "__x64_sys_tgkill", *entry]),
        ("signal_deliver", r"sig=19 errno=0 code=-6 sa_handler=0 sa_flags=0", back),
        ("signal_generate", rf"sig=17 errno=0 code=5 comm=bash pid={shell} grp=1 res=[012]",
         ["__send_signal", "send_signal", "__group_send_sig_info", "do_notify_parent_cldstop", "do_signal_stop", *back]),
    ]
    for record, (event, pattern, stack) in zip(found, expected, strict=False):
        assert record["event"] == event and re.fullmatch(pattern, record["fields"]), record
        assert in_order(stack, record["stack"]), record
    assert len(found) >= 4 and int(shell) != int(pid)


def test_lab_b52_interrupts_are_monitored(lab):
    found = records(lab.pipe(f"{END}\necho 1 > events/irq/irq_handler_entry/enable\necho 1 > events/irq_vectors/local_timer_entry/enable",
                             WRITE))
    handlers = [r["fields"] for r in found if r["event"] == "irq_handler_entry"]
    timers = [r["fields"] for r in found if r["event"] == "local_timer_entry"]
    assert handlers and set(handlers) == {"irq=14 name=mdisk"}
    assert timers and set(timers) == {"vector=236"} and len(handlers) + len(timers) == len(found)
    assert all(r["flags"][2] == "h" for r in found if r["event"] == "irq_handler_entry")
    table = lab.sh("cat /proc/interrupts")
    assert sum(int(n) for n in re.search(r"14: +([\d ]+)", table)[1].split()) >= len(handlers)


def graph(text):
    """[(cpu, depth, name or comment)] of a function_graph trace."""
    lines = re.findall(r"^ *(\d+)\)[ \d.us+!#*@$]*\|  ( *)(/\* .* \*/|[\w.]+\(\))[ ;{]*$", text, re.M)
    return [(int(cpu), len(indent) // 2, name.removesuffix("()")) for cpu, indent, name in lines]


def test_lab_b53_do_irq_as_a_graph(lab):
    """A137: irq_enter, handle_irq, irq_exit; and nothing else at the top."""
    text = lab.sh(f"""{END}
        echo 1 > events/irq/irq_handler_entry/enable
        echo do_IRQ > set_graph_function
        echo function_graph > current_tracer
        taskset -c 3 bash -c '{WRITE}'
        for cpu in 0 1 2 3; do cat per_cpu/cpu$cpu/trace > /tmp/cpu$cpu; done; cat /tmp/cpu?; echo; cat per_cpu/cpu3/trace | head -1
        {END}; echo > set_graph_function""")
    assert text.count("# tracer: function_graph") == 5 and "==========> |" in text and "<========== |" in text
    calls = graph(text)
    tops = [name for _cpu, depth, name in calls if depth == 0]
    assert "do_IRQ" in tops and set(tops) == {"do_IRQ"}
    below = [name for _cpu, depth, name in calls if depth == 1]
    assert below == ["irq_enter", "handle_irq", "irq_exit"] * tops.count("do_IRQ")
    assert text.count("/* irq_handler_entry: irq=14 name=mdisk */") == tops.count("do_IRQ")


def test_lab_b55_softirqs_are_monitored(lab):
    """A144: each entry has its exit, on the same CPU with the same vector."""
    found = records(lab.pipe(END + "".join(f"\necho 1 > events/irq/softirq_{e}/enable" for e in ("raise", "entry", "exit")), WRITE))
    names = ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
    running = {}
    for record in found:
        vec, action = re.fullmatch(r"vec=(\d) \[action=(\w+)\]", record["fields"]).groups()
        assert names[int(vec)] == action
        if record["event"] == "softirq_entry":
            assert record["cpu"] not in running and record["flags"][2] == "s"
            running[record["cpu"]] = vec
        elif record["event"] == "softirq_exit" and record["cpu"] in running:
            assert running.pop(record["cpu"]) == vec
    assert not running
    raised = {r["fields"] for r in found if r["event"] == "softirq_raise"}
    assert raised >= {"vec=1 [action=TIMER]", "vec=4 [action=BLOCK]", "vec=7 [action=SCHED]", "vec=9 [action=RCU]"}
    assert {r["fields"] for r in found if r["event"] == "softirq_entry"} >= raised


def test_lab_b56_a_softirq_is_raised_inside_do_irq(lab):
    text = lab.sh(f"""{END}
        echo 1 > events/irq/softirq_raise/enable
        echo do_IRQ > set_graph_function
        echo function_graph > current_tracer
        {WRITE}
        cat trace
        {END}; echo > set_graph_function""")
    path, inside = [], []
    for _cpu, depth, name in graph(text):
        path[depth:] = [name]
        if name.startswith("/* softirq_raise: vec=4 [action=BLOCK]"):
            inside.append(list(path))
    assert inside
    for path in inside:                                    # the disk's interrupt, where the seed's machine has the network's
        assert path[0] == "do_IRQ" and path[1] == "handle_irq" and path[-2] == "__raise_softirq_irqoff", path
        assert in_order(["handle_irq_event_percpu", "mdisk_interrupt", "scsi_mq_done", "raise_softirq_irqoff"], path)
    assert re.search(r"irq_enter\(\) \{\n.*rcu_irq_enter\(\);", text)


def test_lab_b58_work_is_queued(lab):
    found = with_stacks(lab.sh(f"{END}\necho 1 > events/workqueue/workqueue_queue_work/enable\necho 1 > options/stacktrace\n{WRITE}; sync\n"
                               "cat trace"))
    for record in found:
        assert record["event"] == "workqueue_queue_work" and record["stack"][0] == "__queue_work"
        assert re.fullmatch(r"work struct=[0-9a-f]{16} function=\w+ workqueue=[0-9a-f]{16} req_cpu=\d+ cpu=\d+", record["fields"])
    functions = {fields(r)["function"] for r in found}
    assert functions >= {"blk_mq_requeue_work", "wb_workfn"}
    flush = next(r["stack"] for r in found if fields(r)["function"] == "blk_mq_requeue_work" and "kjournald2" in r["stack"])
    assert in_order(["__queue_work", "mod_delayed_work_on", "kblockd_mod_delayed_work_on", "blk_mq_kick_requeue_list", "submit_bio",
                     "kjournald2", "kthread", "ret_from_fork"], flush)


def test_lab_b59_work_is_done_by_kworkers(lab):
    found = records(lab.sh(f"{END}\necho 1 > events/workqueue/workqueue_execute_start/enable\n{WRITE}; sync\ncat trace"))
    assert found
    for record in found:
        assert re.fullmatch(r"kworker/(\d:\dH?|u8:\d)", record["comm"]) and record["flags"] == "....", record
        assert re.fullmatch(r"work struct [0-9a-f]{16}: function \w+", record["fields"])
    assert any("wb_workfn" in r["fields"] and "u8:" in r["comm"] for r in found)


def test_lab_b38_kernel_probe_with_stacks(lab):
    """As the lab, and with vzalloc: the seed's load, a BPF program that calls vmalloc(), is not there; a new terminal calls vzalloc()."""
    text = lab.sh(f"""echo 0 > events/enable
        echo > trace
        echo nop > current_tracer
        echo 'p:vmalloc vmalloc' > kprobe_events
        echo 'p:vzalloc vzalloc' >> kprobe_events
        echo 1 > events/kprobes/vmalloc/enable; echo 1 > events/kprobes/vzalloc/enable
        ls events/kprobes; cat kprobe_events; echo ==
        echo 1 > options/stacktrace
        timeout -s INT 1 cat trace_pipe > /tmp/pipe & sleep 0.1; python3 -c 'import pty; pty.openpty()'; wait; cat /tmp/pipe
        {END}; echo > kprobe_events""")
    setup, trace = text.split("==\n")
    assert setup == "enable\nfilter\nvmalloc\nvzalloc\np:kprobes/vmalloc vmalloc\np:kprobes/vzalloc vzalloc\n"
    found = with_stacks(trace)
    assert found and {r["event"] for r in found} == {"vzalloc"}
    for record in found:
        assert re.fullmatch(r"\(vzalloc\+0x0/0x[0-9a-f]+\)", record["fields"]), record
        assert in_order(["vzalloc", "n_tty_open", "tty_ldisc_open", "do_syscall_64"], record["stack"]) or in_order(
            ["n_tty_open", "tty_ldisc_open", "do_syscall_64"], record["stack"]), record
