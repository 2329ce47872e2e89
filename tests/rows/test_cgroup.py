"""cgroup v1: hierarchies, groups and their files; the controllers cpuset and pids."""
import pytest

CPUSET = "mkdir -p /c; mount -t cgroup -o cpuset none /c; cd /c\n"
ONE = "mkdir a; echo 1-2 > a/cpuset.cpus; echo 0 > a/cpuset.mems\n"


def lines(result):
    assert result.status == 0, result
    return result.stdout.decode().splitlines()


def shell(script):
    return ["/bin/bash", "-c", script]


# ---- the core ----------------------------------------------------------------------------------------------------
def test_a_hierarchy_lives_as_long_as_it_is_mounted_or_has_groups(run):
    out = lines(run(shell("""
        exec 2>&1
        cat /proc/self/cgroup; mkdir /c /d
        mount -t cgroup -o none,name=mine none /c; mkdir /c/x; echo $$ > /c/x/tasks; cat /proc/self/cgroup
        umount /c; cat /proc/self/cgroup
        mount -t cgroup -o none,name=mine none /d; ls -d /d/x; echo 0 > /d/tasks; rmdir /d/x; umount /d
        sleep 0.1; cat /proc/self/cgroup; mount -t cgroup -o none,name=mine none /d; grep ' /d ' /proc/mounts; cat /proc/self/cgroup""")))
    assert out == ["1:name=mine:/x", "1:name=mine:/x", "/d/x", "none /d cgroup rw,relatime,name=mine 0 0", "2:name=mine:/"]


@pytest.mark.parametrize("options, error", [
    ("nothing", "wrong fs type"), ("none", "wrong fs type"), ("none,cpuset", "wrong fs type"), ("all,cpuset", "wrong fs type"),
    ("pids,noprefix", "wrong fs type"), ("name=a/b,none", "wrong fs type"), ("name=a,name=b", "wrong fs type"),
    ("cpuset,pids", "already mounted"), ("name=nobody", "wrong fs type"),
])
def test_options_that_make_no_sense_are_refused(run, options, error):
    result = run(f"mkdir /c /d; mount -t cgroup -o cpuset none /c; mount -t cgroup -o {options} none /d")
    assert result.status == 32 and error in result.stderr.decode(), result


def test_a_second_mount_of_the_same_controllers_shows_the_same_hierarchy(run):
    out = run(CPUSET + "mkdir /d a; mount -t cgroup -o cpuset x /d; ls -d /d/a; grep -w 'cpuset\\|pids' /proc/cgroups")
    assert lines(out) == ["/d/a", "cpuset\t1\t2\t1", "pids\t0\t1\t1"]


def test_controllers_cannot_leave_a_hierarchy_that_has_groups(run):
    result = run("mkdir /c /d; mount -t cgroup -o pids none /c; mkdir /c/a; umount /c; mount -t cgroup -o pids,cpuset none /d")
    assert result.status == 32 and "busy" in result.stderr.decode()


