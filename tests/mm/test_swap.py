"""Swap areas: swapon(2) and swapoff(2) with Debian's mkswap, pages on their way out and back, and who shares them."""
import hashlib
import re

import pytest

from glasskernel import Share
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.machine.disk import Disk
from glasskernel.mm.page_alloc import PSWPIN, PSWPOUT
from tests.conftest import ENV, need
from tests.trace.call_graph import CallGraph

HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#define PAGE 4096ul
#define PAGEOUT 21
static unsigned char *anon(size_t pages)
{ return mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static void fill(unsigned char *p, size_t pages, unsigned seed)
{ for (size_t i = 0; i < pages; i++) memset(p + i * PAGE, (seed + i) * 7 & 255, PAGE); }
static int same(unsigned char *p, size_t pages, unsigned seed)
{ for (size_t i = 0; i < pages; i++) for (size_t j = 0; j < PAGE; j += 511)
    if (p[i * PAGE + j] != ((seed + i) * 7 & 255)) { printf("page %zu\n", i); return 0; }
  return 1; }
static long status_kb(const char *key)
{ char line[256]; long kb = -1; FILE *f = fopen("/proc/self/status", "r");
  while (fgets(line, sizeof line, f)) if (!strncmp(line, key, strlen(key))) kb = atol(line + strlen(key) + 1);
  fclose(f); return kb; }
static int reader(void *p) { return !same(p, 256, 1); }
static pid_t clone_reader(void *p)
{ return clone(reader, (char *)malloc(65536) + 65536, CLONE_VM | SIGCHLD, p); }
#define CHECK(x) do { if (!(x)) { printf("line %d: %s errno %d\n", __LINE__, #x, errno); exit(1); } } while (0)
"""


class Machine:
    """A small machine with swap disks sda, sdb, ... (made by mkswap), and C programs."""

    def __init__(self, boot, build_c, tmp_path):
        self.boot, self.build_c, self.tmp_path = boot, build_c, tmp_path

    def start(self, *sizes, megabytes=64, **options):
        self.disks = [Disk(size=size << 20) for size in sizes]
        self.kernel = self.boot(memory=megabytes << 20, disks=self.disks,
                                shares=[Share(str(self.build_c("int main(void) { return 0; }").parent), "/programs")],
                                **options)
        for i, _ in enumerate(sizes):
            self.sh(f"mkswap /dev/sd{chr(97 + i)}")
        return self

    def sh(self, script, check=True):
        result = self.kernel.run(["/bin/sh", "-c", script], env=ENV)
        assert not check or result.status == 0, (script, result.stdout, result.stderr)
        return result.stdout.decode()

    def c(self, body, *argv):
        program = self.build_c(HEAD + "int main(int argc, char **argv) { (void)argc; (void)argv;\n" + body
                               + "\nreturn 0; }\n")
        result = self.kernel.run([f"/programs/{program.name}", *argv], env=ENV)
        assert result.status == 0, (result.stdout, result.stderr, self.kernel.dmesg()[-500:])
        return result.stdout.decode()

    def event(self, which):
        return self.kernel.mem.vm_event[which]


@pytest.fixture
def machine(boot, build_c, tmp_path):
    for tool in ("mkswap", "swapon", "swapoff"):
        need(tool, "util-linux mount")
    return Machine(boot, build_c, tmp_path)


# ---- swapon, swapoff -------------------------------------------------------------------------------------------
def test_a_swap_disk_shows_in_proc_swaps_free_and_sysinfo(machine):
    """swapon(8), free(1), sysinfo(2)"""
    need("free", "procps")
    out = machine.start(16).sh("swapon /dev/sda && cat /proc/swaps && free -k && swapon --show=NAME,TYPE,SIZE,PRIO --noheadings")
    assert "/dev/sda                                partition\t16380\t\t0\t\t-2\n" in out
    assert re.search(r"^Swap: +16380 +0 +16380$", out, re.M)
    assert out.splitlines()[-1].split() == ["/dev/sda", "partition", "16M", "-2"]
    assert machine.c("struct sysinfo s; sysinfo(&s); printf(\"%lu %lu\", s.totalswap * s.mem_unit, s.freeswap);"
                     ) == f"{16380 << 10} {16380 << 10}"
    assert "Adding 16380k swap on /dev/sda.  Priority:-2 extents:0 across:16380k SS" in machine.kernel.dmesg()
    assert machine.sh("swapoff /dev/sda; cat /proc/swaps; grep SwapTotal /proc/meminfo").split("\n")[1:] == [
        "SwapTotal:             0 kB", ""]


def test_priorities_and_the_order_of_areas(machine):
    """swapon(2): by default areas have low, falling priorities; pages go to the highest one first."""
    machine.start(8, 8, 8)
    out = machine.sh("swapon /dev/sda; swapon /dev/sdb; swapon -p 5 /dev/sdc; tail -n +2 /proc/swaps")
    assert [line.split()[-1] for line in out.splitlines()] == ["-2", "-3", "5"]
    out = machine.c("""unsigned char *p = anon(256); fill(p, 256, 1); CHECK(!madvise(p, 256 * PAGE, PAGEOUT));
        system("tail -n +2 /proc/swaps"); CHECK(same(p, 256, 1));""")
    assert [int(line.split()[3]) for line in out.splitlines()] == [0, 0, 1024]
    out = machine.sh("swapoff /dev/sda; tail -n +2 /proc/swaps")
    assert [line.split()[-1] for line in out.splitlines()] == ["-2", "5"]


def test_areas_of_the_same_priority_take_turns(machine):
    machine.start(8, 8)
    out = machine.c("""CHECK(!swapon("/dev/sda", SWAP_FLAG_PREFER | 3)); CHECK(!swapon("/dev/sdb", SWAP_FLAG_PREFER | 3));
        unsigned char *p = anon(100); fill(p, 100, 1); CHECK(!madvise(p, 100 * PAGE, PAGEOUT));
        system("tail -n +2 /proc/swaps"); CHECK(same(p, 100, 1));""")
    assert [int(line.split()[3]) for line in out.splitlines()] == [200, 200]


def test_what_swapon_and_swapoff_refuse(machine):
    """swapon(2): EINVAL without a header, for flags, for a hole; EBUSY; EPERM; ENOENT"""
    machine.start(8, 8)
    machine.c(r"""
        CHECK(swapoff("/dev/sda") == -1 && errno == EINVAL);
        CHECK(!swapon("/dev/sda", 0));
        CHECK(swapon("/dev/sda", 0) == -1 && errno == EBUSY);
        CHECK(swapon("/dev/sdb", 0x80000) == -1 && errno == EINVAL);
        CHECK(swapon("/nowhere", 0) == -1 && errno == ENOENT);
        CHECK(swapoff("/nowhere") == -1 && errno == ENOENT);
        CHECK(swapoff("/dev/sdb") == -1 && errno == EINVAL);
        int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600); CHECK(!ftruncate(fd, 1 << 20));
        CHECK(swapon("/tmp/f", 0) == -1 && errno == EINVAL);
        CHECK(swapon("/tmp", 0) == -1 && errno == EISDIR);
        int disk = open("/dev/sda", O_RDWR); CHECK(disk >= 0); CHECK(write(disk, "x", 1) == -1 && errno == ETXTBSY);
        disk = open("/dev/sdb", O_RDWR); CHECK(write(disk, HEADER, 1024) == 1024); fsync(disk); close(disk);
        disk = open("/dev/sdb", O_RDWR); char magic[10] = {0}; CHECK(pwrite(disk, magic, 10, 4086) == 10); close(disk);
        CHECK(swapon("/dev/sdb", 0) == -1 && errno == EINVAL);
        CHECK(!setuid(1000));
        CHECK(swapon("/dev/sdb", 0) == -1 && errno == EPERM);
        CHECK(swapoff("/dev/sda") == -1 && errno == EPERM);
    """.replace("HEADER", '"' + "a" * 1024 + '"'))
    assert "Unable to find swap-space signature" in machine.kernel.dmesg()


def test_a_swap_file_on_ext4(machine):
    """A file with blocks for every page; while it is in use it cannot be written, truncated or removed."""
    machine.kernel = machine.boot(home=True, memory=64 << 20, shares=[
        Share(str(machine.build_c("int main(void) { return 0; }").parent), "/programs")])
    machine.sh("cd /root; dd if=/dev/zero of=swapfile bs=1M count=16 2>/dev/null; chmod 600 swapfile; mkswap swapfile; "
               "truncate -s 8M holes; cp --sparse=always swapfile holes")
    machine.c(r"""
        CHECK(swapon("/root/holes", 0) == -1 && errno == EINVAL);
        CHECK(!swapon("/root/swapfile", 0));
        CHECK(swapon("/root/swapfile", 0) == -1 && errno == EBUSY);
        int fd = open("/root/swapfile", O_RDWR); CHECK(fd >= 0);
        CHECK(write(fd, "x", 1) == -1 && errno == ETXTBSY);
        CHECK(ftruncate(fd, 4096) == -1 && errno == ETXTBSY);
        CHECK(unlink("/root/swapfile") == -1 && errno == EPERM);
        unsigned char *p = anon(1000); fill(p, 1000, 3);
        CHECK(!madvise(p, 1000 * PAGE, PAGEOUT)); CHECK(status_kb("VmSwap:") == 4000);
        CHECK(same(p, 1000, 3));
        CHECK(!madvise(p, 1000 * PAGE, PAGEOUT)); CHECK(!swapoff("/root/swapfile")); CHECK(same(p, 1000, 3));
        CHECK(!unlink("/root/swapfile"));
    """)
    log = machine.kernel.dmesg()
    assert "swapon: swapfile has holes" in log
    assert re.search(r"Adding 16380k swap on /root/swapfile.  Priority:-2 extents:\d+ across:\d+k", log)


# ---- pages out and back ----------------------------------------------------------------------------------------
def test_pages_go_out_and_come_back_with_their_neighbours(machine):
    """MADV_PAGEOUT; VmSwap, smaps, pagemap and mincore know where the pages are; a touch is a major fault."""
    out = machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        unsigned char *p = anon(512), vec[512]; fill(p, 512, 9);
        CHECK(!madvise(p, 512 * PAGE, PAGEOUT)); CHECK(status_kb("VmSwap:") == 2048);
        CHECK(!madvise(p, 512 * PAGE, PAGEOUT));                     /* those that were still being written */
        char line[256]; long swap = -1; FILE *f = fopen("/proc/self/smaps", "r"); int ours = 0;
        while (fgets(line, sizeof line, f)) {
            unsigned long start, end;
            if (sscanf(line, "%lx-%lx", &start, &end) == 2) ours = start <= (unsigned long)p && (unsigned long)p < end;
            if (ours && !strncmp(line, "Swap:", 5)) swap = atol(line + 5); }
        CHECK(swap == 2048);
        uint64_t pm[512]; int fd = open("/proc/self/pagemap", O_RDONLY);
        CHECK(pread(fd, pm, sizeof pm, (uintptr_t)p / PAGE * 8) == sizeof pm);
        for (int i = 0; i < 512; i++) CHECK(pm[i] >> 62 == 1 && (pm[i] & 31) == 0);
        CHECK(same(p, 512, 9)); CHECK(status_kb("VmSwap:") == 0);
        CHECK(!mincore(p, 512 * PAGE, vec)); for (int i = 0; i < 512; i++) CHECK(vec[i] & 1);
        CHECK(!munmap(p, 512 * PAGE)); printf("ok");
    """)
    assert out == "ok"
    assert machine.event(PSWPOUT) == 512
    assert machine.event(PSWPIN) <= 512
    assert "pswpout 512" in machine.sh("cat /proc/vmstat").splitlines()


