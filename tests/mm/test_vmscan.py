"""Reclaim in small machines: more data than memory passes through, nothing is lost, nothing leaks, every run is the same."""
from __future__ import annotations

import re

import pytest

from glasskernel.kernel.task import PF_MEMALLOC
from glasskernel.lib.errno import ENOMEM
from glasskernel.mm import page_alloc
from glasskernel.mm.page_alloc import __GFP_DMA as GFP_DMA
from glasskernel.mm.page_alloc import __GFP_NOMEMALLOC as GFP_NOMEMALLOC
from glasskernel.mm.page_alloc import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOWAIT,
    WMARK_LOW,
    WMARK_MIN,
    nr_free_pages,
)
from tests.mm.harness import PAGE, Disk, errno_of, kernel_with_a_cache

pytestmark = pytest.mark.patience(300)
MB = 1 << 20
VMSTAT = "cat /proc/vmstat"
MAP = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    long n = atol(argv[2]) << 20;
    int fd = open(argv[1], O_RDWR | O_CREAT, 0644), rounds = atoi(argv[3]);
    if (ftruncate(fd, n)) return 1;
    char *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (long i = 0; i < n; i += 4096) *(long *)(p + i) = i * 7 + 1;
    for (int r = 0; r < rounds; r++)
        for (long i = 0; i < n; i += 4096)
            if (*(long *)(p + i) != i * 7 + 1) return 3;
    return 0;
}
"""


def vmstat(text):
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.M)}


def shell(kernel, script):
    result = kernel.run(["/bin/sh", "-c", "cd /root; " + script])
    assert result.status == 0, result.stderr.decode()
    return result.stdout.decode()


# ---- in whole machines --------------------------------------------------------------------------------
def test_a_file_twice_as_big_as_memory_is_written_and_read_back(boot):
    """dd, both ways; the data come back, and both kinds of reclaim took part."""
    kernel = boot(memory=24 * MB, home=True)
    out = shell(kernel, "i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero | tr '\\0' \"\\\\$((i % 8))1\"; i=$((i+1)); "
                        "done > seed; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat seed; done "
                        "> big; md5sum < big; sync; md5sum big | cut -d' ' -f1; ls -s big; " + VMSTAT)
    first, second = re.findall(r"^([0-9a-f]{32})", out, re.M)
    assert first == second
    stat = vmstat(out)
    assert stat["pgsteal_kswapd"] > 1000 and stat["pageoutrun"] > 0
    assert stat["pgsteal_kswapd"] + stat["pgsteal_direct"] > 2 * 24 * MB // PAGE
    assert stat["pgscan_kswapd"] >= stat["pgsteal_kswapd"] and stat["pgscan_direct"] >= stat["pgsteal_direct"]
    assert stat["nr_isolated_file"] == stat["nr_isolated_anon"] == 0


def test_a_mapped_file_three_times_memory_is_stored_and_looked_at_again(run_c):
    """Pages are unmapped, their dirty bits move to the page, the flusher stores them, faults bring them back."""
    assert run_c(MAP, "big", "60", "1", memory=20 * MB, home=True).status == 0


def test_the_same_run_takes_the_same_time(build_c):
    """Two machines under pressure end at the same ns with the same counters."""
    from glasskernel import Kernel, Share

    program = build_c(MAP)
    seen = []
    for _ in range(2):
        with Kernel(memory=20 * MB, home=True, shares=[Share(str(program.parent), "/programs")],
                    cmdline="oops=panic") as kernel:
            out = shell(kernel, f"/programs/{program.name} big 30 1 && " + VMSTAT)
            seen.append((kernel.now_ns, out))
    assert seen[0] == seen[1]


def test_many_names_push_each_other_out(boot, build_c):
    """More dentries and inodes than fit: the shrinkers free them, and each is found again on the disk."""
    from glasskernel import Share

    program = build_c(r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    char name[32];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 9000; i++) {
            struct stat s;
            if (!round && i % 500 == 0) { sprintf(name, "d%d", i / 500); mkdir(name, 0755); }
            sprintf(name, "d%d/f%d", i / 500, i);
            if (!round) close(open(name, O_CREAT | O_WRONLY, 0644));
            if (stat(name, &s)) return 1;
        }
    return 0;
}
""")
    kernel = boot(memory=16 * MB, home=True, shares=[Share(str(program.parent), "/programs")])
    stat = vmstat(shell(kernel, f"/programs/{program.name} && " + VMSTAT))
    assert stat["slabs_scanned"] > 5000
    assert kernel.vfs.nr_inodes < 9000 and kernel.vfs.nr_dentry < 9000


