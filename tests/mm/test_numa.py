"""Several nodes of memory: where frames come from, who says so, and how they get elsewhere. numactl(8) is the user."""
from __future__ import annotations

import re

import pytest

from glasskernel.mm.page_alloc import page_to_nid

HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define CHECK(c) do { if (!(c)) { printf("%d: %s errno %d\n", __LINE__, #c, errno); return 1; } } while (0)
#define P 4096
enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL };
enum { STRICT = 1, MOVE = 2, MOVE_ALL = 4 };
static long set(int mode, unsigned long mask) { return syscall(SYS_set_mempolicy, mode, &mask, 64); }
static long mb(void *at, long len, int mode, unsigned long mask, int flags) {
    return syscall(SYS_mbind, at, len, mode, &mask, 64, flags); }
static int node(void *at) { int n; return syscall(SYS_get_mempolicy, &n, 0, 0, at, 3) ? -errno : n; }
static int all(char *at, int pages, int wanted) {
    for (int i = 0; i < pages; i++) if (node(at + i * P) != wanted) return 0;
    return 1; }
static char *map(int pages) { return mmap(0, pages * P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static char *fill(char *at, int pages) { for (int i = 0; i < pages; i++) at[i * P] = i + 1; return at; }
static int intact(char *at, int pages) { for (int i = 0; i < pages; i++) if (at[i * P] != i + 1) return 0; return 1; }
static long move(int pid, char *at, int pages, int *nodes, int *status, int flags) {
    void *where[64]; for (int i = 0; i < pages; i++) where[i] = at + i * P;
    return syscall(SYS_move_pages, pid, (long)pages, where, nodes, status, flags); }
"""




def counts(text):
    """numastat(8)'s table: {name: [of each node]}."""
    rows = [line.split() for line in text.decode().splitlines() if line and not line.startswith(" ")]
    return {row[0]: [int(n) for n in row[1:]] for row in rows}


# ---- the machine ----------------------------------------------------------------------------------------------------
def test_numactl_shows_the_machine(run):
    """A214: numactl -H as on the captured machine, with two nodes: CPUs, sizes, distances."""
    text = run("numactl -H; lscpu | grep NUMA; cat /sys/devices/system/node/{online,has_cpu,node1/cpulist,node1/cpumap,node1/distance}",
               numa=2, env={"BASH_ENV": ""}).stdout.decode()
    assert re.match(r"available: 2 nodes \(0-1\)\nnode 0 cpus: 0 1\nnode 0 size: 255 MB\nnode 0 free: \d+ MB\nnode 1 cpus: 2 3\n"
                    r"node 1 size: 256 MB\nnode 1 free: \d+ MB\nnode distances:\nnode   0   1 \n  0:  10  20 \n  1:  20  10 \n", text)
    assert "NUMA node(s):" in text
    one = run("numactl -H", cpus=4).stdout.decode()
    assert re.match(r"available: 1 nodes \(0\)\nnode 0 cpus: 0 1 2 3\nnode 0 size: 511 MB\nnode 0 free: \d+ MB\n"
                    r"node distances:\nnode   0 \n  0:  10 \n", one)


def test_sys_has_every_file_of_a_node(run):
    """node1: cpulist, cpumap, distance, meminfo, numastat, vmstat; links to and from its CPUs."""
    text = run("cd /sys/devices/system/node; cat online has_cpu has_memory node1/cpulist node1/cpumap node1/distance; "
               "cat /sys/devices/system/cpu/cpu3/node1/cpulist; ls -d node1/cpu? ; cut -d: -f1 node1/meminfo | tr -s ' ' | tail -n +1; "
               "cut -d' ' -f1 node1/numastat; cut -d' ' -f1 node1/vmstat | head -18 | tail -7", numa=2).stdout.decode().splitlines()
    assert text[:9] == ["0-1", "0-1", "0-1", "2-3", "c", "20 10", "2-3", "node1/cpu2", "node1/cpu3"]
    assert "Node 1 MemTotal" in text and "Node 1 SUnreclaim" in text
    assert text[-13:-7] == ["numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node"]
    assert "numa_hit" in text[-7:]


def test_memory_of_the_nodes_adds_up(run):
    """What /proc/meminfo counts for all is the sum of what /sys counts for each node."""
    text = run("dd if=/dev/zero of=/tmp/x bs=64k count=9 2> /dev/null; cat /proc/meminfo /sys/devices/system/node/node?/meminfo",
               numa=2).stdout.decode()
    whole = dict(re.findall(r"^(\S+): +(\d+) kB", text, re.M))
    for name in ("MemTotal", "AnonPages", "Mapped", "Shmem", "Slab", "PageTables", "Dirty"):
        parts = [int(n) for n in re.findall(rf"^Node \d {name}: +(\d+) kB", text, re.M)]
        assert len(parts) == 2 and abs(sum(parts) - int(whole[name])) <= 100, name


def test_zones_of_each_node_are_in_proc(run):
    text = run("cat /proc/buddyinfo; grep -A1 ^Node /proc/zoneinfo; grep -c numa_hit /proc/zoneinfo; grep ^Mems /proc/self/status",
               numa=2).stdout.decode()
    assert re.findall(r"^Node (\d), zone +(\S+) +\d+ ", text, re.M) == [("0", "DMA"), ("0", "DMA32"), ("1", "DMA32")]
    assert text.count("per-node stats") == 2 and "\n3\n" in text
    assert text.endswith("00000003\nMems_allowed_list:\t0-1\n")


def test_zonelists_begin_at_home_and_go_on_with_the_nearest(boot):
    """build_zonelists(): by node; nodes behind first, and not always the same one second."""
    kernel = boot(numa=4, memory=8 << 30)
    lists = [[(zone.node, zone.name) for zone in pgdat.node_zonelist] for pgdat in kernel.mem.node_data]
    assert lists[0] == [(0, "DMA32"), (0, "DMA"), (1, "DMA32"), (2, "Normal"), (3, "Normal")]
    assert [order[0][0] for order in lists] == [0, 1, 2, 3]
    assert [list(dict.fromkeys(node for node, _ in order)) for order in lists][3] == [3, 0, 1, 2]
    assert kernel.run(["true"]).status == 0


@pytest.mark.parametrize("option, nodes", [("numa=fake=3", 3), ("numa=fake=200M", 3), ("numa=fake=x", 1), ("numa=fake=100", 1)])
def test_nodes_are_made_up_on_the_command_line(run, option, nodes):
    """numa=fake=: every CPU is near to every node (numa_emulation.c)."""
    text = run("numactl -H", cmdline=f"oops=panic {option}").stdout.decode()
    assert text.startswith(f"available: {nodes} nodes") and text.count("cpus: 0 1 2 3") == nodes and "10  20" not in text


def test_numa_off(run):
    result = run("numactl -H; dmesg | grep NUMA", numa=2, cmdline="oops=panic numa=off").stdout
    assert b"available: 1 nodes (0)\n" in result and b"NUMA turned off" in result


def test_a_node_needs_32_mb(boot):
    with pytest.raises(ValueError, match="at least 32 MB"):
        boot(numa=2, memory=40 << 20)


# ---- numastat -------------------------------------------------------------------------------------------------------
def test_numastat_counts_hits_misses_and_strangers(run):
    """A214: __inc_numa_state. What node 1 cannot give is a miss of node 0 and foreign to node 1."""
    script = "numastat; numactl --preferred=1 python3 -c 'bytearray(70 << 20)'; echo; numastat"
    before, after = run(script, numa=2, memory=128 << 20).stdout.split(b"\n\n")
    before, after = counts(before), counts(after)
    assert before["numa_miss"] == before["numa_foreign"] == before["other_node"] == [0, 0]
    assert after["numa_miss"][0] == after["numa_foreign"][1] > 1000 and after["numa_foreign"][0] == after["numa_miss"][1] == 0
    assert after["other_node"][1] > 10000
    assert sum(after["numa_hit"] + after["numa_miss"]) == sum(after["local_node"] + after["other_node"])


def test_numastat_of_one_node_counts_each_allocation(run):
    """Fork, faults, page cache: with one node all of them are hits; vm.numa_stat=0 forgets them."""
    text = run("numastat; true | true; numastat; echo 0 > /proc/sys/vm/numa_stat; numastat; echo 1 > /proc/sys/vm/numa_stat; "
               "true | true; numastat; cat /proc/sys/vm/numa_stat /proc/sys/vm/numa_zonelist_order").stdout
    hits = [int(line.split()[1]) for line in text.splitlines() if line.startswith(b"numa_hit")]
    assert hits[1] - hits[0] > 50 and hits[2] == 0 and 50 < hits[3] < hits[0]
    assert text.endswith(b"1\nNode\n")


def test_the_tracer_sees_numa_state(run):
    """call_chains.toml: get_page_from_freelist -> __inc_numa_state, twice."""
    text = run("cd /sys/kernel/tracing; echo get_page_from_freelist > set_graph_function; echo function_graph > current_tracer; "
               "true; cat trace | grep -A2 'get_page_from_freelist() {'; echo nop > current_tracer", numa=2).stdout.decode()
    assert re.search(r"get_page_from_freelist\(\) \{\n(.*\n)?.*__inc_numa_state\(\);", text)


# ---- policies -------------------------------------------------------------------------------------------------------
def test_policies_of_a_task_decide_where_its_pages_come_from(run_c):
    """set_mempolicy(2): BIND, PREFERRED, INTERLEAVE, and the default: near the CPU."""
    result = run_c(HEAD + r"""
int main(void) {
    char *p = map(64); int seen[2] = {0}, n; cpu_set_t cpus;
    CHECK(!set(BIND, 2)); fill(p, 16); CHECK(all(p, 16, 1));
    CHECK(!set(PREFERRED, 1)); fill(p + 16 * P, 16); CHECK(all(p + 16 * P, 16, 0));
    CHECK(!set(INTERLEAVE, 3));
    for (int i = 32; i < 48; i++) { p[i * P] = 1; seen[node(p + i * P)]++; }
    CHECK(seen[0] == 8 && seen[1] == 8);
    CHECK(!syscall(SYS_get_mempolicy, &n, 0, 0, 0, 1) && (n == 0 || n == 1));
    CHECK(!syscall(SYS_set_mempolicy, DEFAULT, 0, 0));
    for (int cpu = 0; cpu < 4; cpu += 3) {
        unsigned at, near; char *q = map(4);
        CPU_ZERO(&cpus); CPU_SET(cpu, &cpus); CHECK(!sched_setaffinity(0, sizeof cpus, &cpus));
        CHECK(!syscall(SYS_getcpu, &at, &near, 0) && at == cpu && near == cpu / 2);
        fill(q, 4); CHECK(all(q, 4, cpu / 2)); }
    CHECK(set(BIND, 4) == -1 && errno == EINVAL);
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


def test_relative_nodes_and_static_ones(run_c):
    """MPOL_F_RELATIVE_NODES counts the nodes that are there, round and round; get_mempolicy(2) tells what was asked."""
    result = run_c(HEAD + r"""
int main(void) {
    char *p = map(8); int mode; unsigned long mask;
    CHECK(!set(BIND | 1 << 14, 8)); fill(p, 4); CHECK(all(p, 4, 1));
    CHECK(!syscall(SYS_get_mempolicy, &mode, &mask, 64L, 0, 0) && mode == (BIND | 1 << 14) && mask == 8);
    CHECK(!set(BIND | 1 << 15, 1)); fill(p + 4 * P, 4); CHECK(all(p + 4 * P, 4, 0));
    CHECK(set(BIND | 1 << 15, 4) == -1 && errno == EINVAL);
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


def test_mbind_moves_pages_or_tells_that_they_are_elsewhere(run_c):
    """mbind(2): MPOL_MF_MOVE moves, MPOL_MF_STRICT alone is EIO; new pages come from where the area says."""
    result = run_c(HEAD + r"""
int main(void) {
    char *p = fill(map(32), 16);
    CHECK(all(p, 16, 0));
    CHECK(mb(p, 16 * P, BIND, 2, STRICT) == -1 && errno == EIO);
    CHECK(!mb(p, 32 * P, BIND, 2, MOVE) && all(p, 16, 1) && intact(p, 16));
    fill(p, 32); CHECK(all(p, 32, 1));
    CHECK(!mb(p, 32 * P, INTERLEAVE, 3, MOVE | STRICT)); int n = 0; for (int i = 0; i < 32; i++) n += node(p + i * P);
    CHECK(n == 16 || n == 0 || n == 32); CHECK(intact(p, 32));
    CHECK(!munmap(p + 8 * P, P) && mb(p, 16 * P, BIND, 2, 0) == -1 && errno == EFAULT);
    CHECK(!mb(p, 16 * P, DEFAULT, 0, 0));                                    /* the default minds no holes */
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


def test_numactl_runs_programs_under_policies(run):
    """numactl(8): --membind, --interleave, --preferred, --localalloc, and numa_maps tells them."""
    text = run("for o in --membind=1 --interleave=all --preferred=1 --localalloc; do numactl $o cat /proc/self/numa_maps | grep stack; done; "
               "cat /proc/self/numa_maps | grep stack", numa=2).stdout.decode().splitlines()
    assert [re.sub(r"^\S+ (\S+) stack .*", r"\1", line) for line in text] == ["bind:1", "interleave:0-1", "prefer:1", "local", "default"]
    assert re.search(r" stack anon=\d+ dirty=\d+ (active=\d+ )?N1=\d+ kernelpagesize_kB=4$", text[0])


# ---- moving ---------------------------------------------------------------------------------------------------------
def test_move_pages(run_c):
    """move_pages(2): the status of each page; ENODEV for a node that is not there; a child's pages by MOVE_ALL only."""
    result = run_c(HEAD + r"""
int main(void) {
    char *p = fill(map(17), 16); int st[17], to[17], w;
    CHECK(!move(0, p, 17, 0, st, 0)); for (int i = 0; i < 16; i++) CHECK(st[i] == 0);
    CHECK(st[16] == -ENOENT);
    for (int i = 0; i < 17; i++) to[i] = i & 1;
    CHECK(!move(0, p, 17, to, st, MOVE)); for (int i = 0; i < 16; i++) CHECK(st[i] == (i & 1) && node(p + i * P) == st[i]);
    CHECK(st[16] == -ENOENT && intact(p, 16));
    to[0] = 1;
    if (!fork()) {
        CHECK(!move(0, p, 1, to, st, MOVE) && st[0] == -EACCES);
        CHECK(!move(0, p, 1, to, st, MOVE_ALL) && st[0] == 1 && node(p) == 1 && p[0] == 1);
        p[0] = 99; _exit(0); }
    wait(&w); CHECK(w == 0 && p[0] == 1 && node(p) == 1);
    CHECK(!move(0, (char *)P, 1, to, st, MOVE) && st[0] == -EFAULT);
    to[0] = 7; CHECK(move(0, p, 1, to, st, MOVE) == -1 && errno == ENODEV);
    CHECK(move(0, p, 1, to, st, 16) == -1 && errno == EINVAL);
    CHECK(move(99999, p, 1, to, st, MOVE) == -1 && errno == ESRCH);
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


@pytest.mark.parametrize("where", ["/tmp/x", "/root/x", "/dev/shm/x"])
def test_pages_of_files_move_with_what_was_written_to_them(run_c, where):
    """tmpfs, ext4 with its buffers: what was written before and after is in the file."""
    result = run_c(HEAD + r"""
int main(int c, char **v) {
    int fd = open(v[1], O_RDWR | O_CREAT, 0600), to[8], st[8]; char b[P];
    for (int i = 0; i < 8; i++) { memset(b, 'a' + i, P); CHECK(write(fd, b, P) == P); }
    char *f = mmap(0, 8 * P, 3, MAP_SHARED, fd, 0);
    for (int round = 1; round < 4; round++) {
        for (int i = 0; i < 8; i++) { f[i * P + round] = 'Z'; to[i] = !node(f + i * P); }
        CHECK(!move(0, f, 8, to, st, MOVE));
        for (int i = 0; i < 8; i++) CHECK(st[i] == to[i] && node(f + i * P) == to[i] && f[i * P] == 'a' + i);
        CHECK(!fsync(fd)); }
    CHECK(!munmap(f, 8 * P));
    for (int i = 0; i < 8; i++) CHECK(pread(fd, b, P, i * P) == P && b[0] == 'a' + i && b[1] == 'Z' && b[3] == 'Z' && b[4] == 'a' + i);
    return 0; }""", where, numa=2, home=True)
    assert result.status == 0, result.stdout


def test_migratepages_moves_a_process(run):
    """migrate_pages(2), migratepages(8): all of a process' own pages; what it runs goes on."""
    text = run("migratepages $$ 0 1; grep -c anon /proc/$$/numa_maps; grep 'anon.* N0=' /proc/$$/numa_maps; "
               "grep -c 'N1=' /proc/$$/numa_maps; grep pgmigrate /proc/vmstat", numa=2).stdout.decode()
    result = re.fullmatch(r"(\d+)\n(\d+)\npgmigrate_success (\d+)\npgmigrate_fail (\d+)\n", text)
    assert result and int(result[2]) >= int(result[1]) and int(result[3]) > 20, text


def test_locked_and_executable_pages_move(run_c):
    """mlock(2)ed pages stay unevictable; code that moved still runs, and changes of it are seen."""
    result = run_c(HEAD + r"""
int main(void) {
    unsigned char *p = mmap(0, P, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); int to = 1, st;
    memcpy(p, "\xb8\x07\x00\x00\x00\xc3", 6); CHECK(((int (*)(void))p)() == 7);
    CHECK(!mlock(p, P) && !move(0, (char *)p, 1, &to, &st, MOVE) && st == 1 && node(p) == 1);
    CHECK(((int (*)(void))p)() == 7); p[1] = 9; CHECK(((int (*)(void))p)() == 9);
    FILE *f = fopen("/proc/self/status", "r"); char line[200]; int locked = 0;
    while (fgets(line, 200, f)) sscanf(line, "VmLck: %d", &locked);
    return locked != 4; }""", numa=2)
    assert result.status == 0, result.stdout


def test_a_page_in_the_swap_cache_moves(run_c):
    """Swapped out, read back, moved while its slot is still its own."""
    result = run_c(HEAD + r"""
#include <sys/swap.h>
#include <sys/wait.h>
int main(void) {
    CHECK(system("dd if=/dev/zero of=/root/swap bs=64k count=64 2> /dev/null && mkswap /root/swap > /dev/null && swapon /root/swap") == 0);
    char *p = fill(map(16), 16); int to[16], st[16];
    CHECK(!madvise(p, 16 * P, 21));                                          /* MADV_PAGEOUT */
    for (int i = 0; i < 16; i++) { CHECK(*(volatile char *)(p + i * P)); to[i] = 1; }   /* read only: it stays in the cache */
    CHECK(!move(0, p, 16, to, st, MOVE)); for (int i = 0; i < 16; i++) CHECK(st[i] == 1);
    CHECK(intact(p, 16)); fill(p, 16); CHECK(intact(p, 16) && all(p, 16, 1));
    CHECK(!swapoff("/root/swap")); sync();
    return 0; }""".replace("#include <sys/wait.h>\n", "#include <stdlib.h>\n", 1), numa=2, home=True)
    assert result.status == 0, result.stdout


def test_a_transparent_huge_page_is_split_and_moves(run_c):
    """move_pages(2) of two of its pages, migrate_pages(2) of the rest."""
    result = run_c(HEAD + r"""
int main(void) {
    unsigned long size = 2 << 20, old = 1, new = 2; char *p = mmap(0, 2 * size, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p = (char *)(((unsigned long)p + size - 1) & -size);
    CHECK(!madvise(p, size, MADV_HUGEPAGE)); memset(p, 7, size);
    int to[2] = {1, 1}, st[2]; CHECK(node(p) == 0 && !move(0, p, 2, to, st, MOVE) && st[0] == 1 && st[1] == 1);
    CHECK(all(p, 2, 1) && all(p + 2 * P, 500, 0));
    CHECK(!syscall(SYS_migrate_pages, 0, 64L, &old, &new) && all(p, 512, 1));
    for (unsigned long i = 0; i < size; i++) CHECK(p[i] == 7);
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


def test_stress_ng_finds_nothing(run):
    """stress-ng --numa: policies, mbind, migrate_pages and move_pages at random, with --verify."""
    result = run("stress-ng --numa 1 --numa-ops 10 --verify 2>&1; grep pgmigrate_fail /proc/vmstat", numa=2)
    assert b"successful run completed" in result.stdout and b"fail:" not in result.stdout, result.stdout
    assert result.stdout.endswith(b"pgmigrate_fail 0\n")


def test_moves_are_traced(run):
    """mm_migrate_pages, as the captured format has it."""
    text = run("cd /sys/kernel/tracing; echo 1 > events/migrate/enable; migratepages $$ 0 1; grep mm_migrate trace", numa=2).stdout
    assert re.search(rb"mm_migrate_pages: nr_succeeded=\d+ nr_failed=0 nr_thp_succeeded=0 nr_thp_failed=0 nr_thp_split=0 "
                     rb"mode=MIGRATE_SYNC reason=syscall_or_cpuset\n", text), text


# ---- short of memory ------------------------------------------------------------------------------------------------
def test_each_node_has_a_kswapd_that_reclaims_its_pages(boot):
    """A file larger than its node is written while the other node has plenty free: only pages of the one are reclaimed."""
    kernel = boot(numa=2, memory=128 << 20, home=True)
    result = kernel.run(["/bin/sh", "-c", "pgrep -c ^kswapd; numactl --membind=1 dd if=/dev/zero of=/root/x bs=1M count=80 2> /dev/null; "
                         "grep pgsteal_kswapd /proc/vmstat; cat /sys/devices/system/node/node0/numastat"])
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "2" and int(lines[1].split()[1]) > 1000 and "numa_miss 0" in lines
    mem = kernel.mem
    free = [sum(zone.nr_free for zone in pgdat.node_zones) for pgdat in mem.node_data]
    assert free[0] > 10000 > free[1]
    cached = [page_to_nid(mem, pfn) for pfn, mapping in mem.mapping.items() if len(mapping.pages) > 5000]
    assert len(cached) > 5000 and cached.count(1) > len(cached) * 0.99


def test_who_is_bound_to_a_full_node_is_killed_for_it(boot):
    """CONSTRAINT_MEMORY_POLICY: node 0 has memory, but may not be used."""
    kernel = boot(numa=2, memory=128 << 20)
    result = kernel.run(["numactl", "--membind=1", "python3", "-c", "bytearray(70 << 20)"])
    log = kernel.dmesg()
    assert result.status == 137 and "oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask=1,cpuset=/,mems_allowed=0-1,task=python3" in log
    assert re.search(r"Node 1 DMA32 free:\d+kB min:", log)


# ---- neighbours -----------------------------------------------------------------------------------------------------
CPUSET = """cd /sys/fs/cgroup/cpuset || exit 9
cat cpuset.mems; mkdir a; cd a; echo 0-3 > cpuset.cpus; echo 1 > cpuset.mems; echo 1 > cpuset.memory_migrate
"""


def test_a_cpuset_confines_memory(run):
    """cpuset.mems: pages come from its nodes, policies are for them, and with memory_migrate pages follow."""
    text = run(CPUSET + "echo $$ > tasks; grep Mems_allowed_list /proc/self/status; grep -c 'anon.*N0' /proc/$$/numa_maps; "
               "grep stack /proc/self/numa_maps | grep -o N1; numactl -s | grep ^membind; numactl --membind=0 true; "
               "numactl --interleave=all cat /proc/self/numa_maps | grep -o interleave:. | sort -u; "
               "echo 0-1 > cpuset.mems; echo 0 > cpuset.mems; grep -c 'anon.*N1' /proc/$$/numa_maps; grep Mems_allowed_list /proc/self/status; "
               "echo 7 > cpuset.mems", numa=2)
    assert text.stdout == (b"0-1\nMems_allowed_list:\t1\n0\nN1\nmembind: 1 \n<0> is invalid\ninterleave:1\n0\n"
                           b"Mems_allowed_list:\t0\n")
    assert text.status == 1                                  # there is no node 7


def test_policies_follow_their_cpuset(run_c):
    """mpol_rebind_policy(): bound to node 0, the task is bound to node 1 when its group has only that; static ones stay."""
    result = run_c(HEAD + r"""
#include <stdlib.h>
static int bound(void) { int mode; unsigned long mask; syscall(SYS_get_mempolicy, &mode, &mask, 64L, 0, 0); return mask; }
int main(void) {
    CHECK(!set(BIND, 1));
    char *p = map(8), sh[200]; CHECK(!mb(p, 4 * P, PREFERRED, 1, 0)); fill(p, 2); CHECK(all(p, 2, 0) && bound() == 1);
    sprintf(sh, "mkdir -p /tmp/c; mount -t cgroup -o cpuset none /tmp/c; cd /tmp/c; mkdir a; cd a; echo 0-3 > cpuset.cpus; "
            "echo 1 > cpuset.mems; echo %d > tasks", getpid()); CHECK(!system(sh));
    CHECK(bound() == 2); fill(p, 8); CHECK(all(p, 2, 0) && all(p + 2 * P, 6, 1));
    return 0; }""", numa=2)
    assert result.status == 0, result.stdout


def test_a_task_that_wakes_up_stays_on_its_node(run):
    """The scheduler looks for an idle CPU in the node first: two programs that talk to each other keep their memory near."""
    text = run(["/bin/bash", "-c", "while read x; do cut -d' ' -f39 /proc/$$/stat; done < <(for i in 1 2 3 4 5 6; do echo; sleep 0.01; done)"],
               numa=2).stdout
    cpus = {int(n) // 2 for n in text.split()}
    assert len(text.split()) == 6 and len(cpus) == 1


def test_new_tasks_spread_over_all_nodes(run):
    """Four programs that compute: each gets a CPU, though two of the CPUs are far."""
    text = run("for i in 1 2 3 4; do python3 -c \"sum(range(300000)); print(open('/proc/self/stat').read().split()[38])\" & done; wait", numa=2)
    assert len(set(text.stdout.split())) >= 3


# ---- shared memory --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["mmap", "shm"])
def test_a_policy_of_shared_memory_is_for_everybody_who_maps_it(run_c, kind):
    """mbind(2) of shared memory belongs to the object: another process' faults obey it, and the rest of it does not."""
    result = run_c(HEAD + r"""
#include <sys/shm.h>
int main(int c, char **v) {
    int w, id = shmget(IPC_PRIVATE, 32 * P, 0600 | IPC_CREAT); cpu_set_t cpus;
    CPU_ZERO(&cpus); CPU_SET(0, &cpus); CHECK(!sched_setaffinity(0, sizeof cpus, &cpus));
    char *p = v[1][0] == 's' ? shmat(id, 0, 0) : mmap(0, 32 * P, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED && !mb(p, 24 * P, BIND, 2, 0) && !mb(p + 8 * P, 8 * P, INTERLEAVE, 3, 0));
    shmctl(id, IPC_RMID, 0);
    if (!fork()) { int mode, far = 0; fill(p, 32);
        CHECK(all(p, 8, 1) && all(p + 16 * P, 8, 1) && all(p + 24 * P, 8, 0));
        for (int i = 8; i < 16; i++) far += node(p + i * P);
        CHECK(far == 4 && !syscall(SYS_get_mempolicy, &mode, 0, 0, p + 9 * P, 2) && mode == INTERLEAVE);
        _exit(0); }
    wait(&w); CHECK(w == 0 && intact(p, 32));
    CHECK(!mb(p, 32 * P, DEFAULT, 0, 0));
    return 0; }""", kind, numa=2)
    assert result.status == 0, result.stdout