def test_a_forked_child_shares_slots_and_each_writes_its_own_copy(machine):
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        unsigned char *p = anon(256); fill(p, 256, 1); CHECK(!madvise(p, 256 * PAGE, PAGEOUT));
        for (int round = 0; round < 3; round++) {
            pid_t pid = fork();
            if (!pid) {
                CHECK(status_kb("VmSwap:") == (round == 1 ? 0 : 1024)); CHECK(same(p, 256, 1)); fill(p, 128, 77);
                CHECK(!madvise(p, 256 * PAGE, PAGEOUT)); CHECK(same(p, 128, 77)); CHECK(same(p + 128 * PAGE, 128, 129));
                _exit(0); }
            if (round == 0) CHECK(same(p, 256, 1));
            int st; CHECK(waitpid(pid, &st, 0) == pid && !st); CHECK(same(p, 256, 1));
            if (round == 1) CHECK(!madvise(p, 256 * PAGE, PAGEOUT));
        }
        CHECK(!munmap(p, 256 * PAGE));
    """)


def test_a_slot_has_as_many_users_as_there_are_children(machine):
    """More than SWAP_MAP_MAX (62) of them: the count goes on elsewhere."""
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        unsigned char *p = anon(2); fill(p, 2, 5); CHECK(!madvise(p, 2 * PAGE, PAGEOUT)); CHECK(!madvise(p, 2 * PAGE, PAGEOUT));
        int hold[2]; CHECK(!pipe(hold)); char c;
        for (int i = 0; i < 70; i++) if (!fork()) { close(hold[1]); read(hold[0], &c, 1); _exit(!same(p, 2, 5)); }
        system("awk '{print $4}' /proc/swaps | tail -1");
        close(hold[1]);
        for (int i = 0; i < 70; i++) { int st; CHECK(wait(&st) > 0 && !st); }
        CHECK(same(p, 2, 5));
    """)


