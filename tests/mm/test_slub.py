"""The slab allocator and vmalloc, driven from the Python API; slabtop and vmstat read what they say."""
import subprocess

import pytest

from glasskernel import Kernel
from glasskernel.kernel.current import register
from glasskernel.machine.disk import Disk
from glasskernel.mm import slab_common, slub, slub_check, vmalloc
from glasskernel.mm.page_alloc import GFP_KERNEL, nr_free_pages


@pytest.fixture
def kernel():
    k = Kernel(memory=64 << 20, cmdline="oops=panic")
    previous = getattr(register, "task", None)
    register.task = k.machine.this_cpu.task
    yield k
    assert slub_check.check_slab(k) == []
    assert vmalloc.check_vmalloc(k) == []
    k.close()
    if previous is not None:
        register.task = previous


@pytest.mark.parametrize(("size", "order", "objects"), [
    (8, 0, 512), (104, 0, 39), (192, 0, 21), (512, 1, 16), (608, 2, 26), (1184, 3, 27), (4096, 3, 8), (8064, 3, 4)])
def test_slabs_have_the_size_that_linux_gives_them(size, order, objects):
    """/proc/slabinfo of a machine with four CPUs."""
    assert slub.calculate_order(size, 4) == order
    assert slub.order_objects(order, size) == objects


def test_objects_are_apart_and_all_memory_comes_back(kernel):
    free = nr_free_pages(kernel.mem)
    cache = slab_common.kmem_cache_create(kernel, b"test", 200)
    objects = [slub.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(1000)]
    assert all(b - a >= 200 for a, b in zip(sorted(objects), sorted(objects)[1:], strict=False))
    assert slub_check.objects_of(cache) == set(objects)
    for x in objects[::2] + objects[1::2]:
        slub.kmem_cache_free(cache, x)
    assert not slab_common.kmem_cache_shrink(cache)
    slab_common.kmem_cache_destroy(cache)
    assert b"test" not in kernel.slab.caches
    assert nr_free_pages(kernel.mem) >= free - 2           # of kmem_cache and kmem_cache_node


def test_kmalloc_takes_the_smallest_cache_that_fits(kernel):
    for size, name in ((1, b"kmalloc-8"), (65, b"kmalloc-96"), (97, b"kmalloc-128"), (129, b"kmalloc-192"),
                       (193, b"kmalloc-256"), (1025, b"kmalloc-2k"), (8192, b"kmalloc-8k")):
        assert slab_common.kmalloc_slab(kernel, size, GFP_KERNEL).name == name
    slab_common.kfree(kernel, slab_common.kmalloc(kernel, 20000, GFP_KERNEL))
    assert not kernel.slab.large


def test_vmalloc_maps_frames_behind_addresses_in_a_row(kernel):
    used = kernel.vmalloc.nr_vmalloc_pages
    first = vmalloc.vmalloc(kernel, 5 * 4096)
    frames = [vmalloc.vmalloc_to_page(kernel, first + i * 4096) for i in range(6)]
    assert None not in frames[:5] and frames[5] is None    # the guard page
    assert kernel.vmalloc.nr_vmalloc_pages == used + 5
    vmalloc.vfree(kernel, first)
    assert vmalloc.vmalloc_to_page(kernel, first) is None
    assert kernel.vmalloc.nr_vmalloc_pages == used


def test_slabtop_and_vmallocinfo():
    with Kernel(cmdline="oops=panic") as k:
        out = k.run(["/bin/sh", "-c", "slabtop -o; vmstat -m; cat /proc/vmallocinfo; grep Slab: /proc/meminfo"]).stdout
        assert b"dentry" in out and b"task_struct" in out and b"pages=4 vmalloc N0=4" in out and b"Slab:" in out


def test_looking_at_files_makes_dentries_and_drop_caches_takes_them_away():
    with Kernel(cmdline="oops=panic") as k:
        count = k.run(["/bin/sh", "-c", """
            n() { awk '$1 == "dentry" {print $2}' /proc/slabinfo; }
            n; find /usr/share/doc >/dev/null; n; echo 2 >/proc/sys/vm/drop_caches; sleep 1; n"""]).stdout.split()
        before, after, dropped = map(int, count)
        assert after > before + 100 and dropped < after


def test_inodes_are_in_the_cache_of_their_file_system(tmp_path):
    """CPUs keep slabs at hand that count as full: only many files show that slots come back."""
    disk = tmp_path / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk), "16M"], check=True)
    with Kernel(cmdline="oops=panic", disks=[Disk(base=str(disk))]) as k:
        text = k.run(["/bin/sh", "-c", """
            n() { sleep 1; awk '/inode_cache/ {print $1, $2}' /proc/slabinfo; echo; }
            mount /dev/sda /mnt; cd /mnt; n; for i in $(seq 500); do >f$i; done; n; rm f*; n
            for i in $(seq 200); do >/tmp/f$i; done; n"""]).stdout.decode()
    first, made, removed, shmem = (
        {name: int(count) for name, count in map(str.split, part.splitlines())} for part in text.strip().split("\n\n"))
    assert {"inode_cache", "proc_inode_cache", "shmem_inode_cache", "ext4_inode_cache"} <= first.keys()
    assert made["ext4_inode_cache"] >= first["ext4_inode_cache"] + 470
    assert removed["ext4_inode_cache"] <= made["ext4_inode_cache"] - 150
    assert shmem["shmem_inode_cache"] >= removed["shmem_inode_cache"] + 170
