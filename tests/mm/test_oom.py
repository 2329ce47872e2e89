"""Running out of memory: who is killed, what the log says, what others notice, and how much may be promised."""
import re

import pytest

from glasskernel import Kernel, Share
from glasskernel.init.command import KernelStopped
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.machine.disk import Disk
from glasskernel.mm.page_alloc import OOM_KILL
from tests.conftest import ENV

EATER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    size_t mb = atoi(argv[1]);
    if (argc > 2) { FILE *f = fopen("/proc/self/oom_score_adj", "w"); fputs(argv[2], f); fclose(f); }
    char *p = mmap(0, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return 2;
    for (size_t i = 0; i < mb << 20; i += 4096) p[i] = 1;
    puts("done"); fflush(stdout);
    if (argc > 3) pause();
    return 0;
}
"""


@pytest.fixture
def machine(boot, build_c):
    """sh(script) on a machine of 64 MB; eat MB [oom_score_adj [stay]] touches so much memory."""
    eater = build_c(EATER)

    def make(**options):
        options.setdefault("memory", 64 << 20)
        kernel = boot(shares=[Share(str(eater.parent), "/programs")], **options)

        def sh(script, uid=0):
            result = kernel.run(["/bin/sh", "-c", f"eat() {{ exec /programs/{eater.name} \"$@\"; }}; {script}"], env=ENV, uid=uid, gid=uid, cwd="/")
            return result.stdout.decode() + result.stderr.decode()

        return kernel, sh

    return make


def test_the_process_that_eats_all_memory_is_killed_and_the_others_go_on(machine):
    kernel, sh = machine()
    out = sh("sleep 1000 & (eat 200); echo status $?; kill $! && echo alive")
    assert "status 137" in out
    assert "alive" in out
    assert kernel.mem.vm_event[OOM_KILL] == 1
    log = kernel.dmesg()
    assert re.search(r"\] \S+ invoked oom-killer: gfp_mask=0x[0-9a-f]+\(GFP_\S+\), order=0, oom_score_adj=0", log)
    pid, name = re.search(r"Killed process (\d+) \((\S+)\)", log).groups()
    assert re.search(rf"\[ +{pid}\]     0 +{pid} +\d+ +\d+ +\d+ +0             0 {name}\n", log)
    assert "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name" in log
    assert (f"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,task={name},pid={pid},uid=0"
            in log)
    assert re.search(rf"Out of memory: Killed process {pid} \({name}\) total-vm:\d+kB, anon-rss:\d+kB, file-rss:\d+kB, "
                     r"shmem-rss:0kB, UID:0 pgtables:\d+kB oom_score_adj:0\n", log)
    assert "Call Trace:" in log
    assert " out_of_memory (mm/oom_kill.py" in log
    assert "oom_kill 1" in sh("cat /proc/vmstat").splitlines()


def test_swap_is_used_up_first(machine):
    kernel, sh = machine(disks=[Disk(size=64 << 20)])
    out = sh("mkswap /dev/sda >/dev/null; swapon /dev/sda; (eat 90); echo status $?; (eat 300); echo status $?; swapoff /dev/sda")
    assert re.findall(r"status (\d+)", out) == ["0", "137"]
    log = kernel.dmesg()
    assert "Total swap = 65532kB" in log
    assert int(re.search(r"Free swap  = (\d+)kB", log)[1]) < 1000


def test_oom_score_adj_decides_and_minus_1000_protects(machine):
    """proc(5): the smaller process with +1000 goes first; one with -1000 never"""
    kernel, sh = machine()
    out = sh("(eat 10 1000 stay) & sleep 1; cat /proc/$!/oom_score; (eat 54 -1000); echo status $?; wait $!; echo small $?")
    score, *_ = map(int, re.findall(r"^\d+$", out, re.M))
    assert score > 1000
    assert "status 0" in out
    assert "small 137" in out
    assert kernel.mem.vm_event[OOM_KILL] == 1


def test_oom_score_is_the_share_of_memory_in_thousandths(machine):
    """/proc/PID/oom_score"""
    _, sh = machine()
    out = sh("(eat 32 0 stay) & sleep 1; cat /proc/$!/oom_score; echo 500 > /proc/$!/oom_score_adj; cat /proc/$!/oom_score; kill $!")
    first, second = map(int, re.findall(r"^\d+$", out, re.M))
    assert 490 < first < 540
    assert 495 <= second - first <= 505


def test_without_cap_sys_resource_nobody_protects_himself_more_than_before(machine):
    _, sh = machine()
    out = sh("""python3 -S -c '
import os
fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)
for value in (300, 0, 700, -1, 1001):
    try:
        os.write(fd, b"%d" % value)
    except OSError as error:
        print(error.errno)
print(open("/proc/self/oom_score_adj").read(), end="")'""", uid=1000)
    assert out.split() == ["13", "22", "700"]