def test_swapoff_brings_everything_back_from_every_process(machine):
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        unsigned char *p = anon(300), *q = anon(100); fill(p, 300, 1); fill(q, 100, 2);
        int shm = memfd_create("m", 0); CHECK(!ftruncate(shm, 64 * PAGE));
        unsigned char *s = mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0); fill(s, 64, 3);
        CHECK(!madvise(p, 300 * PAGE, PAGEOUT)); CHECK(!madvise(s, 64 * PAGE, PAGEOUT));
        int hold[2]; CHECK(!pipe(hold)); char c; pid_t pid = fork();
        if (!pid) { close(hold[1]); read(hold[0], &c, 1);
            _exit(!(same(p, 300, 1) && same(q, 100, 2) && same(s, 64, 3) && status_kb("VmSwap:") == 0)); }
        CHECK(!madvise(q, 100 * PAGE, PAGEOUT));
        CHECK(!swapoff("/dev/sda")); CHECK(status_kb("VmSwap:") == 0);
        CHECK(same(p, 300, 1)); CHECK(same(q, 100, 2)); CHECK(same(s, 64, 3));
        close(hold[1]); int st; CHECK(waitpid(pid, &st, 0) == pid && !st);
        CHECK(!swapon("/dev/sda", 0));
    """)


def test_a_swapoff_that_is_killed_leaves_the_area_in_use(machine):
    machine.start(32).c(r"""
        CHECK(!swapon("/dev/sda", 0)); unsigned char *p = anon(6000); fill(p, 6000, 1);
        CHECK(!madvise(p, 6000 * PAGE, PAGEOUT)); usleep(200000); CHECK(same(p, 6000, 1)); CHECK(!madvise(p, 6000 * PAGE, PAGEOUT));
        pid_t pid = fork(); if (!pid) _exit(swapoff("/dev/sda"));
        usleep(300); kill(pid, SIGKILL);
        int st; CHECK(waitpid(pid, &st, 0) == pid && WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
        long left = status_kb("VmSwap:"), size = 0, prio = 0; FILE *f = popen("tail -n +2 /proc/swaps", "r");
        CHECK(fscanf(f, "/dev/sda partition %ld %*d %ld", &size, &prio) == 2 && size == 32764 && prio == -2); pclose(f);
        unsigned char *q = anon(10); fill(q, 10, 2); CHECK(!madvise(q, 10 * PAGE, PAGEOUT));
        CHECK(status_kb("VmSwap:") == left + 40); CHECK(same(p, 6000, 1) && same(q, 10, 2));
        CHECK(!swapoff("/dev/sda"));
    """)


def test_swapoff_needs_the_memory(machine):
    """swapoff(2): ENOMEM; under vm.overcommit_memory 2 it must fit into the limit."""
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0)); unsigned char *p = anon(64); fill(p, 64, 1); CHECK(!madvise(p, 64 * PAGE, PAGEOUT));
        system("echo 1 > /proc/sys/vm/overcommit_ratio; echo 2 > /proc/sys/vm/overcommit_memory");
        CHECK(swapoff("/dev/sda") == -1 && errno == ENOMEM);
        system("echo 0 > /proc/sys/vm/overcommit_memory");
        CHECK(same(p, 64, 1)); CHECK(!swapoff("/dev/sda"));
    """)


