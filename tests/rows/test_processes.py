"""Inventory A4: processes."""
import re

from tests.conftest import PROGRAMS


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def passes(result):
    assert result.status == 0, result.stdout.decode() + result.stderr.decode()
    assert b"FAIL" not in result.stdout and b"PASS" in result.stdout


def test_status_and_stat_report_the_fields_of_task_struct(run):
    """A059, A062, A064: state, ids, parents, memory, signals, capabilities, affinity, switches."""
    script = """
        nice -n 3 sleep 50 & p=$!; sleep 0.1; cat /proc/$p/status; echo ==; cat /proc/$p/stat; echo ==
        cat /proc/$p/comm; readlink /proc/$p/exe /proc/$p/cwd /proc/$p/root; tr '\\0' ' ' </proc/$p/cmdline; echo
        cat /proc/$p/wchan; echo; ls /proc/$p/fd | xargs; echo $p $$; kill $p"""
    status, stat, rest = text(run(["/bin/bash", "-c", script], cwd="/tmp")).split("==\n")
    fields = {k: v.strip() for k, _, v in (line.partition(":") for line in status.splitlines())}
    lines = rest.splitlines()
    pid, parent = lines[-1].split()
    assert fields["Name"] == "sleep" and fields["State"] == "S (sleeping)"
    assert fields["Pid"] == fields["Tgid"] == pid and fields["PPid"] == parent
    assert fields["Uid"] == "0\t0\t0\t0" and fields["Threads"] == "1" and fields["TracerPid"] == "0"
    assert fields["CapEff"].lstrip("0").startswith("3f") and fields["Cpus_allowed_list"] == "0-3"
    assert int(fields["voluntary_ctxt_switches"]) >= 1
    assert {"VmPeak", "VmSize", "VmRSS", "VmStk", "VmPTE", "SigQ", "SigBlk", "SigCgt", "Umask", "FDSize"} <= set(fields)
    words = stat.rpartition(")")[2].split()
    assert stat.startswith(f"{pid} (sleep) S {parent} ") and len(words) == 50
    assert words[15:18] == ["23", "3", "1"], "priority, nice, threads"
    assert lines[:5] == ["sleep", "/usr/bin/sleep", "/tmp", "/", "sleep 50 "]
    assert lines[5] in ("hrtimer_nanosleep", "do_nanosleep") and lines[6] == "0 1 2"


def test_threads_are_tasks_of_one_process(run_c):
    """A061, A063, A069: several entries in /proc/PID/task, one tgid; TLS is each thread's own, globals are shared."""
    passes(run_c("""
#include "check.h"
#include <dirent.h>
#include <pthread.h>
static int global;
static __thread int mine = 7;
static void *body(void *arg) {
    global++;
    mine += (int)(long)arg;
    CHECK("gettid differs from getpid", gettid() != getpid());
    sleep_ms(50);
    return (void *)(long)mine;
}
int main(void) {
    pthread_t t[3];
    for (long i = 0; i < 3; i++) pthread_create(&t[i], NULL, body, (void *)i);
    sleep_ms(20);
    DIR *d = opendir("/proc/self/task");
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            n++;
            char path[300], line[200];
            int tgid = 0;
            snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
            FILE *f = fopen(path, "r");
            while (fgets(line, sizeof line, f)) sscanf(line, "Tgid: %d", &tgid);
            fclose(f);
            CHECK("the same tgid", tgid == getpid());
        }
    CHECK("four entries", n == 4);
    long sum = 0;
    for (int i = 0; i < 3; i++) { void *r; pthread_join(t[i], &r); sum += (long)r; }
    CHECK("a global is shared", global == 3);
    CHECK("a thread local is not", sum == 3 * 7 + 3 && mine == 7);
    DONE();
}"""))


def test_fork_fails_with_eagain_when_the_pids_are_used_up(run):
    """A065: with pid_max lowered; zombies count."""
    script = """
        echo 320 >/proc/sys/kernel/pid_max; /usr/bin/python3 -c '
import os
n = 0
try:
    while True:
        if os.fork() == 0: os._exit(0)
        n += 1
except BlockingIOError as e: print(e.errno, n > 100)
while n: os.wait(); n -= 1
print(os.fork() >= 0 or 1)'"""
    out = run(["/bin/bash", "-c", script]).stdout.split()
    assert out[:2] == [b"11", b"True"] and b"True" in out[2:]


