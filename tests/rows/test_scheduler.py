"""Inventory A5: the scheduler."""
import re

import pytest

from tests.conftest import PROGRAMS, watch_calls


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


@pytest.fixture
def hogs(run_c):
    def go(*what, **options):
        result = run_c(PROGRAMS / "hogs.c", *what, **options)
        assert result.status == 0, result
        return [int(line) for line in result.stdout.split()]

    return go


def test_policy_is_apart_from_mechanism():
    """A094: the classes know nothing of registers; switch_to() nothing of classes."""
    import pathlib

    import glasskernel

    root = pathlib.Path(glasskernel.__file__).parent
    for name in ("fair", "rt", "policy"):
        assert "arch.x86" not in (root / "kernel" / "sched" / f"{name}.py").read_text()
    assert "sched" not in re.sub(r'""".*?"""', "", (root / "arch/x86/process.py").read_text(), flags=re.DOTALL).replace(
        "kernel.sched.core import schedule_tail", "")


def test_equal_hogs_share_and_unequal_follow_the_weight_table(hogs):
    """A097, A098, A099: 1024:335 for nice 0 and 5, within 2 percent of the CPU."""
    a, b = hogs("400", "o:0:0", "o:0:0")
    assert abs(a - b) < 8_000
    a, b = hogs("600", "o:0:0", "o:5:0")
    assert abs(a / (a + b) - 1024 / (1024 + 335)) < 0.02


def test_weights_are_linuxs():
    """A099: 88761 .. 15, nice 0 = 1024."""
    from glasskernel.kernel.sched import fair, types

    table = getattr(types, "sched_prio_to_weight", None) or fair.sched_prio_to_weight
    assert len(table) == 40 and table[0] == 88761 and table[20] == 1024 and table[25] == 335 and table[39] == 15


def test_vruntime_grows_by_the_inverse_of_the_weight(boot, build_c):
    """A098: read from the live objects while three hogs run."""
    from glasskernel import Share

    binary = build_c(PROGRAMS / "hogs.c")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    grown = {}

    class Look:
        def enter(self, task, nr):
            if nr == 62:                                    # kill(2): the hogs' time is over
                for other in kernel.tasks:
                    if other.comm == task.comm and other is not task:
                        grown[other.static_prio - 120] = (other.se.vruntime, other.se.sum_exec_runtime)

        def exit(self, task, nr, result):
            pass

    watch_calls(kernel, Look())
    kernel.run([f"/programs/{binary.name}", "300", "o:0:0", "o:5:0", "o:10:0"])
    assert set(grown) == {0, 5, 10}
    base, ran = grown[0]
    assert grown[5][1] < ran * 0.45 and grown[10][1] < ran * 0.2
    assert all(abs(v - base) < 30_000_000 for v, _ in grown.values()), "they stay together"


def test_nobody_starves(hogs):
    """A103: nice 19 progresses beside nice -20."""
    assert hogs("1000", "o:-20:0", "o:-20:0", "o:19:0")[2] > 0


def test_idle_policy_gets_what_is_left(hogs):
    """A106: weight 3: about nothing beside a normal hog."""
    idle, normal = hogs("1000", "i:0:0", "o:0:0")
    assert idle < 0.02 * normal
    assert hogs("50", "i:0:0")[0] > 45_000


def test_an_endless_loop_does_not_stop_other_programs(boot):
    """A108, A109: slices end: involuntary switches for the hog, voluntary for the sleeper."""
    script = """
        (while :; do :; done) & h=$!; (while :; do sleep 0.01; done) & s=$!; (while :; do :; done) & sleep 0.4
        for p in $h $s; do grep ctxt /proc/$p/status | tr -s '\\t\\n' '  '; done; kill $h $s $!"""
    out = text(boot(cpus=1).run(["/bin/bash", "-c", script], env={"PATH": "/usr/bin:/bin"}))
    found = re.findall(r"voluntary_ctxt_switches: (\d+) nonvoluntary_ctxt_switches: (\d+)", out)
    (hog_voluntary, hog_forced), (sleeper_voluntary, _) = [(int(a), int(b)) for a, b in found]
    assert hog_forced > 10 * hog_voluntary and hog_forced > 10
    assert sleeper_voluntary > 10