def test_tmpfs_and_shared_memory_go_to_the_swap_area(machine):
    """Read, written, mapped, truncated, punched and unlinked: a file of tmpfs does not show where its pages are."""
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600); static unsigned char b[PAGE];
        for (int i = 0; i < 200; i++) { memset(b, (4 + i) * 7 & 255, PAGE); CHECK(write(fd, b, PAGE) == (long)PAGE); }
        unsigned char *m = mmap(0, 200 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); CHECK(same(m, 200, 4));
        CHECK(!madvise(m, 200 * PAGE, PAGEOUT)); CHECK(!madvise(m, 200 * PAGE, PAGEOUT));
        long used; FILE *f = popen("tail -1 /proc/swaps | awk '{print $4}'", "r"); CHECK(fscanf(f, "%ld", &used) == 1);
        CHECK(used >= 800); pclose(f);
        for (int i = 0; i < 50; i++) { CHECK(pread(fd, b, PAGE, i * PAGE) == (long)PAGE);
            for (unsigned j = 0; j < PAGE; j++) CHECK(b[j] == ((4 + i) * 7 & 255)); }
        CHECK(same(m, 100, 4));
        m[150 * PAGE] ^= 1; CHECK(pread(fd, b, 2, 150 * PAGE) == 2 && b[0] == ((154 * 7 & 255) ^ 1) && b[1] == (154 * 7 & 255));
        m[150 * PAGE] ^= 1; CHECK(pwrite(fd, "x", 1, 199 * PAGE) == 1 && m[199 * PAGE] == 'x');
        CHECK(!madvise(m, 200 * PAGE, PAGEOUT)); CHECK(!madvise(m, 200 * PAGE, PAGEOUT));
        CHECK(lseek(fd, 0, SEEK_HOLE) == 200 * (long)PAGE);
        CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * PAGE + 100, 20 * PAGE));
        CHECK(m[10 * PAGE + 99] == (14 * 7 & 255) && !m[10 * PAGE + 100] && !m[20 * PAGE] && !m[30 * PAGE + 99]);
        CHECK(m[30 * PAGE + 100] == (34 * 7 & 255));
        CHECK(!ftruncate(fd, 60 * PAGE + 7)); CHECK(!ftruncate(fd, 200 * PAGE)); CHECK(m[60 * PAGE + 6] == (64 * 7 & 255));
        CHECK(!m[60 * PAGE + 7] && !m[61 * PAGE] && same(m + 31 * PAGE, 29, 35));
        CHECK(!unlink("/tmp/f")); CHECK(!munmap(m, 200 * PAGE)); close(fd);
        f = popen("tail -1 /proc/swaps | awk '{print $4}'", "r"); CHECK(fscanf(f, "%ld", &used) == 1); pclose(f);
        CHECK(used == 0);
    """)


def test_what_unmaps_protects_moves_and_shares_memory_knows_swapped_pages(machine):
    """munmap, mprotect, mremap, MADV_DONTNEED, MADV_WILLNEED, MADV_FREE, MADV_WIPEONFORK, mlock"""
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0));
        unsigned char *p = anon(64); fill(p, 64, 1); CHECK(!madvise(p, 64 * PAGE, PAGEOUT));
        CHECK(!munmap(p + 16 * PAGE, 8 * PAGE)); CHECK(status_kb("VmSwap:") == 56 * 4);
        CHECK(!mprotect(p, 8 * PAGE, PROT_READ)); CHECK(same(p, 8, 1)); CHECK(!mprotect(p, 8 * PAGE, PROT_READ | PROT_WRITE));
        p[0] = 0; CHECK(same(p + PAGE, 7, 2));
        unsigned char *q = mremap(p + 24 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 16 * PAGE);
        CHECK(q == p + 16 * PAGE); CHECK(same(q, 8, 25));
        CHECK(!madvise(q, 8 * PAGE, PAGEOUT)); CHECK(same(q, 8, 25));
        CHECK(!madvise(p + 32 * PAGE, 8 * PAGE, MADV_DONTNEED)); CHECK(!p[32 * PAGE] && !p[39 * PAGE]);
        CHECK(!madvise(p + 40 * PAGE, 8 * PAGE, MADV_WILLNEED)); CHECK(same(p + 40 * PAGE, 8, 41));
        CHECK(!madvise(p + 48 * PAGE, 8 * PAGE, MADV_FREE));
        CHECK(!madvise(p + 56 * PAGE, 8 * PAGE, MADV_WIPEONFORK));
        pid_t pid = fork(); if (!pid) _exit(p[56 * PAGE] || p[63 * PAGE]);
        int st; CHECK(waitpid(pid, &st, 0) == pid && !st);
        CHECK(status_kb("VmSwap:") == 64); CHECK(!mlock(p + 56 * PAGE, 8 * PAGE)); CHECK(status_kb("VmSwap:") == 32); CHECK(same(p + 56 * PAGE, 8, 57));
        CHECK(madvise(p + 56 * PAGE, 8 * PAGE, PAGEOUT) == -1 && errno == EINVAL);
    """)