def test_vfork_suspends_the_parent_and_clone_shares_what_its_flags_say(run_c):
    """A067, A068."""
    passes(run_c("""
#include "check.h"
#include <sched.h>
static volatile int value;
static char stack[65536] __attribute__((aligned(16)));
static int set(void *arg) { value = 5; chdir("/proc"); close((int)(long)arg); return 9; }
int main(void) {
    long long before = now_ns(CLOCK_MONOTONIC);
    pid_t pid = vfork();
    if (pid == 0) { value = 1; struct timespec ts = {0, 50000000}; nanosleep(&ts, NULL); _exit(3); }
    CHECK("the parent waited", now_ns(CLOCK_MONOTONIC) - before >= 50000000);
    CHECK("and the child wrote into its memory", value == 1);
    int status;
    CHECK("status", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3);
    char cwd[64];
    static const struct { int flags, memory, directory, files; } cases[] = {
        {0, 0, 0, 0}, {CLONE_VM, 1, 0, 0}, {CLONE_FS, 0, 1, 0}, {CLONE_FILES, 0, 0, 1}, {CLONE_VM | CLONE_FS | CLONE_FILES, 1, 1, 1},
    };
    for (unsigned i = 0; i < 5; i++) {
        value = 0;
        chdir("/tmp");
        int fd = open("/dev/null", O_RDONLY);
        pid = clone(set, stack + sizeof stack, cases[i].flags | SIGCHLD, (void *)(long)fd);
        CHECK("clone", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 9);
        CHECK("CLONE_VM", (value == 5) == cases[i].memory);
        CHECK("CLONE_FS", !strcmp(getcwd(cwd, sizeof cwd), cases[i].directory ? "/proc" : "/tmp"));
        CHECK("CLONE_FILES", (fcntl(fd, F_GETFD) < 0) == cases[i].files);
        close(fd);
    }
    DONE();
}"""))


def test_exec_keeps_the_pid_and_returns_only_on_error(run_c):
    """A070, A089."""
    passes(run_c("""
#include "check.h"
int main(int argc, char **argv) {
    char *none[] = {"x", NULL};
    CHECK("a missing path is ENOENT", FAILS(execv("/no/such", none), ENOENT));
    CHECK("a directory is EACCES", FAILS(execv("/tmp", none), EACCES));
    int p[2];
    pipe(p);
    pid_t pid = fork();
    if (pid == 0) { dup2(p[1], 1); execl("/bin/sh", "sh", "-c", "echo $$ $(cat /proc/$$/comm)", NULL); }
    char text[64] = "", expected[64];
    sleep_ms(50);
    read(p[0], text, sizeof text - 1);
    snprintf(expected, sizeof expected, "%d sh\\n", pid);
    CHECK("same pid, new comm", !strcmp(text, expected));
    wait(NULL);
    DONE();
}"""))


def test_exit_codes_reach_the_parent_modulo_256(agree):
    """A071, A072."""
    agree("for c in 0 1 127 128 255 256 257 -1; do bash -c \"exit $c\"; echo $?; done; sh -c 'kill -15 $$'; echo $?",
          stderr=False)


def test_memory_and_descriptors_of_a_dead_process_are_released(boot):
    """A072: checked by the invariants of the fixture, and by what is free."""
    kernel = boot()
    free = []
    for _ in range(3):
        kernel.run(["/usr/bin/python3", "-c", "x = bytearray(8 << 20); f = [open('/dev/null') for _ in range(100)]"])
        from glasskernel.mm.page_alloc import nr_free_pages

        free.append(nr_free_pages(kernel.mem))
    assert abs(free[1] - free[2]) < 50


