"""Labs of seed 001 with Debian's uftrace (B18, B28, B32, B45): the commands as written there, in /root on ext4.

What their time filters leave is in test_lab_times.py.
"""
import re

import pytest

from tests.conftest import need
from tests.labs.replay import Shell, counts, directly, nested, paths

READ_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
char buffer[64];
int get(int fd) { return read(fd, buffer, sizeof buffer); }
int main(void)
{
    int fd = open("data.txt", O_RDONLY);
    int count = get(fd);
    count += get(fd);
    close(fd);
    printf("%d\n", count);
    return 0;
}
"""
WRITE_C = r"""
#include <stdio.h>
int main(int argc, char **argv) { FILE *f = fopen(argv[1], "w"); fprintf(f, "hello\n"); fclose(f); return 0; }
"""


@pytest.fixture
def sh(boot):
    """One CPU: what a program reads from the clock may be ahead of its CPU, and uftrace merges the two by time."""
    need("uftrace", "uftrace")
    return Shell(boot(home=True, cpus=1))


def test_lab_b18_mv_under_uftrace(sh):
    text = sh("""touch reallinux
        uftrace record --force -K 5 /bin/mv reallinux reallinux-jjang
        uftrace replay -t 8us; echo ==; uftrace replay; ls""")
    eight, everything = text.split("==\n")
    assert everything.endswith("\nreallinux-jjang\nuftrace.data\n")
    calls = paths(everything.removesuffix("reallinux-jjang\nuftrace.data\n"))
    # -K 5: the kernel's calls are five deep. Below the library's function: the call, and the way to ext4.
    chain = ("renameat2", "__x64_sys_renameat2", "do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename")
    assert directly(calls, *chain) and directly(paths(eight), *chain)
    assert directly(calls, "renameat2", "__x64_sys_renameat2", "do_renameat2", "filename_parentat")
    assert directly(calls, "do_renameat2", "dput") and nested(calls, "vfs_rename", "d_move")
    assert nested(calls, "fclose")
    kernel = [len(path) - path.index(chain[1]) for path in calls if chain[1] in path]
    assert max(kernel) == 5
    assert not [path for path in calls if path[-1] in ("do_trap", "_copy_from_user") and len(path) < 3]  # RDTSC is the CPU's affair


def test_lab_b18_where_the_library_calls_rename(sh):
    text = sh("ldd /bin/mv; objdump -d /lib/x86_64-linux-gnu/libc.so.6 --disassemble=rename | less")
    assert re.search(r"linux-vdso\.so\.1 \(0x[0-9a-f]+\)", text) and re.search(r"libselinux\S+ => /\S+ \(0x[0-9a-f]+\)", text)
    assert all(f"{library}.so" in text for library in ("libacl", "libattr", "libc"))
    assert re.search(r"<rename@@GLIBC_2\.2\.5>:\n(.*\n)?.*mov +\$0x52,%eax\n.*syscall", text), text[-900:]


def test_lab_b28_the_trace_of_proc_self_maps(sh):
    text = sh("""uftrace record -d pid_maps.uftrace.data --force -K 30 /bin/cat /proc/self/maps > maps
        cd pid_maps.uftrace.data
        uftrace replay""")
    calls = paths(text)
    maps = sh("cat maps").splitlines()
    assert nested(calls, "read", "__x64_sys_read", "ksys_read", "vfs_read", "__vfs_read", "seq_read", "show_map", "show_map_vma",
                  "show_vma_header_prefix", "seq_put_hex_ll")
    assert directly(calls, "show_map", "show_map_vma", "show_vma_header_prefix", "seq_putc")
    assert counts(calls)["show_map_vma"] == counts(calls)["show_map"] >= len(maps) > 20     # a full buffer shows one again


def test_lab_b32_a_read_that_waits_for_the_disk(sh):
    sh.write("read.c", READ_C)
    sh("seq 1000 > data.txt; gcc -pg -g -o read read.c; sync")
    text = sh("""echo 3 > /proc/sys/vm/drop_caches
        uftrace record -d read.uftrace.data -K 30 ./read
        cd read.uftrace.data
        echo ==; uftrace replay""").split("==\n")[1]
    calls = paths(text)
    read = ("main", "get", "read", "__x64_sys_read", "ksys_read", "vfs_read", "__vfs_read", "new_sync_read", "ext4_file_read_iter",
            "generic_file_read_iter", "generic_file_buffered_read")
    assert directly(calls, *read[-8:]) and nested(calls, *read)              # the program's, the library's and the kernel's in one
    assert nested(calls, *read, "page_cache_sync_readahead", "ondemand_readahead", "__do_page_cache_readahead", "read_pages",
                  "ext4_readpages", "ext4_mpage_readpages", "submit_bio", "generic_make_request", "blk_mq_make_request")
    assert nested(calls, "generic_file_buffered_read", "io_schedule", "schedule")              # A110: it sleeps there
    assert nested(calls, "__do_page_cache_readahead", "alloc_pages_current", "__alloc_pages_nodemask", "get_page_from_freelist",
                  "prep_new_page")                                                             # A196
    reads = [path for path in calls if path[-1] == "generic_file_buffered_read" and "get" in path]
    waits = [path for path in calls if path[-1] == "io_schedule" and "get" in path]
    assert len(reads) == 2 and len(waits) == 1                               # A229: the second finds the page
    assert nested(calls, "generic_file_buffered_read", "touch_atime")
    assert text.count("smp_apic_timer_interrupt") == 0 or "hrtimer_interrupt" in text


def test_lab_b45_one_write_three_file_systems(sh):
    sh.write("write.c", WRITE_C)
    sh("gcc -pg -g -o write write.c")
    text = sh("""uftrace record -d write.uftrace.data -K 30 ./write hello.txt
        uftrace record -d ramdisk_write.uftrace.data -K 30 ./write /tmp/hello.txt
        uftrace record -d devices.uftrace.data --force -K 30 /bin/cat /proc/devices > /dev/null
        cd write.uftrace.data; uftrace replay -F fclose -t 10us; echo ==; uftrace replay -F fclose; echo ==
        cd ../ramdisk_write.uftrace.data; uftrace replay -F ksys_write@kernel -t 1ms; echo ==; uftrace replay -F ksys_write@kernel; echo ==
        cd ../devices.uftrace.data; uftrace replay -F read -t 100ms; echo ==; uftrace replay -F read""")
    long1, ext4, long2, shmem, long3, proc = text.split("==\n")
    # 100 ms are a stall of the authors' machine: a read of /proc/devices waits for nothing.
    assert not any("()" in long for long in (long2, long3)) and long1.count("()") < ext4.count("()") / 4
    ext4, shmem, proc = paths(ext4), paths(shmem), paths(proc)
    assert directly(ext4, "fclose", "__x64_sys_write", "ksys_write", "vfs_write", "__vfs_write", "new_sync_write", "ext4_file_write_iter")
    assert {path[0] for path in ext4} == {"fclose"} and {path[0] for path in shmem} == {"ksys_write"}
    assert directly(shmem, "ksys_write", "vfs_write", "__vfs_write", "new_sync_write")
    assert nested(shmem, "new_sync_write", "generic_perform_write", "shmem_write_begin", "shmem_getpage_gfp")
    assert directly(proc, "read", "__x64_sys_read", "ksys_read", "vfs_read", "__vfs_read", "proc_reg_read", "seq_read", "devinfo_show")