def test_private_pages_of_a_file_are_anonymous_and_swap(machine):
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0)); int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600); CHECK(!ftruncate(fd, 32 * PAGE));
        unsigned char *p = mmap(0, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0); fill(p, 16, 8);
        CHECK(!madvise(p, 32 * PAGE, PAGEOUT)); CHECK(status_kb("VmSwap:") == 64); CHECK(same(p, 16, 8) && !p[20 * PAGE]);
        CHECK(!ftruncate(fd, 0)); CHECK(!madvise(p, 32 * PAGE, PAGEOUT));
    """)


@pytest.mark.patience(120)
def test_a_program_of_three_times_the_memory_reads_back_what_it_wrote(machine):
    """swap_test: random bytes, three times the RAM; kswapd and direct reclaim swap."""
    machine.start(128, megabytes=32)
    out = machine.sh("swapon /dev/sda") + machine.c(r"""
        size_t n = (96 << 20) / 8; uint64_t *p = mmap(0, n * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), s = 88172645463325252u;
        for (size_t i = 0; i < n; i++) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; p[i] = s; }
        s = 88172645463325252u; size_t bad = 0;
        for (size_t i = 0; i < n; i++) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; bad += p[i] != s; }
        printf("%zu %ld", bad, status_kb("VmSwap:"));""")
    bad, swapped = map(int, out.split())
    assert bad == 0
    assert swapped > 60 << 10
    assert machine.event(PSWPOUT) > 17000


def test_two_threads_touch_the_same_swapped_pages(machine):
    """Whoever comes second waits for the page, or starts again."""
    machine.start(16).c(r"""
        CHECK(!swapon("/dev/sda", 0)); unsigned char *p = anon(256); fill(p, 256, 1);
        CHECK(!madvise(p, 256 * PAGE, PAGEOUT));
        pid_t pid[3]; for (int k = 0; k < 3; k++) { pid[k] = clone_reader(p); CHECK(pid[k] > 0); }
        for (int k = 0; k < 3; k++) { int st; CHECK(waitpid(pid[k], &st, __WALL) == pid[k] && !st); }
        CHECK(same(p, 256, 1));
    """)


@pytest.mark.patience(120)
def test_swap_test_in_python(machine):
    """The seed's swap_test.py, smaller: blocks of 2 MB of random bytes, more than there is memory."""
    machine.start(96, megabytes=48)
    out = machine.sh("""swapon /dev/sda; python3 -S -c '
import hashlib, os
blocks, sums = [], []
for i in range(32):
    block = os.urandom(65536) * 32
    blocks.append(block)
    sums.append(hashlib.md5(block).digest())
print([hashlib.md5(b).digest() for b in blocks] == sums)'; grep -E "^(SwapTotal|SwapFree|SwapCached)" /proc/meminfo""")
    assert out.startswith("True\n")
    assert machine.event(PSWPOUT) > 5000
    assert machine.event(PSWPIN) > 5000