def test_the_zombie_lab(run, build_c):
    """A073, A076, B09: Z and defunct, VSZ 0; kill -9 does nothing; killing the parent clears it."""
    from glasskernel import Share

    binary = build_c("#include <stdlib.h>\n#include <unistd.h>\nint main(void) { if (fork() > 0) sleep(60); exit(0); }")
    script = f"""
        cp /programs/{binary.name} /tmp/zombie; cd /tmp; ./zombie & sleep 1; p=$!; c=$(pgrep -P $p)
        top -b -n 1 | sed -n 2p; ps aux | grep '[d]efunct'; kill -9 $c; ps -o stat=,vsz=,rss= -p $c; ps fax | grep '[d]efunct'
        kill -s SIGCHLD $p; ps -o stat= -p $c; kill -9 $p; wait $p 2>/dev/null; ps -o stat= -p $c; echo gone $?"""
    out = text_lines(run(["/bin/bash", "-c", script], shares=[Share(str(binary.parent), "/programs")]))
    assert out[0].endswith("1 zombie")
    assert out[1].split()[4:6] == ["0", "0"] and out[1].endswith("[zombie] <defunct>") and out[1].split()[7][0] == "Z"
    assert out[2].split() == ["Z", "0", "0"]
    assert r"\_ [zombie] <defunct>" in out[3]
    assert out[4].strip() == "Z" and out[5] == "gone 1"


def text_lines(result):
    return result.stdout.decode().splitlines()


def test_an_orphan_belongs_to_pid_1(run):
    """A074."""
    assert text(run(["/bin/bash", "-c", "(sleep 0.3; ps -o ppid= -p $BASHPID >/tmp/o) & disown; exec sleep 0" ])) == ""
    out = text(run(["/bin/bash", "-c", "(bash -c 'sleep 0.2; ps -o ppid= -p $$ >/tmp/o' &); sleep 1; cat /tmp/o"]))
    assert out.split() == ["1"]


def test_each_state_is_shown_with_its_letter(run):
    """A075, A117: R, S, T, Z from ps and from /proc/PID/stat (D: see the tests of vfork and block devices)."""
    script = """
        while :; do :; done & r=$!; sleep 100 & s=$!; sleep 100 & t=$!; kill -STOP $t; sh -c 'sleep 0.01 & exec sleep 100' & z=$!
        sleep 0.2; for p in $r $s $t $(pgrep -P $z); do ps -o stat= -p $p | cut -c1; cut -d' ' -f3 /proc/$p/stat; done | xargs
        cut -d' ' -f4 /proc/loadavg | cut -d/ -f1; kill -CONT $t; kill -9 $r $s $t $z"""
    states, running = run(["/bin/bash", "-c", script]).stdout.decode().splitlines()
    assert states.split() == ["R", "R", "S", "S", "T", "T", "Z", "Z"]
    assert int(running) >= 2


def test_a_vfork_parent_is_in_uninterruptible_sleep(run_c):
    """A075: D."""
    passes(run_c("""
#include "check.h"
int main(void) {
    int p[2];
    pipe(p);
    pid_t watcher = fork();
    if (watcher == 0) {
        char path[64], text[200];
        sleep_ms(50);
        snprintf(path, sizeof path, "/proc/%d/stat", getppid());
        int fd = open(path, O_RDONLY), n = read(fd, text, 199);
        text[n > 0 ? n : 0] = 0;
        CHECK("state D", strstr(text, ") D "));
        _exit(failures);
    }
    if (vfork() == 0) { struct timespec ts = {0, 100000000}; nanosleep(&ts, NULL); _exit(0); }
    int status;
    waitpid(watcher, &status, 0);
    CHECK("seen from outside", status == 0);
    DONE();
}"""))


def test_waiters_wake_in_order(run_c):
    """A078: a futex wakes who waits longest first; of many readers of a pipe exactly one gets each byte."""
    passes(run_c("""
#include "check.h"
int main(void) {
    int in[2], out[2], *word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pipe(in), pipe(out);
    for (char i = 'a'; i < 'a' + 6; i++) {
        if (fork() == 0) {
            syscall(SYS_futex, word, 0 /* FUTEX_WAIT */, 0, NULL);
            write(out[1], &i, 1);
            _exit(0);
        }
        sleep_ms(5);
    }
    char order[7] = "", got[7] = "";
    for (int i = 0; i < 6; i++) { syscall(SYS_futex, word, 1 /* FUTEX_WAKE */, 1); read(out[0], order + i, 1); }
    CHECK("a futex: first come, first served", !strcmp(order, "abcdef"));
    for (char i = 'a'; i < 'a' + 6; i++)
        if (fork() == 0) { char c; read(in[0], &c, 1); write(out[1], &c, 1); _exit(0); }
    sleep_ms(5);
    write(in[1], "uvwxyz", 6);
    for (int i = 0; i < 6; i++) { char c; read(out[0], &c, 1); got[c - 'u'] = c; }
    CHECK("a pipe: each byte to one reader", !strcmp(got, "uvwxyz"));
    while (wait(NULL) > 0);
    DONE();
}"""))


