"""cgroup v1's freezer: all tasks of a group stop, whatever they do, and go on later."""

HEAD = """
    exec 2>&1
    mkdir /f; mount -t cgroup -o freezer none /f; cd /f; mkdir g
    state() { cat $1/freezer.state; }
    frozen() { echo FROZEN > $1/freezer.state; until [ $(state $1) = FROZEN ]; do sleep 0.001; done; state $1; }
    at() { awk '{print $3}' /proc/$1/stat; }
"""


def inside(run, script):
    result = run(["/bin/bash", "-c", HEAD + script])
    assert result.status == 0, result
    return result.stdout.decode().splitlines()


def test_frozen_tasks_do_nothing_until_they_are_thawed(run):
    """freezer-subsystem.txt: one that computes, one that sleeps, one that reads a pipe; signals wait."""
    out = inside(run, """
        (while :; do echo >> /tmp/n; done) & spin=$!
        (trap 'echo usr1 > /tmp/usr1' USR1; read x < <(sleep 100); sleep 100 & wait) & trap=$!; sleep 0.02
        echo $spin > g/tasks; echo $trap > g/tasks; ls g | grep freezer | xargs; state g
        frozen g; at $spin; at $trap; cat /proc/$spin/wchan; echo; a=$(wc -c < /tmp/n); sleep 0.05; b=$(wc -c < /tmp/n); [ $a = $b ] && echo still
        kill -USR1 $trap; sleep 0.01; ls /tmp/usr1 2>&1 | sed 's/.*: //'; cat g/freezer.self_freezing g/freezer.parent_freezing
        echo THAWED > g/freezer.state; state g; sleep 0.05; c=$(wc -c < /tmp/n); [ $c -gt $b ] && echo on; at $spin
        kill $spin; kill $trap; true""")
    assert out == ["freezer.parent_freezing freezer.self_freezing freezer.state", "THAWED", "FROZEN", "D", "D", "__refrigerator",
                   "still", "No such file or directory", "1", "0", "THAWED", "on", "R"]


def test_a_sleep_goes_on_where_it_was_and_a_signal_is_handled_after_the_thaw(run):
    out = inside(run, """
        bash -c 'trap "echo got" USR1; sleep 0.1; echo slept' & p=$!; sleep 0.02; echo $p > g/cgroup.procs
        for t in $(pgrep -P $p); do echo $t > g/tasks; done; frozen g; kill -USR1 $p; sleep 0.3; at $p; echo THAWED > g/freezer.state; wait $p; echo $?""")
    assert out == ["FROZEN", "D", "got", "slept", "0"] or out == ["FROZEN", "D", "slept", "got", "0"]


def test_groups_below_freeze_with_it_and_newcomers_too(run):
    out = inside(run, """
        mkdir g/in; sleep 100 & p=$!; echo $p > g/in/tasks; frozen g; state g/in; cat g/in/freezer.self_freezing g/in/freezer.parent_freezing; at $p
        mkdir g/late; state g/late; sleep 100 & q=$!; echo $q > g/late/tasks; sleep 0.01; at $q; state g
        echo THAWED > g/in/freezer.state; state g/in; echo $q > tasks; sleep 0.01; at $q; echo $p > tasks; sleep 0.01; at $p
        rmdir g/late g/in; echo THAWED > g/freezer.state; echo MAYBE > g/freezer.state | sed 's/.*: //'; kill $p $q""")
    assert out == ["FROZEN", "FROZEN", "0", "1", "D", "FROZEN", "D", "FROZEN", "FROZEN", "S", "S"] + out[11:]
    assert len(out) == 12 and out[11].endswith("write error: Invalid argument")


def test_a_child_of_a_task_that_freezes_is_born_frozen_and_a_parent_in_vfork_counts(run_c):
    result = run_c(r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void put(const char *path, const char *text) { int f = open(path, O_WRONLY); if (write(f, text, strlen(text)) < 0) perror(path); close(f); }
static void show(const char *path) { char b[99]; int f = open(path, O_RDONLY), n = read(f, b, 99); if (write(1, b, n) < 0) exit(1); close(f); }
int main(void) {
    mkdir("/f", 0755);
    if (mount("none", "/f", "cgroup", 0, "freezer")) return 1;
    mkdir("/f/g", 0755);
    pid_t p = fork();
    if (!p) {
        put("/f/g/tasks", "0");
        pid_t q = vfork();
        if (!q) { for (volatile long i = 0; i < 30000000; i++); _exit(3); }
        int s; waitpid(q, &s, 0); _exit(WEXITSTATUS(s));
    }
    usleep(20000);
    put("/f/g/freezer.state", "FROZEN");
    usleep(20000);
    show("/f/g/freezer.state");
    put("/f/g/freezer.state", "THAWED");
    int s; waitpid(p, &s, 0); printf("%d\n", WEXITSTATUS(s));
    return 0;
}""")
    assert (result.status, result.stdout) == (0, b"FROZEN\n3\n"), result
