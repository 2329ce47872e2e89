"""Inventory A5 and A7: the tick, balancing, tasks that wait for the disk, and how deferred work shows itself to tools."""
import re

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.kernel.softirq import TaskletStruct, tasklet_schedule

SPIN = "while :; do :; done"
TRACING = "cd /sys/kernel/tracing; "


def sh(kernel, script):
    done = kernel.run(["/bin/bash", "-c", script])
    assert done.status == 0, done
    return done.stdout.decode()


def test_every_tick_goes_through_scheduler_tick(boot):
    """A114: function_graph of the timer interrupt: update_curr, check_preempt_tick, trigger_load_balance once per tick."""
    text = sh(boot(cpus=1), f"""{TRACING} echo smp_apic_timer_interrupt > set_graph_function
        {SPIN} & A=$!; {SPIN} & B=$!
        echo function_graph > current_tracer; sleep 0.2; echo 0 > tracing_on; kill $A $B; cat trace""")
    ticks = text.split("|  smp_apic_timer_interrupt() {")[1:]
    whole = [tick for tick in ticks if "scheduler_tick() {" in tick]
    assert len(whole) > 20
    for tick in whole:
        assert all(len(re.findall(rf"\b{name}\(\)", tick)) == 1 for name in ("scheduler_tick", "trigger_load_balance"))
        assert tick.index("scheduler_tick()") < tick.index("update_curr()") < tick.index("trigger_load_balance()")
    assert sum("check_preempt_tick()" in tick for tick in whole) > len(whole) // 2       # the hogs take turns