def test_sleepers_use_no_cpu(run):
    """A079."""
    out = text(run("sleep 100 & sleep 50; ps -o time=,stat= -p $!; cut -d' ' -f14,15 /proc/$!/stat; kill $!"))
    assert out.split() == ["00:00:00", "S", "0", "0"]


def test_setuid_programs_change_the_effective_user(run):
    """A080."""
    script = """
        mount -o remount,suid /tmp; cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; cp /usr/bin/id /tmp/gid; chgrp 5 /tmp/gid; chmod 2755 /tmp/gid
        setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'id -u; /tmp/id -u; /tmp/id -ru; /tmp/gid -g'
        mount -o remount,nosuid /tmp; setpriv --reuid 1000 --regid 1000 --clear-groups /tmp/id -u"""
    assert text(run(script)).split() == ["1000", "0", "1000", "5", "1000"]


def test_capabilities_follow_the_user_and_prctl(run_c):
    """A060, A080: dropping root drops them; PR_SET_NO_NEW_PRIVS; chown and kill need them."""
    passes(run_c("""
#include "check.h"
#include <sys/prctl.h>
#include <linux/capability.h>
static unsigned effective(void) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    return syscall(SYS_capget, &h, d) ? 0 : d[0].effective;
}
int main(void) {
    CHECK("root has CAP_CHOWN", effective() & 1);
    CHECK("a bounding set", prctl(PR_CAPBSET_READ, 0) == 1);
    close(open("/tmp/f", O_CREAT | O_RDWR, 0600));
    CHECK("root gives files away", chown("/tmp/f", 1000, 1000) == 0);
    CHECK("PR_SET_NAME", prctl(PR_SET_NAME, "renamed") == 0);
    char name[16];
    CHECK("PR_GET_NAME", prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "renamed"));
    setresgid(1000, 1000, 1000);
    setresuid(1000, 1000, 1000);
    CHECK("an ordinary user has none", effective() == 0);
    CHECK("may not give files away", FAILS(chown("/tmp/f", 0, 0), EPERM));
    CHECK("nor become root again", FAILS(setuid(0), EPERM));
    CHECK("nor signal init", FAILS(kill(1, SIGTERM), EPERM));
    CHECK("nor set the host's name", FAILS(sethostname("x", 1), EPERM));
    CHECK("nor raise a hard limit", FAILS(setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}), EPERM));
    CHECK("nor mount", FAILS(syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0), EPERM));
    CHECK("PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    DONE();
}"""))


def test_limits_are_a_table_of_four_columns(run):
    """A082, B66, B340."""
    lines = text(run("cat /proc/self/limits")).splitlines()
    assert lines[0] == "Limit                     Soft Limit           Hard Limit           Units     "
    assert len(lines) == 17
    assert re.fullmatch(r"Max open files +1024 +\d+ +files +", next(x for x in lines if x.startswith("Max open files")))
    nproc = next(x for x in lines if x.startswith("Max processes")).split()
    assert int(nproc[2]) == int(text(run("cat /proc/sys/kernel/threads-max"))) // 2


def test_ulimit_sets_and_enforces(agree):
    agree("""
        ulimit -Sn 20; ulimit -n; ulimit -Hn 30; ulimit -Sn 31; echo $?; ulimit -c 0; ulimit -c; (ulimit -f 1; head -c 5000 /dev/zero >f; echo $?)
        stat -c %s f; (ulimit -v 10000; ls >/dev/null; echo $?)
        ulimit -s 4096; ulimit -s; ulimit -u 10 && ulimit -u""", stderr=False)


def test_cpu_seconds_over_the_limit_are_sigxcpu_then_sigkill(run_c):
    """A082: RLIMIT_CPU."""
    passes(run_c("""
#include "check.h"
static int spin(void *soft_only) {
    struct rlimit limit = {1, soft_only ? 2 : 1};
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    setrlimit(RLIMIT_CPU, &limit);
    for (;;);
}
int main(void) {
    int status = run_child(spin, "");
    CHECK("SIGXCPU at the soft limit", WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU);
    status = run_child(spin, NULL);
    CHECK("SIGKILL at the hard one", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    DONE();
}"""))