def test_a_kernel_thread_borrows_the_address_space(boot):
    """A111, A112: its mm is None and active_mm another's; after the switch `prev` is who ran before."""
    from glasskernel.kernel.sched import core

    kernel = boot()
    seen, borrowed = [], []
    plain = core.context_switch

    def look(rq, prev, next_):
        seen.append((prev.pid, next_.pid, rq.cpu if hasattr(rq, "cpu") else 0))
        if next_.mm is None and prev.mm is not None:
            borrowed.append(prev.active_mm)
        return plain(rq, prev, next_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "context_switch", look)
        assert kernel.run(["/bin/sh", "-c", "seq 100 | sort | wc -l; sleep 1"]).stdout == b"100\n"
    assert borrowed and all(mm is not None for mm in borrowed)
    last = {}
    for prev, next_, cpu in seen:
        assert last.get(cpu, prev) == prev
        last[cpu] = next_


def test_a_new_task_starts_in_ret_from_fork(boot):
    """A113: its stack shows it at the bottom."""
    import traceback

    kernel = boot()
    bottoms = set()

    class Look:
        def enter(self, task, nr):
            names = [f.name for f in traceback.extract_stack() if "glasskernel" in f.filename]
            bottoms.add(tuple(names[-12:]))

        def exit(self, task, nr, result):
            pass

    watch_calls(kernel, Look())
    kernel.run(["/bin/sh", "-c", "true | true"])
    assert bottoms and all("ret_from_fork" in names for names in bottoms)


def test_wakeups_put_tasks_on_the_run_queue(run):
    """A115, A117: nr_running follows."""
    script = "for i in 1 2 3; do (while :; do :; done) & done; sleep 0.1; cut -d' ' -f4 /proc/loadavg; kill $(jobs -p); sleep 0.1; cut -d' ' -f4 /proc/loadavg"
    busy, quiet = (int(x.split("/")[0]) for x in text(run(["/bin/bash", "-c", script])).split())
    assert busy >= 4 and quiet == 1
    assert "cpu0 " in text(run("cat /proc/schedstat"))


def test_hogs_spread_over_the_cpus(hogs):
    """A116: four hogs on four CPUs each get one."""
    assert all(us > 180_000 for us in hogs("200", "o:0:*", "o:0:*", "o:0:*", "o:0:*"))


def test_an_idle_cpu_sits_in_do_idle(boot):
    """A118: cpu_startup_entry -> do_idle -> ... halt."""
    import traceback

    kernel = boot()
    kernel.run(["/bin/sleep", "1"])
    stacks = [cpu.stack for cpu in kernel.machine.cpus if cpu.halted and cpu.stack is not None]
    assert stacks
    for stack in stacks:
        names = [f.name for f in traceback.extract_stack(stack.gr_frame)]
        assert names[:2] == ["cpu_startup_entry", "do_idle"] or "do_idle" in names, names


def test_every_cpu_is_idle_time_in_proc_stat(run):
    """A122, A121: /proc/stat sums up."""
    out = text(run("sleep 10; cat /proc/stat; cut -d' ' -f1 /proc/uptime"))
    up = float(out.split()[-1])
    rows = [list(map(int, line.split()[1:])) for line in out.splitlines() if re.match(r"cpu\d", line)]
    assert len(rows) == 4
    for row in rows:
        assert abs(sum(row[:8]) / 100 - up) < 0.3, row


def test_load_average_approaches_the_number_of_hogs(boot, build_c):
    """A120: along the exponential curve: after the first 5 s the one-minute value is n * (1 - exp(-5/60))."""
    from glasskernel import Share

    binary = build_c(PROGRAMS / "hogs.c")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    script = f"/programs/{binary.name} 5200 o:0:0 o:0:0 & sleep 5.1; cat /proc/loadavg; wait"
    loads = [float(x) for x in kernel.run(["/bin/sh", "-c", script]).stdout.split()[:3]]
    assert 0.13 < loads[0] < 0.30 and loads[0] > loads[1] > loads[2]