def test_locked_memory_stays_while_everything_else_goes(run_c):
    """mlock(2): pages are kept in memory; mincore(2) says so after a file bigger than memory went through."""
    assert run_c(r"""
#include <fcntl.h>
#include <unistd.h>
#include <sys/mman.h>
static char buffer[1 << 16];
int main(void) {
    unsigned char in[256];
    int fd = open("kept", O_RDWR | O_CREAT, 0644), big = open("big", O_RDWR | O_CREAT, 0644);
    if (ftruncate(fd, 256 * 4096) || write(fd, buffer, sizeof buffer) < 0) return 1;
    char *p = mmap(0, 256 * 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (mlock(p, 128 * 4096)) return 2;
    for (int i = 0; i < 256; i++) (void)*(volatile char *)(p + i * 4096);
    for (int round = 0; round < 2; round++)
        for (long at = 0; at < 40 << 20; at += sizeof buffer)
            if (round) { if (pread(big, buffer, sizeof buffer, at) < 0) return 3; }
            else if (pwrite(big, buffer, sizeof buffer, at) < 0) return 4;
    mincore(p, 256 * 4096, in);
    for (int i = 0; i < 128; i++) if (!(in[i] & 1)) return 5;
    return 0;
}
""", memory=20 * MB, home=True).status == 0


# ---- watermarks ---------------------------------------------------------------------------------------
@pytest.fixture
def kernel():
    with kernel_with_a_cache(32) as kernel:
        held = kernel.held = []
        yield kernel
        for pfn in held:
            page_alloc.put_page(kernel, pfn)


def take_all(kernel, gfp):
    """Allocates until it fails; how many frames are left in the zones."""
    def take():
        while True:
            kernel.held.append(page_alloc.alloc_page(kernel, gfp))

    assert errno_of(take) == ENOMEM
    return [zone.nr_free for zone in kernel.mem.zones]


def test_normal_allocations_leave_the_min_watermark_and_lowmem_reserve(kernel):
    left = take_all(kernel, GFP_NOWAIT)
    for zone, free in zip(kernel.mem.zones, left, strict=True):
        mark = zone.watermark[WMARK_MIN] + zone.lowmem_reserve[-1]
        assert mark - zone.pcp_batch <= free <= mark


def test_atomic_allocations_may_have_a_part_of_the_reserve(kernel):
    """__GFP_HIGH half of it, __GFP_ATOMIC a quarter of the rest."""
    normal = take_all(kernel, GFP_NOWAIT)
    atomic = take_all(kernel, GFP_ATOMIC)
    for zone, before, after in zip(kernel.mem.zones, normal, atomic, strict=True):
        low = zone.watermark[WMARK_MIN]
        mark = low // 2 - low // 2 // 4 + zone.lowmem_reserve[-1]
        assert after < before
        assert mark - zone.pcp_batch <= after <= mark + 1


def test_who_frees_memory_may_have_all_of_it(kernel):
    take_all(kernel, GFP_ATOMIC)
    kernel.task.flags |= PF_MEMALLOC
    assert sum(take_all(kernel, GFP_KERNEL | GFP_NOMEMALLOC)) > 0
    assert take_all(kernel, GFP_KERNEL) == [0, 0]
    assert nr_free_pages(kernel.mem) == 0
    kernel.task.flags &= ~PF_MEMALLOC