def test_threads_max_follows_an_eighth_of_memory(boot):
    """A083: at most 1/8 of RAM for thread information (16 KB each, by the inventory's rule of 5.3: 8 times 16 KB)."""
    values = [int(boot(memory=mb << 20).run(["cat", "/proc/sys/kernel/threads-max"]).stdout) for mb in (256, 512)]
    for mb, value in zip((256, 512), values, strict=True):
        assert abs(value * 8 * 16384 - (mb << 20)) < (mb << 20) * 0.08
    assert int(boot(memory=16 << 20).run(["cat", "/proc/sys/kernel/threads-max"]).stdout) >= 20


def test_every_file_of_a_process_directory_can_be_read(run):
    """A084, B12: cmdline, oom_score, status, maps, fd, limits, comm; /proc/self is the reader."""
    script = """
        cd /proc/$$; for f in cmdline comm environ io limits loginuid maps mountinfo mounts mountstats oom_adj oom_score \
        oom_score_adj personality sched schedstat sessionid smaps smaps_rollup stack stat statm status syscall wchan cgroup auxv; do
        cat $f >/tmp/o 2>/tmp/e || { echo "$f: $(cat /tmp/e)"; }; done; tr '\\0' ' ' <cmdline | head -1 | cut -c1-9; readlink /proc/self | wc -l
        ls -l fd | wc -l; cat oom_score | grep -c '^[0-9]*$'; head -1 /proc/self/maps | grep -o '/usr/bin/head'"""
    result = run(["/bin/bash", "-c", script])
    lines = result.stdout.decode().splitlines()
    allowed = {"cgroup", "loginuid", "sessionid", "stack"}
    assert {line.split(":")[0] for line in lines if ": cat:" in line} <= allowed, lines
    assert lines[-5:-3] == ["/bin/bash", "1"] and lines[-2:] == ["1", "/usr/bin/head"]


def test_fd_links_name_files_and_pipes(run):
    """A223, B044: lrwx------ links to what is open."""
    out = text(run("exec 5</etc/passwd 6>/tmp/x 7<>/dev/null; ls -l /proc/$$/fd"))
    assert re.search(r"lr-x------ .* 5 -> /etc/passwd", out)
    assert re.search(r"l-wx------ .* 6 -> /tmp/x", out)
    assert re.search(r"lrwx------ .* 7 -> /dev/null", out)
    assert re.search(r" 0 -> (pipe:\[\d+\]|/)", out)


def test_accounting_values_grow_under_load(run):
    """A092: switches, times, faults, rchar and wchar."""
    script = """
        get() { grep -E '^(rchar|wchar|syscr|syscw)' /proc/$$/io; grep ctxt /proc/$$/status; cut -d' ' -f10,14 /proc/$$/stat; }
        get >/tmp/a; i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; sleep 0.01; read x </etc/passwd; echo $i >/tmp/c; get >/tmp/b
        paste /tmp/a /tmp/b | tr -s ':\\t ' '   '"""
    rows = [line.split() for line in text(run(["/bin/bash", "-c", script])).splitlines()]
    for name, before, _, after in rows[:6]:
        assert int(after) >= int(before), name
    named = {row[0]: (int(row[1]), int(row[3])) for row in rows[:6]}
    assert named["rchar"][0] < named["rchar"][1] and named["voluntary_ctxt_switches"][0] < named["voluntary_ctxt_switches"][1]
    faults, ticks, faults_after, ticks_after = map(int, rows[6])
    assert faults_after > faults and ticks_after > ticks


def test_oom_score_can_be_adjusted(run):
    """A093."""
    script = "echo 500 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj; echo 2000 >/proc/$$/oom_score_adj; echo $?"
    result = run(["/bin/bash", "-c", script])
    assert result.stdout.split()[0] in (b"0", b"500") and result.stdout.split()[-1] == b"1"


def test_ctrl_c_and_the_terminal_of_a_job(run_c):
    """A091: see also tests/real/test_terminal.py."""
    passes(run_c(PROGRAMS / "job_control.c"))


def test_mount_namespaces_are_each_process_own(run):
    """A090."""
    out = text(run("unshare -m sh -c 'mount -t tmpfs x /mnt; grep -c /mnt /proc/self/mounts'; grep -c ' /mnt ' /proc/self/mounts || true"))
    assert out.split() == ["1", "0"]