def test_the_allocating_task_if_it_is_wanted(machine):
    """vm.oom_kill_allocating_task"""
    kernel, sh = machine()
    out = sh("echo 1 > /proc/sys/vm/oom_kill_allocating_task; echo 0 > /proc/sys/vm/oom_dump_tasks; (eat 35 0 stay) & sleep 1; (eat 30); "
             "echo status $?; kill $! && echo alive")
    assert "status 137" in out
    assert "alive" in out
    assert "Out of memory (oom_kill_allocating_task): Killed process" in kernel.dmesg()
    assert "Tasks state" not in kernel.dmesg()


def test_panic_on_oom(build_c):
    """vm.panic_on_oom"""
    eater = build_c(EATER)
    kernel = Kernel(memory=64 << 20, home=False, shares=[Share(str(eater.parent), "/programs")])
    with pytest.raises(KernelStopped, match="Out of memory: system-wide panic_on_oom is enabled"):
        kernel.run(["/bin/sh", "-c", f"echo 1 > /proc/sys/vm/panic_on_oom; /programs/{eater.name} 200"], env=ENV)
    assert "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled" in kernel.dmesg()


def test_threads_of_other_groups_with_the_same_memory_die_too(machine, build_c):
    kernel, sh = machine()
    program = build_c(r"""
        #define _GNU_SOURCE
        #include <sched.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static int stay(void *p) { for (;;) pause(); }
        int main(void) {
            pid_t pid = fork();
            if (!pid) {
                printf("%d\n", clone(stay, (char *)malloc(65536) + 65536, CLONE_VM, 0)); fflush(stdout);
                char *p = mmap(0, 200 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                for (size_t i = 0; i < 200 << 20; i += 4096) p[i] = 1;
                _exit(0);
            }
            int st; waitpid(pid, &st, 0); return WIFSIGNALED(st) ? WTERMSIG(st) : 0; }
        """)
    out = sh(f"/programs/{program.name}; echo status $?; sleep 1; ps -e -o pid=")
    other = int(out.split()[0])
    assert "status 9" in out
    assert str(other) not in out.split()[3:]


def test_the_events_of_a_shortage(machine):
    """events/oom: mark_victim, reclaim_retry_zone"""
    kernel, sh = machine()
    seen = []
    tracepoint_probe_register(kernel, "mark_victim", lambda task, mm: seen.append(("victim", task.pid, mm)))
    tracepoint_probe_register(kernel, "reclaim_retry_zone", lambda *args: seen.append(("retry", *args[1:])))
    sh("(eat 200)")
    assert [s[0] for s in seen].count("victim") == 1
    assert any(s[0] == "retry" for s in seen[:-1])


# ---- promises --------------------------------------------------------------------------------------------------
def test_overcommit_2_counts_ram_and_swap(machine):
    """proc(5): CommitLimit is RAM * overcommit_ratio + swap; beyond it mmap(2) and fork(2) fail with ENOMEM"""
    kernel, sh = machine(disks=[Disk(size=32 << 20)])
    sh("mkswap /dev/sda; swapon /dev/sda")
    limit = int(re.search(r"CommitLimit: +(\d+) kB", sh("cat /proc/meminfo"))[1])
    assert limit == (kernel.mem.totalram_pages * 50 // 100 + 8191) * 4
    assert kernel.sysctl.admin_reserve_kbytes == kernel.sysctl.user_reserve_kbytes == 64508 // 32      # but the zero page
    assert f"CommitLimit:    {1000 + 32764:8} kB\n" in sh("echo 1000 > /proc/sys/vm/overcommit_kbytes; cat /proc/meminfo")
    assert sh("cat /proc/sys/vm/overcommit_ratio; echo 50 > /proc/sys/vm/overcommit_ratio; cat /proc/sys/vm/overcommit_kbytes") == "0\n0\n"
    out = sh("echo 2 > /proc/sys/vm/overcommit_memory; python3 -S -c 'import mmap; mmap.mmap(-1, 60 << 20, mmap.MAP_PRIVATE)' 2>&1 | tail -1;"
             "echo 0 > /proc/sys/vm/overcommit_memory; python3 -S -c 'import mmap; mmap.mmap(-1, 60 << 20, mmap.MAP_PRIVATE); print(\"fits\")';"
             "python3 -S -c 'import mmap; mmap.mmap(-1, 200 << 20, mmap.MAP_PRIVATE)' 2>&1 | tail -1;"
             "echo 1 > /proc/sys/vm/overcommit_memory; python3 -S -c 'import mmap; mmap.mmap(-1, 200 << 20, mmap.MAP_PRIVATE); print(\"fits\")'")
    assert out.splitlines() == ["OSError: [Errno 12] Cannot allocate memory", "fits",
                                "OSError: [Errno 12] Cannot allocate memory", "fits"]