def test_direct_reclaim_makes_room_from_clean_pages(kernel):
    """The cache goes before an allocation fails."""
    disk = Disk(kernel, bytes(256 * PAGE))
    kernel.disks.append(disk)
    disk.read(0, 256 * PAGE)
    take_all(kernel, GFP_NOWAIT)
    before = len(disk.mapping.pages)
    for _ in range(100):
        kernel.held.append(page_alloc.alloc_page(kernel, GFP_KERNEL))
    assert len(disk.mapping.pages) <= before - 100
    stat = kernel.mem.vm_event
    assert stat[page_alloc.PGSTEAL_DIRECT] >= 100 and stat[page_alloc.ALLOCSTALL_DMA32] > 0


def test_reclaim_for_a_low_zone_takes_its_pages_only(kernel):
    """__GFP_DMA: pages above 16 MB would not help."""
    disk = Disk(kernel, bytes(5600 * PAGE))
    kernel.disks.append(disk)
    disk.read(0, 5600 * PAGE)
    low = sum(pfn < 0x1000 for pfn in disk.mapping.pages.values())
    assert 0 < low < 5600
    take_all(kernel, GFP_NOWAIT | GFP_DMA)
    for _ in range(50):
        kernel.held.append(page_alloc.alloc_page(kernel, GFP_KERNEL | GFP_DMA))
        assert kernel.held[-1] < 0x1000
    gone = 5600 - len(disk.mapping.pages)
    assert gone >= 50 and sum(pfn < 0x1000 for pfn in disk.mapping.pages.values()) == low - gone
    assert kernel.mem.vm_event[page_alloc.ALLOCSTALL_DMA] > 0 == kernel.mem.vm_event[page_alloc.ALLOCSTALL_DMA32]


def test_an_allocation_without_direct_reclaim_fails_instead(kernel):
    disk = Disk(kernel, bytes(64 * PAGE))
    kernel.disks.append(disk)
    disk.read(0, 64 * PAGE)
    take_all(kernel, GFP_NOWAIT)
    assert errno_of(page_alloc.alloc_page, kernel, GFP_NOWAIT) == ENOMEM
    assert len(disk.mapping.pages) == 64


def test_the_sysctls_act_when_they_are_written(boot):
    """vm.min_free_kbytes, watermark_scale_factor and lowmem_reserve_ratio move the marks in /proc/zoneinfo."""
    kernel = boot(memory=64 * MB)

    def marks():
        return [zone.watermark for zone in kernel.mem.zones]

    before = marks()
    out = shell(kernel, "cd /proc/sys/vm; cat min_free_kbytes watermark_scale_factor lowmem_reserve_ratio swappiness; "
                        "echo 4096 > min_free_kbytes; cat min_free_kbytes; grep -A4 'pages free' /proc/zoneinfo")
    assert out.startswith("1015\n10\n256\t256\t32\t0\t0\n60\n4096\n")
    after = marks()
    assert sum(low for low, _, _ in after) == pytest.approx(1024, abs=2)
    assert all(m[WMARK_MIN] > n[WMARK_MIN] for m, n in zip(after, before, strict=True))
    for low, mid, high in after:
        assert f"min      {low}\n        low      {mid}\n        high     {high}\n" in out
    shell(kernel, "echo 500 > /proc/sys/vm/watermark_scale_factor")
    for zone in kernel.mem.zones:
        low, mid, high = zone.watermark
        assert mid - low == high - mid == zone.managed_pages * 500 // 10000
    shell(kernel, "echo 16 > /proc/sys/vm/lowmem_reserve_ratio; grep protection /proc/zoneinfo")
    dma, dma32 = kernel.mem.zones
    assert dma.lowmem_reserve == [0, dma32.managed_pages // 16] and dma32.lowmem_reserve == [0, 0]
    assert dma.low_marks[1] == dma.watermark[WMARK_LOW] + dma32.managed_pages // 16
    for name, bad in (("watermark_scale_factor", 0), ("watermark_scale_factor", 1001), ("swappiness", 101),
                      ("min_free_kbytes", -1)):
        refused = kernel.run(["/bin/sh", "-c", f"echo {bad} > /proc/sys/vm/{name}"])
        assert refused.status
    assert shell(kernel, "cat /proc/sys/vm/watermark_scale_factor /proc/sys/vm/swappiness") == "500\n60\n"