def test_four_hogs_on_one_cpu_spread_within_a_second(boot):
    """A116: they start bound to CPU 0; once they may run anywhere, load_balance() moves three of them."""
    text = sh(boot(), f"""{TRACING} taskset -pc 0 $$ >/dev/null
        for n in 1 2 3 4; do {SPIN} & done; sleep 0.2; ps -o psr= $(jobs -p) | sort -u
        echo 1 > events/sched/sched_migrate_task/enable; echo load_balance > set_graph_function; echo function_graph > current_tracer
        for p in $(jobs -p); do taskset -pc 0-3 $p >/dev/null; done; sleep 1
        ps -o psr= $(jobs -p) | sort -u; echo 0 > tracing_on; kill $(jobs -p); cat trace""")
    lines = text.split("\n")
    assert lines[0].strip() == "0" and [line.strip() for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert len(set(re.findall(r"sched_migrate_task: comm=bash pid=(\d+) prio=120 orig_cpu=0 dest_cpu=[123]", text))) >= 3
    for name in ("find_busiest_queue", "detach_tasks", "attach_tasks"):
        assert f"{name}()" in text, name


def test_tasks_in_state_d_count_as_load(boot, build_c):
    """A120: uptime counts TASK_UNINTERRUPTIBLE: three parents of vfork(2), whose children sleep."""
    from glasskernel import Share

    binary = build_c("#include <unistd.h>\n#include <time.h>\nint main(void) { struct timespec t = {302, 0};"
                     "if (!vfork()) { nanosleep(&t, 0); _exit(0); } return 0; }")
    kernel = boot(shares=[Share(str(binary.parent), "/p")])
    text = sh(kernel, f"for n in 1 2 3; do /p/{binary.name} & done; sleep 60; ps -o stat= $(jobs -p); cat /proc/loadavg; sleep 240;"
                      "cat /proc/loadavg; wait")
    lines = text.splitlines()
    assert [line[0] for line in lines[:3]] == ["D"] * 3
    one = float(lines[3].split()[0])
    assert abs(one - 3 * (1 - 2.718 ** -1)) < 0.25          # after a minute 1 - 1/e of the way
    assert float(lines[4].split()[0]) > 2.9 and 1.7 < float(lines[4].split()[1]) < 2.1


def test_a_flood_of_tasklets_makes_ksoftirqd_work(boot):
    """A143, A145: what a softirq does not finish in 2 ms is ksoftirqd's: top shows its time."""
    kernel = boot(cpus=1)
    runs = []

    def work(_data):
        runs.append(register.task.comm)
        kernel.machine.charge(100_000)
        if len(runs) < 4000:
            tasklet_schedule(tasklet)

    tasklet = TaskletStruct(work)

    def flood(_irq, _dev):
        tasklet_schedule(tasklet)
        return IRQ_HANDLED

    register.task = kernel.pids.idle_tasks[0]
    request_irq(kernel, 5, flood, 0, "flood", None)
    kernel.machine.post_irq(5, kernel.now_ns + 50_000_000)
    text = sh(kernel, "sleep 1; ps -C ksoftirqd/0 -o times=,stat=; awk '{print $15}' /proc/$(pgrep ksoftirqd/0)/stat; grep flood /proc/interrupts;"
                      "grep TASKLET /proc/softirqs")
    lines = text.splitlines()
    assert runs.count(b"ksoftirqd/0") > 3000 and int(lines[1]) >= 30
    assert lines[2].split()[1] == "1" and int(lines[3].split()[1]) > 100


def test_handlers_run_with_interrupts_off(boot):
    """A134, A136: device models interrupt; the d and h flags stand in the lines of what happens in a handler."""
    text = sh(boot(home=True), f"{TRACING} echo 1 > events/irq/enable; dd if=/dev/sda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null;"
                               "sleep 0.05; echo 0 > tracing_on; cat trace")
    entries = re.findall(r"\[\d+\] (\S{4}) +[\d.]+: irq_handler_entry: irq=\d+ name=(\S+)", text)
    assert entries and all(flags[0] == "d" and flags[2] in "hH" for flags, _ in entries)
    assert len(entries) == text.count("irq_handler_exit:") and "ret=handled" in text
    softirqs = re.findall(r"\[\d+\] (\S{4}) +[\d.]+: softirq_entry:", text)
    assert softirqs and all(flags[0] == "." and flags[2] == "s" for flags in softirqs)


def test_works_pair_by_their_address(boot):
    """A146: every workqueue_execute_start has a queue_work before it, with the same work struct; ends follow."""
    text = sh(boot(home=True), f"{TRACING} echo 1 > events/workqueue/enable; dd if=/dev/zero of=/root/f bs=64k count=8 conv=fsync 2>/dev/null;"
                               "sleep 6; echo 0 > tracing_on; cat trace")
    queued, running, pairs = {}, {}, 0
    for event, address in re.findall(r": workqueue_(\w+): work struct[= ]([0-9a-f]+)", text):
        if event == "queue_work":
            queued[address] = queued.get(address, 0) + 1
        elif event == "execute_start":
            assert queued.get(address, 0) > 0, address
            queued[address] -= 1
            running[address] = running.get(address, 0) + 1
        elif event == "execute_end":
            running[address] -= 1
            pairs += 1
    assert pairs > 3 and not any(running.values())
    assert re.search(r"kworker/\S+ +\[\d+\] .*: workqueue_execute_start: work struct [0-9a-f]+: function \w+\n", text)


def test_typing_in_a_terminal_queues_flush_to_ldisc(boot):
    """A147: the work is queued where the seed saw it, and an unbound kworker does it."""
    text = sh(boot(), f"""{TRACING} echo 1 > options/stacktrace
        echo 1 > events/workqueue/workqueue_queue_work/enable; echo 1 > events/workqueue/workqueue_execute_start/enable
        script -qc 'sleep 0.1; echo' /dev/null > /dev/null; echo 0 > tracing_on; cat trace""")
    block = next(part for part in text.split("workqueue_queue_work: ") if "flush_to_ldisc" in part.split("\n")[0] and "do_output_char" in part)
    frames = [line.split()[1] for line in block.split("\n") if line.startswith(" =>")]
    wanted = ["do_syscall_64", "ksys_write", "vfs_write", "tty_write", "n_tty_write", "do_output_char", "pty_write", "queue_work_on", "__queue_work"]
    at = [frames.index(name) for name in wanted]
    assert at == sorted(at, reverse=True), frames
    assert re.search(r"kworker/u\d+:\d+-\d+ .*: workqueue_execute_start: work struct [0-9a-f]+: function flush_to_ldisc", text)
