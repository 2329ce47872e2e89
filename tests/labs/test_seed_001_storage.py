"""Labs of seed 001 about files and disks (B30, B42-B44, B47, B48): the commands as written there, in /root on /dev/sda2."""
import re

import pytest

from tests.conftest import need

WRITE_C = r"""
#include <stdio.h>
int main(void) { FILE *f = fopen("hello.txt", "w"); fprintf(f, "hello linux filesystem\n"); fclose(f); return 0; }
"""
READ_C = r"""
#include <stdio.h>
int main(void) { char b[100]; FILE *f = fopen("hello.txt", "r"); printf("%zu\n", fread(b, 1, 23, f)); fclose(f); return 0; }
"""


class Lab:
    """A shell in /root of the default machine, as root."""

    def __init__(self, kernel):
        self.kernel = kernel

    def sh(self, script, check=True):
        result = self.kernel.run(["/bin/bash", "-c", script], env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                                                                    "HOME": "/root", "LC_ALL": "C"})
        assert not check or result.status == 0, (script, result)
        return result.stdout.decode(errors="surrogateescape")


@pytest.fixture
def lab(boot):
    """With the programs write and read, built -pg -g as the labs say.

    One CPU: what a program reads from the clock may be ahead of its CPU, and uftrace merges the two by time.
    """
    need("uftrace", "uftrace")
    lab = Lab(boot(home=True, cpus=1))
    lab.kernel.run(["/usr/bin/tee", "/root/write.c"], stdin=WRITE_C.encode())
    lab.kernel.run(["/usr/bin/tee", "/root/read.c"], stdin=READ_C.encode())
    return lab


def frames(replay):
    """(depth, function) of uftrace replay's lines that begin a call."""
    return [(len(m[1]) // 2, m[2]) for m in re.finditer(r"\] \| ( *)([\w.]+)\(\)[ ;{]", replay)]


def nested(replay, chain):
    """Whether the functions of `chain` are inside one another, in this order, perhaps with others between."""
    path = []
    for depth, name in frames(replay):
        del path[depth:]
        path += [""] * (depth - len(path)) + [name]
        position = 0
        for function in path:
            position += position < len(chain) and function == chain[position]
        if position == len(chain):
            return True
    return False


WRITE_PATH = ["fclose", "__x64_sys_write", "ksys_write", "vfs_write", "__vfs_write", "new_sync_write", "ext4_file_write_iter",
              "__generic_file_write_iter", "generic_perform_write"]
READ_PATH = ["fread", "__x64_sys_read", "ksys_read", "vfs_read", "__vfs_read", "new_sync_read", "ext4_file_read_iter",
             "generic_file_read_iter"]


def test_lab_b30_drop_caches(lab):
    out = lab.sh("head -c 8M /dev/urandom > f; sync; cat f > /dev/null; cat /proc/meminfo | head -5; echo 3 > /proc/sys/vm/drop_caches; "
                 "cat /proc/meminfo | head -5")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[:5]] == ["MemTotal:", "MemFree:", "MemAvailable:", "Buffers:", "Cached:"]
    free, buffers, cached = ((int(lines[i][1]), int(lines[i + 5][1])) for i in (1, 3, 4))
    assert free[1] > free[0] and buffers[1] < buffers[0] and cached[0] - cached[1] >= 8 << 10


@pytest.mark.patience(180)
def test_labs_b42_b43_b44_the_write_path_and_the_read_path(lab):
    """uftrace's own -t leaves out what virtual time finds shorter; the path that has to wait for the disk stays."""
    out = lab.sh("gcc -pg -g -o write write.c; gcc -pg -g -o read read.c; "
                 "uftrace record -d write.uftrace.data -K 30 ./write; cd write.uftrace.data; uftrace replay -F fclose")
    for tail in (["ext4_da_write_begin", "__block_write_begin", "__block_write_begin_int"],
                 ["ext4_da_write_end", "generic_write_end"]):
        assert nested(out, WRITE_PATH + tail)
    lab.sh("uftrace record -d read.uftrace.data -K 30 ./read")
    out = lab.sh("cd read.uftrace.data; uftrace replay -F fread")
    assert nested(out, [*READ_PATH, "touch_atime"]) and "io_schedule" not in out
    lab.sh("sync; echo 3 > /proc/sys/vm/drop_caches; uftrace record -d read2.uftrace.data -K 30 ./read")
    out = lab.sh("cd read2.uftrace.data; uftrace replay -F fread")
    assert nested(out, [*READ_PATH, "read_pages", "ext4_readpages", "ext4_mpage_readpages"])
    assert nested(out, [*READ_PATH, "blk_mq_run_hw_queue", "__blk_mq_delay_run_hw_queue"])
    out = lab.sh("cd read2.uftrace.data; uftrace replay -F fread -t 31us")
    assert nested(out, [*READ_PATH, "io_schedule", "schedule"])


def test_lab_b47_the_writeback_worker(lab):
    out = lab.sh("cd /sys/kernel/debug/tracing; echo smp_apic_timer_interrupt > set_graph_notrace; echo wb_workfn > set_graph_function; "
                 "echo function_graph > current_tracer; echo hello > /root/new.txt; sleep 40; cat trace; echo nop > current_tracer; "
                 "echo > set_graph_function; echo > set_graph_notrace")
    assert "# tracer: function_graph" in out and re.search(r"\|  wb_workfn\(\) \{$", out, re.MULTILINE)
    for name in ("wb_writeback", "__writeback_single_inode", "do_writepages", "ext4_writepages", "submit_bio"):
        assert re.search(rf"\|  +{name}\(\)", out), name


@pytest.mark.patience(120)
def test_lab_b48_block_trace_of_a_file(lab):
    """The block that istat shows, times 8, is in btrace's A line; plus the start of the partition, in Q G I D C."""
    need("istat", "sleuthkit")
    need("btrace", "blktrace")
    lab.sh("gcc -o write write.c; sync")
    out = lab.sh("btrace /dev/sda > write.btrace.data & sleep 0.5; ./write; ls -i hello.txt; sleep 40; pkill -INT -x blktrace; wait; "
                 "istat /dev/sda2 $(stat -c %i hello.txt)")
    ino = re.search(r"^(\d+) hello\.txt$", out, re.MULTILINE).group(1)
    assert f"inode: {ino}\nAllocated\n" in out and "Flags: Extents" in out and "size: 23\nnum of links: 1\n" in out
    assert "mode: rrw-r--r--" in out
    sector = int(re.search(r"Direct Blocks:\n(\d+) ", out).group(1)) * 8
    on_disk = sector + 4096
    remap = lab.sh(f"cat write.btrace.data | grep ' {sector}'")
    assert re.search(rf"8,0 .* A +W[S]? {on_disk} \+ 8 <- \(8,2\) {sector}$", remap, re.MULTILINE)
    lines = lab.sh(f"cat write.btrace.data | grep ' {on_disk} '").splitlines()
    assert [line.split()[5] for line in lines] == ["A", "Q", "G", "I", "D", "C"]
    assert all(f"{on_disk} + 8" in line for line in lines)
    assert lines[5].split()[3] > lines[4].split()[3]