def test_a_page_that_cannot_be_read_raises_sigbus_one_that_cannot_be_written_stays(machine):
    machine.start(16)
    disk = machine.disks[0]
    # The program tells us by its oom_score_adj when the disk shall break.
    tracepoint_probe_register(machine.kernel, "oom_score_adj_update", lambda task: disk.faults.bad_sectors.append((8, 1 << 20)))
    machine.c(r"""
        CHECK(!swapon("/dev/sda", 0)); unsigned char *p = anon(4), *q = anon(16); fill(p, 4, 1); fill(q, 16, 2);
        CHECK(!madvise(p, 4 * PAGE, PAGEOUT)); usleep(100000); CHECK(same(p, 4, 1));
        CHECK(!madvise(p, 4 * PAGE, PAGEOUT));                       /* clean, and on the disk: they leave the swap cache */
        FILE *f = fopen("/proc/self/oom_score_adj", "w"); fputs("1", f); fclose(f);
        CHECK(!madvise(q, 16 * PAGE, PAGEOUT)); usleep(100000); CHECK(same(q, 16, 2));
        for (int i = 0; i < 4; i++) {
            pid_t pid = fork(); if (!pid) _exit(p[i * PAGE]);
            int st; CHECK(waitpid(pid, &st, 0) == pid && WIFSIGNALED(st) && WTERMSIG(st) == SIGBUS); }
    """)
    assert "Write-error on swap-device (8:0:" in machine.kernel.dmesg()
    assert "Read-error on swap-device (8:0:" in machine.kernel.dmesg()