def test_tasks_has_threads_and_cgroup_procs_processes(run_c):
    result = run_c(r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static void put(const char *path, int n) { FILE *f = fopen(path, "w"); fprintf(f, "%d\n", n); fclose(f); }
static int count(const char *path) { FILE *f = fopen(path, "r"); int n = 0, x; while (fscanf(f, "%d", &x) == 1) n++; fclose(f); return n; }
static int tid; static pthread_barrier_t b;
static void *body(void *a) { tid = syscall(SYS_gettid); pthread_barrier_wait(&b); pthread_barrier_wait(&b); return 0; }
int main(void) {
    mkdir("/c", 0755);
    if (mount("none", "/c", "cgroup", 0, "none,name=t")) return 1;
    mkdir("/c/one", 0755); mkdir("/c/two", 0755);
    pthread_barrier_init(&b, 0, 2);
    pthread_t t; pthread_create(&t, 0, body, 0); pthread_barrier_wait(&b);
    put("/c/one/cgroup.procs", getpid());
    printf("%d %d\n", count("/c/one/tasks"), count("/c/one/cgroup.procs"));
    put("/c/two/tasks", tid);
    printf("%d %d %d %d\n", count("/c/one/tasks"), count("/c/one/cgroup.procs"), count("/c/two/tasks"), count("/c/two/cgroup.procs"));
    put("/c/two/cgroup.procs", tid);
    printf("%d %d\n", count("/c/one/tasks"), count("/c/two/tasks"));
    pthread_barrier_wait(&b); pthread_join(t, 0);
    printf("%d\n", count("/c/two/tasks"));
    return 0;
}""", flags=("-O1", "-static", "-pthread"))
    assert lines(result) == ["2 1", "1 1 1 1", "0 2", "1"]


def test_errors_of_the_core_files(run):
    out = lines(run(shell(CPUSET + ONE + """
        exec 2>&1
        try() { local what=$1; shift; { "$@"; } 2>&1 | sed 's/.*: //' | sed "s/^/$what: /"; }
        put() { echo "$1" > $2; }
        try word put abc a/tasks; try negative put -1 a/tasks; try nobody put 9999 a/tasks; try kthreadd put 2 a/tasks
        try mkdir mkdir a; try newline mkdir "b
c"; try file touch a/file; try remove rm a/tasks; try rename mv a/tasks a/t; try elsewhere mv a/tasks /c/t
        mkdir b; try other mv a b/a; mv b c; ls -d c; put $$ a/tasks; try busy rmdir a; put $$ tasks; mkdir a/b; try full rmdir a
        setpriv --reuid=65534 --clear-groups bash -c 'echo 1 > /c/a/tasks' 2>&1 | sed 's/.*: //'; mkdir /c/u; chown -R nobody /c/u
        setpriv --reuid=65534 --clear-groups bash -c 'echo 1 > /c/u/cgroup.procs' 2>&1 | sed 's/.*: //'""")))
    assert out == [
        "word: Invalid argument", "negative: Invalid argument", "nobody: No such process", "kthreadd: Invalid argument",
        "mkdir: File exists", "newline: Invalid argument", "file: Permission denied", "remove: Operation not permitted",
        "rename: Not a directory", "elsewhere: Not a directory", "other: Operation not permitted", "c",
        "busy: Device or resource busy", "full: Device or resource busy", "Permission denied", "Permission denied"]


def test_children_are_born_in_their_parents_group_and_leave_it_when_they_end(run):
    out = run(shell("""
        mkdir /c; mount -t cgroup -o none,name=t none /c; mkdir -p /c/a/b; echo $$ > /c/a/b/tasks
        sleep 100 & cat /proc/$!/cgroup; echo $$ > /c/tasks; cat /c/a/b/tasks | wc -l
        kill $!; wait; cat /c/a/b/tasks | wc -l; rmdir /c/a/b /c/a; test -d /c/a || echo gone"""))
    assert lines(out) == ["1:name=t:/a/b", "1", "0", "gone"]


def test_the_release_agent_runs_when_a_group_becomes_empty(run):
    """cgroup-v1: the agent gets the path of the group, when notify_on_release is set and the last task has left it."""
    out = run(shell("""
        mkdir /c; mount -t cgroup -o none,name=t none /c; mkdir -p /c/a/b /c/quiet; cat /c/release_agent /c/notify_on_release
        printf '#!/bin/sh\necho "$# $1 $HOME" >> /tmp/released; id -u >> /tmp/released\nrmdir /c$1\n' > /tmp/agent; chmod 755 /tmp/agent
        echo /tmp/agent > /c/release_agent; echo 1 > /c/a/b/notify_on_release; cat /c/a/b/notify_on_release
        sh -c 'echo $$ > /c/quiet/tasks'; sh -c 'echo $$ > /c/a/b/tasks'
        while test -d /c/a/b; do sleep 0.01; done; cat /tmp/released; ls -d /c/quiet; grep -o release.* /proc/mounts"""))
    assert lines(out) == ["", "0", "1", "1 /a/b /", "0", "/c/quiet", "release_agent=/tmp/agent,name=t 0 0"]


# ---- cpuset ------------------------------------------------------------------------------------------------------
def test_sched_setaffinity_is_confined_to_the_cpuset(run):
    """A060: sched_setaffinity within a cpuset takes effect on one task only."""
    out = run(shell(CPUSET + ONE + """
        list() { sed -n 's/Cpus_allowed_list:.//p' /proc/$1/status; }
        sleep 100 & other=$!; sleep 100 & p=$!; echo $p > a/tasks
        list $p; taskset -p -c 0 $p 2>&1 | sed 's/.*: //'; taskset -p -c 2,3 $p >/dev/null; list $p
        list $other; list $$; cat /proc/$p/cpuset /proc/$other/cpuset
        echo 3 > a/cpuset.cpus; list $p; echo $p > tasks; list $p; kill $p $other"""))
    assert lines(out) == ["1-2", "Invalid argument", "1,2", "2", "0-3", "0-3", "/a", "/", "3", "0-3"]


def test_a_child_inherits_and_a_running_task_moves(run):
    """cpuset(7): a task that runs on a CPU that its set loses goes to another one at once."""
    out = run(shell(CPUSET + ONE + """
        (while :; do :; done) & p=$!; echo $p > a/cgroup.procs
        for cpu in 1 2 1 2; do echo $cpu > a/cpuset.cpus; sleep 0.02; awk '{print $39}' /proc/$p/stat; done; kill $p
        bash -c 'echo $$ > a/tasks; grep -h list: /proc/self/status; nproc; sleep 0.1 & cat /proc/$!/cpuset'"""))
    assert lines(out) == ["1", "2", "1", "2", "Cpus_allowed_list:\t2", "Mems_allowed_list:\t0", "1", "/a"]


def test_what_a_cpuset_may_be(run):
    """cpuset(7), ERRORS."""
    out = lines(run(shell(CPUSET + """
        exec 2>&1
        try() { local what=$1; shift; "$@" 2>&1 | sed "s/.*: //;s/^/$what: /"; }
        put() { echo "$1" > $2; }
        mkdir a b a/x; try empty put $$ a/tasks
        try root put 0 cpuset.cpus; try nocpu put 9 a/cpuset.cpus; try range put 99 a/cpuset.cpus; try text put x a/cpuset.cpus
        try backwards put 3-1 a/cpuset.cpus; try node put 1 a/cpuset.mems; put 0-2 a/cpuset.cpus; cat a/cpuset.cpus a/cpuset.effective_cpus
        try parent put 3 a/x/cpuset.cpus; put 1,2 a/x/cpuset.cpus; cat a/x/cpuset.cpus; try child put 0-1 a/cpuset.cpus
        put 2-3 b/cpuset.cpus; try exclusive put 1 a/cpuset.cpu_exclusive; put 3 b/cpuset.cpus; put 1 a/cpuset.cpu_exclusive
        try sibling put 2-3 b/cpuset.cpus; try inner put 1 a/x/cpuset.cpu_exclusive; try outer put 0 a/cpuset.cpu_exclusive
        put 0 b/cpuset.mems; put $$ b/tasks; try tasks put "" b/cpuset.cpus; try top put 0-3:2/3 /c/cpuset.cpus; put $$ tasks; put "" b/cpuset.cpus; cat b/cpuset.cpus
        put 1 b/cpuset.memory_migrate; cat b/cpuset.memory_migrate b/cpuset.sched_load_balance; try number put x b/cpuset.memory_migrate
        test -w b/cpuset.effective_cpus; stat -c %a b/cpuset.effective_cpus""")))
    assert out == [
        "empty: No space left on device", "root: Permission denied", "nocpu: Invalid argument",
        "range: Numerical result out of range", "text: Invalid argument", "backwards: Invalid argument",
        "node: Invalid argument", "0-2", "0-2", "parent: Permission denied", "1-2", "child: Device or resource busy",
        "exclusive: Invalid argument", "sibling: Invalid argument", "outer: Device or resource busy",
        "tasks: No space left on device", "top: Permission denied", "", "1", "1",
        "number: Invalid argument", "444"]


def test_clone_children_and_the_old_file_system(run):
    out = run(shell("""
        mkdir /c /d; mount -t cpuset none /c; cd /c; ls cpus mems tasks; echo 1 > cgroup.clone_children; mkdir a; cat a/cpus a/mems a/cgroup.clone_children
        grep ' /c ' /proc/mounts; mount -t cgroup -o cpuset none /d; ls -d /d/a; ls /d/a/cpus; grep -c cpuset /proc/filesystems"""))
    assert lines(out) == ["cpus", "mems", "tasks", "0-3", "0", "1",
                          "none /c cgroup rw,relatime,cpuset,noprefix,release_agent=/sbin/cpuset_release_agent,clone_children 0 0",
                          "/d/a", "/d/a/cpus", "1"]


# ---- pids --------------------------------------------------------------------------------------------------------
def test_a_fork_beyond_the_limit_of_a_group_fails(run_c):
    """A060: and a zombie counts."""
    result = run_c(r"""
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void put(const char *path, const char *text) { FILE *f = fopen(path, "w"); fputs(text, f); if (fclose(f)) printf("%s: %s\n", text, strerror(errno)); }
static void show(const char *path) { char b[99] = ""; FILE *f = fopen(path, "r"); if (fgets(b, 99, f)) printf("%s", b); fclose(f); }
int main(void) {
    mkdir("/p", 0755);
    if (mount("none", "/p", "cgroup", 0, "pids")) return 1;
    mkdir("/p/up", 0755); mkdir("/p/up/down", 0755);
    show("/p/up/pids.max"); put("/p/up/pids.max", "-1"); put("/p/up/pids.max", "3"); show("/p/up/pids.max");
    put("/p/up/down/tasks", "0"); show("/p/up/pids.current"); fflush(stdout);
    pid_t a = fork(); if (!a) _exit(0);
    pid_t b = fork(); if (!b) _exit(0);
    usleep(1000);
    int d = fork(); printf("%d %s\n", d, strerror(errno)); show("/p/up/pids.current"); show("/p/up/down/pids.events");
    waitpid(a, 0, 0); show("/p/up/pids.current"); fflush(stdout);
    pid_t c = fork(); if (!c) _exit(0);
    printf("%d\n", c > 0);
    while (wait(0) > 0);
    put("/p/tasks", "0"); show("/p/up/pids.current"); put("/p/up/pids.max", "max"); show("/p/up/pids.max");
    return access("/p/pids.max", F_OK) != -1;
}""")
    assert lines(result) == ["max", "-1: Invalid argument", "3", "1", "-1 Resource temporarily unavailable", "3", "max 1",
                             "2", "1", "0", "max"]


# ---- events ------------------------------------------------------------------------------------------------------
def test_events_tell_what_happens_to_groups(run):
    out = run(shell("""
        echo 1 > /sys/kernel/tracing/events/cgroup/enable; ls /sys/kernel/tracing/events/cgroup | xargs
        mkdir /c; mount -t cgroup -o pids,name=n none /c; mkdir /c/a /c/a/b; sleep 100 & sleep 0.01; echo $! > /c/a/b/tasks; sleep 0.01
        kill $!; wait; rmdir /c/a/b; mv /c/a /c/z; mount -o remount,release_agent=/x /c; rmdir /c/z; umount /c; sleep 0.1
        echo $!; sed -n 's/.* cgroup_/cgroup_/p' /sys/kernel/tracing/trace"""))
    found = lines(out)
    pid = found[1]
    mask = next(line.split("ss_mask=")[1].split()[0] for line in found if "ss_mask" in line)
    assert found[0].split() == ["cgroup_attach_task", "cgroup_destroy_root", "cgroup_mkdir", "cgroup_notify_populated",
                                "cgroup_release", "cgroup_remount", "cgroup_rename", "cgroup_rmdir", "cgroup_setup_root",
                                "enable", "filter"]
    told = [line for line in found[2:] if not line.startswith("cgroup_release") and " root=0 " not in line]
    assert told == [
        "cgroup_notify_populated: root=1 id=1 level=0 path=/ val=1", f"cgroup_setup_root: root=1 ss_mask={mask} name=n",
        "cgroup_mkdir: root=1 id=2 level=1 path=/a", "cgroup_mkdir: root=1 id=3 level=2 path=/a/b",
        "cgroup_notify_populated: root=1 id=3 level=2 path=/a/b val=1", "cgroup_notify_populated: root=1 id=2 level=1 path=/a val=1",
        f"cgroup_attach_task: dst_root=1 dst_id=3 dst_level=2 dst_path=/a/b pid={pid} comm=sleep",
        "cgroup_notify_populated: root=1 id=3 level=2 path=/a/b val=0", "cgroup_notify_populated: root=1 id=2 level=1 path=/a val=0",
        "cgroup_rmdir: root=1 id=3 level=2 path=/a/b", "cgroup_rename: root=1 id=2 level=1 path=/z",
        f"cgroup_remount: root=1 ss_mask={mask} name=n", "cgroup_rmdir: root=1 id=2 level=1 path=/z",
        f"cgroup_destroy_root: root=1 ss_mask={mask} name=n"]
    assert sum(line.startswith("cgroup_release") for line in found) == 2


def test_what_one_task_sets_applies_to_that_task_only(run_c):
    """A060: ionice, keyctl, prctl(PR_SET_SECCOMP), sched_setaffinity within a cpuset, set_mempolicy and setitimer."""
    result = run_c(r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
static void put(const char *path, const char *text) { int f = open(path, O_WRONLY); if (write(f, text, strlen(text)) < 0) exit(2); close(f); }
static void show(const char *who) {
    cpu_set_t set; struct itimerval it; int mode = -1; unsigned long nodes = 0;
    sched_getaffinity(0, sizeof set, &set);
    getitimer(ITIMER_REAL, &it);
    syscall(SYS_get_mempolicy, &mode, &nodes, 64, 0, 0);
    printf("%s io=%lx seccomp=%d cpus=%lx mode=%d nodes=%lx timer=%d key=%d\n", who, syscall(SYS_ioprio_get, 1, 0), prctl(PR_GET_SECCOMP),
           set.__bits[0], mode, nodes, it.it_value.tv_sec > 0, syscall(SYS_keyctl, 0, -3, 0) == atoi(getenv("KEY")));
    fflush(stdout);
}
int main(void) {
    char key[20];
    syscall(SYS_keyctl, 1, "mine");
    sprintf(key, "%ld", syscall(SYS_keyctl, 0, -3, 0)); setenv("KEY", key, 1);
    mkdir("/c", 0755); if (mount("none", "/c", "cgroup", 0, "cpuset")) return 1;
    mkdir("/c/a", 0755); put("/c/a/cpuset.cpus", "1-3"); put("/c/a/cpuset.mems", "0");
    int go[2]; pipe(go); char x;
    pid_t other = fork();
    if (!other) { read(go[0], &x, 1); show("other"); return 0; }
    pid_t child = fork();
    if (!child) {
        cpu_set_t set; struct itimerval it = {{0, 0}, {50, 0}}; unsigned long node = 1;
        put("/c/a/tasks", "0");
        CPU_ZERO(&set); CPU_SET(0, &set);
        int r = sched_setaffinity(0, sizeof set, &set); printf("outside: %d %d\n", r, errno == EINVAL);
        CPU_SET(2, &set); sched_setaffinity(0, sizeof set, &set);
        syscall(SYS_ioprio_set, 1, 0, 3 << 13);
        syscall(SYS_set_mempolicy, 2, &node, 64);
        setitimer(ITIMER_REAL, &it, 0);
        syscall(SYS_keyctl, 1, "another");
        show("child"); fflush(stdout);
        prctl(PR_SET_SECCOMP, 1);
        write(go[1], "x", 1);
        getpid(); syscall(SYS_getppid);
        syscall(SYS_exit, 0);
    }
    int s; waitpid(child, &s, 0); printf("killed by %d\n", WTERMSIG(s)); fflush(stdout);
    waitpid(other, &s, 0);
    show("parent");
    return 0;
}""", flags=("-O1", "-static", "-pthread", "-w"))
    told = lines(result)
    assert told[:2] == ["outside: -1 1", "child io=6000 seccomp=0 cpus=4 mode=2 nodes=1 timer=1 key=0"]
    assert "killed by 9" in told
    io = next(line.split()[1] for line in told if line.startswith("parent"))
    rest = f"{io} seccomp=0 cpus=f mode=0 nodes=0 timer=0 key=1"
    assert io != "io=6000" and {f"other {rest}", f"parent {rest}"} <= set(told)
