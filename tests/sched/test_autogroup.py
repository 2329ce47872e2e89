"""Autogroups: sched(7), "The autogroup feature"."""
import pytest

SESSIONS = """
echo $ENABLED > /proc/sys/kernel/sched_autogroup_enabled
setsid sh -c 'echo $$ > /tmp/pids; exec $HOG' &
sleep 0.1
setsid sh -c 'for i in 1 2 3 4; do $HOG & echo $! >> /tmp/pids; done; wait' &
sleep 0.1
{MORE}
look() {{ while read pid; do cut -d" " -f1 /proc/$pid/schedstat; done < /tmp/pids; }}
look > /tmp/before; sleep 0.5; look > /tmp/after
paste /tmp/before /tmp/after | while read a b; do echo $((b - a)); done
kill -9 $(cat /tmp/pids)
"""


@pytest.fixture
def shares(boot, build_c):
    """The part of one CPU that each of the hogs gets: first the lonely one, then the four."""
    from glasskernel import Share

    binary = build_c("int main(void) { for (;;) ; }")

    def go(enabled, more=""):
        kernel = boot(cpus=1, shares=[Share(str(binary.parent), "/programs")])
        environment = {"PATH": "/usr/bin:/bin", "ENABLED": str(enabled), "HOG": f"/programs/{binary.name}"}
        result = kernel.run(["/bin/bash", "-c", SESSIONS.format(MORE=more)], env=environment)
        assert (result.status, result.stderr) == (0, b""), result
        return [int(line) / 5e8 for line in result.stdout.split()]

    return go


def test_a_session_with_four_hogs_gets_as_much_as_one_with_a_single_hog(shares):
    """sched(7): "... these processes are split into two groups ... each will receive 50% of the CPU"."""
    one, *four = shares(1)
    assert one == pytest.approx(0.5, abs=0.03)
    assert four == pytest.approx([0.125] * 4, abs=0.02)


def test_without_autogroups_every_task_gets_the_same(shares):
    assert shares(0) == pytest.approx([0.2] * 5, abs=0.02)


def test_the_nice_level_of_a_session_is_its_weight(shares):
    """1024 : 335 for nice 0 and 5."""
    one, *four = shares(1, "echo 5 > /proc/$(head -1 /tmp/pids)/autogroup")
    assert one == pytest.approx(335 / (1024 + 335), abs=0.03)
    assert sum(four) == pytest.approx(1024 / (1024 + 335), abs=0.03)


@pytest.mark.parametrize(("cmdline", "enabled"), [("", b"0\n"), ("autogroup", b"1\n"), ("autogroup noautogroup", b"0\n")])
def test_the_command_line_switches_them_on(boot, cmdline, enabled):
    kernel = boot(cmdline=f"oops=panic {cmdline}")
    assert kernel.run(["/bin/cat", "/proc/sys/kernel/sched_autogroup_enabled"]).stdout == enabled


def test_proc_pid_autogroup(boot):
    kernel = boot(cmdline="oops=panic autogroup")
    script = """
        cat /proc/self/autogroup; sh -c 'cat /proc/$$/autogroup'; setsid -w cat /proc/self/autogroup; cat /proc/1/autogroup
        for nice in 7 20 -21 x; do echo $nice > /proc/$$/autogroup && cat /proc/$$/autogroup; done
        echo -3 > /proc/$$/autogroup; cat /proc/$$/autogroup"""
    result = kernel.run(["/bin/bash", "-c", script])
    assert result.stdout.split(b"\n") == [
        b"/autogroup-1 nice 0", b"/autogroup-1 nice 0", b"/autogroup-2 nice 0", b"/autogroup-1 nice 7",
        b"/autogroup-1 nice -3", b""]
    assert result.stderr.count(b"Invalid argument") == 3


def test_who_may_not_be_nicer_may_not_make_a_session_so_either(boot):
    kernel = boot(cmdline="oops=panic autogroup")
    script = "echo -1 > /proc/$$/autogroup; echo 3 > /proc/$$/autogroup; echo 4 > /proc/$$/autogroup; cat /proc/$$/autogroup"
    result = kernel.run(["/bin/bash", "-c", script], uid=1000, gid=1000, cwd="/")
    assert b"Operation not permitted" in result.stderr and b"temporarily unavailable" in result.stderr
    assert result.stdout == b"/autogroup-1 nice 3\n"


def test_two_runs_with_groups_are_the_same(boot):
    script = "for i in 1 2 3; do setsid sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; cat /proc/self/sched' & done; wait"
    runs = [boot(cpus=2, cmdline="oops=panic autogroup") for _ in range(2)]
    results = [kernel.run(["/bin/bash", "-c", script]) for kernel in runs]
    assert results[0] == results[1] and runs[0].now_ns == runs[1].now_ns
    assert results[0].stdout.count(b"se.vruntime") == 3


def test_groups_end_with_their_sessions(boot):
    kernel = boot(cmdline="oops=panic autogroup")
    assert kernel.run(["/bin/bash", "-c", "for i in $(seq 20); do setsid -w sh -c 'sleep 0.01 & true'; done"]).status == 0
    kernel.run(["/bin/sleep", "1"])
    assert len(kernel.sched.task_groups) <= 2        # the root group, and that of sleep, perhaps


def test_a_session_of_threads_moves_as_a_whole(boot, run_c):
    """setsid() in one thread is for all of them."""
    source = r"""
        #include <pthread.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static volatile int stop;
        static void *spin(void *arg) { while (!stop) ; return arg; }
        int main(void)
        {
            pthread_t t;
            if (fork()) { int s; wait(&s); return WEXITSTATUS(s); }
            pthread_create(&t, 0, spin, 0);
            if (setsid() < 0) return 2;
            usleep(50000);
            stop = 1;
            pthread_join(t, 0);
            return 0;
        }
    """
    assert run_c(source, cmdline="oops=panic autogroup").status == 0