EDGES = """
madvise_cold_or_pageout_pte_range vm_normal_page|madvise_cold_or_pageout_pte_range isolate_lru_page
madvise_cold_or_pageout_pte_range reclaim_pages|reclaim_pages shrink_page_list|shrink_page_list add_to_swap
page_referenced rmap_walk|rmap_walk rmap_walk_anon|rmap_walk_anon page_lock_anon_vma_read
rmap_walk_anon anon_vma_interval_tree_iter_first|rmap_walk_anon page_referenced_one|rmap_walk_anon try_to_unmap_one
page_lock_anon_vma_read page_mapped|page_referenced_one page_vma_mapped_walk|page_vma_mapped_walk check_pte
page_referenced_one ptep_clear_flush_young|try_to_unmap rmap_walk|try_to_unmap_one page_vma_mapped_walk
try_to_unmap_one ptep_clear_flush|try_to_unmap_one set_page_dirty|try_to_unmap_one swap_duplicate
try_to_unmap_one page_remove_rmap|ptep_clear_flush flush_tlb_mm_range|add_to_swap get_swap_page
get_swap_page get_swap_pages|get_swap_pages scan_swap_map_slots|scan_swap_map_slots swap_range_alloc
add_to_swap add_to_swap_cache|add_to_swap set_page_dirty|set_page_dirty swap_set_page_dirty
swap_set_page_dirty __set_page_dirty_no_writeback|swap_duplicate __swap_duplicate|pageout clear_page_dirty_for_io
pageout swap_writepage|swap_writepage try_to_free_swap|try_to_free_swap page_swapcount|page_swapcount _swap_info_get
swap_writepage __swap_writepage|__swap_writepage get_swap_bio|get_swap_bio bio_alloc_bioset|get_swap_bio map_swap_page
map_swap_page offset_to_swap_extent|get_swap_bio bio_add_page|__swap_writepage __test_set_page_writeback
__swap_writepage unlock_page|__swap_writepage submit_bio|do_swap_page lookup_swap_cache
lookup_swap_cache pagecache_get_page|do_swap_page do_page_add_anon_rmap|do_page_add_anon_rmap __page_set_anon_rmap
do_swap_page swap_free|swap_free _swap_info_get|swap_free __swap_entry_free|__swap_entry_free __swap_entry_free_locked
do_swap_page unlock_page|do_wp_page wp_page_copy|wp_page_copy page_add_new_anon_rmap|wp_page_copy page_remove_rmap
"""


