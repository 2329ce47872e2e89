"""Cgroups under random use: whatever programs do, sets, groups and counters agree afterwards (kernel/cgroup/check.py)."""
import pytest

PROGRAM = r"""
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned seed;
static int pick(int n) { seed = seed * 1103515245 + 12345; return (seed >> 16) % n; }
static const char *tops[] = {"/1", "/2", "/3"}, *groups[] = {"", "/a", "/b", "/a/x", "/b/x"};
static pid_t kids[8];
static void put(const char *path, const char *text) { int f = open(path, O_WRONLY); if (f >= 0) { (void)!write(f, text, strlen(text)); close(f); } }
static void *thread(void *a) { usleep((long)a * 100); return 0; }
static void kid(void) {
    pthread_t t; pthread_create(&t, 0, thread, (void *)(long)pick(50));
    usleep(pick(3000)); if (!fork()) { usleep(pick(2000)); _exit(0); }
    if (pick(2)) pthread_join(t, 0);
    _exit(0);
}
int main(int argc, char **argv) {
    char path[99], text[99], other[99];
    seed = atoi(argv[1]);
    signal(SIGCHLD, pick(2) ? SIG_IGN : SIG_DFL);
    for (int i = 0; i < 3; i++) mkdir(tops[i], 0755);
    for (int i = 0; i < 250; i++) {
        const char *top = tops[pick(3)], *group = groups[pick(5)];
        sprintf(path, "%s%s", top, group);
        switch (pick(12)) {
        case 0: { const char *options[] = {"cpuset", "pids", "cpu,cpuacct", "freezer", "none,name=t", "cpuset,pids", ""};
                  int o = pick(7); mount("none", top, o == 6 ? "cgroup2" : "cgroup", 0, options[o]); break; }
        case 1: if (!pick(3)) umount2(top, pick(2) ? MNT_DETACH : 0); break;
        case 2: case 3: mkdir(path, 0755); break;
        case 4: rmdir(path); break;
        case 5: case 6: { int k = pick(8); if (!kids[k] && !(kids[k] = fork())) kid(); break; }
        case 7: { int k = pick(8); if (kids[k]) { kill(kids[k], SIGKILL); waitpid(kids[k], 0, 0); kids[k] = 0; } break; }
        case 8: case 9: sprintf(text, "%d", pick(4) ? kids[pick(8)] : 0); sprintf(other, "%s/%s", path, pick(2) ? "tasks" : "cgroup.procs"); put(other, text); break;
        case 10: { const char *files[] = {"cpuset.cpus", "cpuset.mems", "pids.max", "cgroup.clone_children", "cgroup.subtree_control",
                                          "cpu.shares", "notify_on_release", "cgroup.subtree_control", "freezer.state", "cpu.cfs_quota_us"};
                   const char *texts[] = {"0-2", "0", "5", "1", "+pids", "100", "1", "-pids", "FROZEN", "50000"};
                   int f = pick(10); sprintf(other, "%s/%s", path, files[f]); put(other, texts[f]); break; }
        case 11: sprintf(other, "%s/freezer.state", path); put(other, "THAWED"); usleep(pick(2000)); break;
        }
    }
    for (int i = 0; i < 3; i++) for (int g = 0; g < 5; g++) { sprintf(other, "%s%s/freezer.state", tops[i], groups[g]); put(other, "THAWED"); }
    mkdir("/4", 0755);
    if (!mount("none", "/4", "cgroup", 0, "freezer"))
        for (int g = 1; g < 5; g++) { sprintf(other, "/4%s/freezer.state", groups[g]); put(other, "THAWED"); }
    for (int k = 0; k < 8; k++) if (kids[k]) kill(kids[k], SIGKILL);
    while (wait(0) > 0);
    return 0;
}"""


@pytest.mark.parametrize("seed", range(8))
def test_everything_agrees_afterwards(run_c, seed):
    options = {"cmdline": "oops=panic preempt=full"} if seed % 2 else {}
    assert run_c(PROGRAM, str(seed), flags=("-O1", "-static", "-pthread"), cpus=1 + seed % 4, seed=seed, **options).status == 0