def test_the_call_graphs_are_those_of_a_real_kernel(machine):
    """edges/c-swapout.txt and c-swap.txt of the reference: paging out, and touching what is still in the swap cache"""
    machine.start(16).sh("swapon /dev/sda")
    program = machine.build_c(HEAD + r"""int main(void) { unsigned char *p = anon(256); fill(p, 256, 1);
        CHECK(!madvise(p, 256 * PAGE, PAGEOUT)); for (int i = 0; i < 256; i++) p[i * PAGE]++; return 0; }""")
    with CallGraph(machine.kernel) as graph:
        assert machine.kernel.run([f"/programs/{program.name}"], env=ENV).status == 0
    wanted = [tuple(edge.split()) for edge in EDGES.replace("\n", "|").split("|") if edge]
    assert len(wanted) > 55
    assert [edge for edge in wanted if edge not in graph.edges] == []


@pytest.mark.patience(120)
def test_a_tmpfs_larger_than_memory_and_the_same_again(machine):
    """tmpfs(5): it lives in memory and swap. The same run takes the same virtual time, and swaps the same pages."""
    seen = []
    for _ in range(2):
        machine.start(96, megabytes=32)
        seen.append(machine.sh("""swapon /dev/sda; mkdir /tmp/m; mount -t tmpfs -o size=64m none /tmp/m
            seq 1 6000000 | head -c 41943040 > /tmp/m/f; md5sum < /tmp/m/f; df -k /tmp/m | tail -1
            grep -E "^(pswp|pgsteal|pgscan|pgmajfault)" /proc/vmstat; cat /proc/uptime; umount /tmp/m; tail -n +2 /proc/swaps; swapoff /dev/sda"""))
    digest = hashlib.md5("".join(f"{i}\n" for i in range(1, 6000001)).encode()[:41943040]).hexdigest()
    assert seen[0].split()[0] == digest
    assert " 40960 " in seen[0]
    assert int(re.search(r"pswpout (\d+)", seen[0])[1]) > 3000
    assert seen[0] == seen[1]
