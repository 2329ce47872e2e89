"""Inventory sections A9 to A11: files, page cache, write-back and the block layer on the disk of the default machine."""
import pathlib
import re
import subprocess

import pytest

from glasskernel import Share
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.machine.disk import Disk
from tests.conftest import CACHE, need
from tests.ext4.conftest import fsck
from tests.trace.call_graph import CallGraph


class Machine:
    """The default machine: sh(script) runs bash in /root, on /dev/sda2."""

    def __init__(self, kernel):
        self.kernel = kernel

    def sh(self, script, check=True):
        result = self.kernel.run(["/bin/bash", "-c", script])
        assert not check or (result.status == 0), (script, result.status, result.stdout, result.stderr)
        return result.stdout.decode(errors="surrogateescape")

    def calls(self, script):
        """What called what in the kernel meanwhile."""
        with CallGraph(self.kernel) as graph:
            self.sh(script)
        return graph


@pytest.fixture
def machine(boot):
    def make(**options):
        return Machine(boot(home=True, **options))

    return make


MEMINFO = "m() { sed -n 's/^\\(Buffers\\|Cached\\|Dirty\\|Writeback\\): *\\([0-9]*\\) kB/\\2/p' /proc/meminfo | tr '\\n' ' '; echo; }; "


def meminfo(out):
    """Buffers, Cached, Dirty, Writeback in KB, of each line that m wrote."""
    return [tuple(int(n) for n in line.split()) for line in out.splitlines() if line.count(" ") == 4]


def test_df_shows_the_disk_below_root(machine):
    """A033, B04: Filesystem, Type, Size, Used, Avail, Use%, Mounted on."""
    lines = machine().sh("df -h; df -Th; df /root | tail -1").splitlines()
    assert lines[0].split() == ["Filesystem", "Size", "Used", "Avail", "Use%", "Mounted", "on"]
    assert any(re.fullmatch(r"/dev/sda2 +ext4 +990M +4\.0K +923M +1% /root", line) for line in lines)
    assert lines[-1].split()[:2] == ["/dev/sda2", "1013688"]


def test_df_shows_a_root_on_a_disk(boot, tmp_path):
    """A033, B04: Debian's df on a machine whose / is ext4 on a block device."""
    from glasskernel.init.command import Device
    from glasskernel.tools.image.build import build
    from glasskernel.tools.image.geometry import MkfsOptions
    from glasskernel.tools.image.tree import read_directory

    source = tmp_path / "root"
    libraries = re.findall(r"(/\S+) \(", subprocess.run(["ldd", "/bin/df"], capture_output=True, text=True).stdout)
    for name in ("/bin/df", *libraries):
        place = source / name[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pathlib.Path(name).read_bytes())
        place.chmod(0o755)
    for name in ("dev", "proc", "sys", "tmp", "run", "root"):
        (source / name).mkdir()
    build(str(tmp_path / "root.img"), read_directory(str(source)), 64 << 20, MkfsOptions())
    kernel = boot(disks=[Disk(base=str(tmp_path / "root.img"))], root_dev=Device("/dev/sda"))
    out = kernel.run(["/bin/df", "-Th"]).stdout.decode()
    assert re.search(r"^/dev/sda +ext4 +56M +\S+ +\S+ +\d+% /$", out, re.MULTILINE), out


def test_a_program_is_read_from_the_disk_after_drop_caches(machine):
    """A180, B30: the first run has major faults, the second has none."""
    need("time", "time")
    m = machine()
    out = m.sh("cp /bin/ls ls; sync; echo 3 > /proc/sys/vm/drop_caches; for i in 1 2; do "
               "/usr/bin/time -f 'major %F' ./ls > /dev/null; done 2>&1")
    first, second = (int(line.split()[1]) for line in out.splitlines() if line.startswith("major"))
    assert first > 0 and second == 0


def test_mapped_pages_of_a_file_count_as_cached(machine):
    """A182: ext4_filemap_fault brings them, filemap_map_pages maps those around."""
    m = machine()
    graph = m.calls("head -c 8M /dev/urandom > f; sync; echo 3 > /proc/sys/vm/drop_caches; " + MEMINFO + "m > a; python3 -c '"
                    "import mmap; f = open(\"f\", \"r+\"); m = mmap.mmap(f.fileno(), 0); print(sum(m[::4096]))' > /dev/null; m > b")
    (before,), (after,) = meminfo(m.sh("cat a")), meminfo(m.sh("cat b"))
    assert after[1] - before[1] >= 8 << 10
    assert graph.reaches("__do_fault", "filemap_fault") and ("do_fault_around", "filemap_map_pages") in graph.edges
    assert ("ext4_filemap_fault", "filemap_fault") in graph.edges


def test_read_and_mmap_go_different_ways(machine):
    """A190: read copies through generic_file_buffered_read, mmap faults through ext4_filemap_fault."""
    m = machine()
    m.sh("head -c 64k /dev/zero > f; sync; echo 3 > /proc/sys/vm/drop_caches")
    read = m.calls("cat f > /dev/null")
    assert ("new_sync_read", "ext4_file_read_iter") in read.edges and read.reaches("vfs_read", "ext4_file_read_iter")
    assert ("ext4_file_read_iter", "generic_file_read_iter") in read.edges
    m.sh("echo 3 > /proc/sys/vm/drop_caches")
    mapped = m.calls("python3 -c 'import mmap; f = open(\"f\", \"r+\"); print(mmap.mmap(f.fileno(), 0)[5000])' > /dev/null")
    assert ("__do_fault", "ext4_filemap_fault") in mapped.edges
    assert mapped.reaches("handle_mm_fault", "ext4_filemap_fault", 7)


def test_buffers_hold_devices_and_cached_holds_files(machine):
    """A212: reading a raw device raises Buffers, reading a file raises Cached."""
    out = machine().sh("head -c 4M /dev/zero > f; sync; echo 3 > /proc/sys/vm/drop_caches; " + MEMINFO +
                       "m; head -c 8M /dev/sda > /dev/null; m; cat f > /dev/null; m")
    start, device, file = meminfo(out)
    assert device[0] - start[0] >= 8 << 10 and device[1] - start[1] < 2 << 10
    assert file[1] - device[1] >= 4 << 10 and file[0] - device[0] < 1 << 10


def test_drop_caches_frees_what_is_clean(machine):
    """A213, B30: Cached and Buffers fall, dirty data stays, and the next read comes from the disk."""
    out = machine().sh("head -c 6M /dev/urandom > f; sync; cat f > /dev/null; head -c 1M /dev/sda > /dev/null; head -c 1M /dev/zero > dirty; " + MEMINFO +
                       "m; echo 3 > /proc/sys/vm/drop_caches; m; r() { awk '$3 == \"sda\" {print \"reads\", $4}' /proc/diskstats; }; "
                       "r; cat dirty > /dev/null; r; cat f > /dev/null; r")
    full, empty = meminfo(out)
    assert full[1] - empty[1] >= 5 << 10 and full[0] - empty[0] >= 900
    assert empty[2] >= 1 << 10
    before, cached, missed = (int(n) for n in re.findall(r"reads (\d+)", out))
    assert before == cached < missed


def test_one_write_goes_through_every_layer(machine):
    """A218, A260, A264, A265: system call, VFS, ext4, page cache, block layer, SCSI, the disk's interrupt."""
    m = machine()
    graph = m.calls("dd if=/dev/zero of=f bs=4k count=1 conv=fsync 2> /dev/null; cat f > /dev/null")
    for caller, callee in (("ksys_write", "vfs_write"), ("__vfs_write", "new_sync_write"),
                           ("new_sync_write", "ext4_file_write_iter"), ("generic_perform_write", "ext4_da_write_begin"),
                           ("vfs_fsync_range", "ext4_sync_file"),
                           ("do_writepages", "ext4_writepages"), ("submit_bio", "generic_make_request"),
                           ("generic_make_request", "blk_mq_make_request"), ("scsi_dispatch_cmd", "mdisk_queuecommand")):
        assert (caller, callee) in graph.edges, (caller, callee)
    assert graph.reaches("handle_irq_event_percpu", "mdisk_interrupt") and graph.reaches("blk_done_softirq", "scsi_softirq_done")
    assert graph.reaches("bio_endio", "ext4_end_bio")


@pytest.mark.parametrize("where", ["/root", "/tmp"])
def test_every_operation_of_a_directory_works(machine, where, build_c):
    """A221: create lookup link unlink symlink mkdir rmdir mknod tmpfile rename setattr getattr listxattr ACLs fiemap."""
    m = machine(shares=[Share(str(CACHE), "/programs")])
    binary = build_c("""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) { char p[40]; int fd = open(".", O_TMPFILE | O_RDWR, 0600); if (fd < 0 || write(fd, "tmp", 3) != 3) return 1;
    sprintf(p, "/proc/self/fd/%d", fd); return linkat(AT_FDCWD, p, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW) != 0; }""")
    out = m.sh(f"mkdir {where}/t; cd {where}/t; set -e; echo x > a; ln a b; ln -s a s; mkdir d; mknod p p; mknod n c 1 3; rm b; "
               "rmdir d; mv a c; chmod 600 c; chown 1:2 c; truncate -s 9000 c; touch -d @1 c; stat -c '%a %u %g %Y %s %h' c; "
               f"/programs/{binary.name}; cat linked; ls; readlink s" + ("" if where == "/tmp" else
               "; setfattr -n user.a -v 1 c; getfattr -d c | grep user; setfacl -m u:5555:r c; getfacl -c c | grep 5555; "
               "echo y > y; sync; filefrag -v y | grep -c last"))
    assert out.startswith("600 1 2 1 9000 1\ntmpc\nlinked\nn\np\ns\na\n")
    if where == "/root":
        assert out.endswith('user.a="1"\nuser:5555:r--\n1\n')


def test_three_file_systems_get_the_same_call(machine):
    """A219, A222: vfs_write and vfs_read end in ext4, tmpfs and proc, by the operations of the file."""
    m = machine()
    graph = m.calls("echo x > /root/f; echo x > /tmp/f; cat /proc/devices > /dev/null")
    assert ("new_sync_write", "ext4_file_write_iter") in graph.edges
    assert ("new_sync_write", "generic_file_write_iter") in graph.edges
    assert ("__vfs_read", "proc_reg_read") in graph.edges
    assert ("generic_perform_write", "shmem_write_begin") in graph.edges
    assert ("generic_perform_write", "ext4_da_write_begin") in graph.edges


def test_a_read_hits_or_misses_the_page_cache(machine):
    """A229, A231, A261, A262, A266: a miss reads ahead, queues, sleeps and is woken; a hit only copies."""
    m = machine()
    m.sh("head -c 1M /dev/urandom > f; sync; echo 3 > /proc/sys/vm/drop_caches")
    miss = m.calls("dd if=f of=/dev/null bs=4k count=1 2> /dev/null")
    assert miss.reaches("generic_file_buffered_read", "page_cache_sync_readahead", 2)
    for caller, callee in (("page_cache_sync_readahead", "ondemand_readahead"), ("read_pages", "ext4_readpages"),
                           ("ext4_mpage_readpages", "submit_bio"), ("io_schedule", "schedule")):
        assert (caller, callee) in miss.edges, (caller, callee)
    assert miss.reaches("read_pages", "blk_start_plug") or miss.reaches("__do_page_cache_readahead", "blk_start_plug")
    assert miss.reaches("blk_finish_plug", "blk_mq_run_hw_queue", 6)
    assert miss.reaches("ext4_file_read_iter", "touch_atime")
    m.sh("cat f > /dev/null")
    hit = m.calls("dd if=f of=/dev/null bs=4k count=1 2> /dev/null")
    assert hit.reaches("ext4_file_read_iter", "touch_atime")
    assert ("read_pages", "ext4_readpages") not in hit.edges and ("ext4_mpage_readpages", "submit_bio") not in hit.edges


def test_a_write_is_stored_later(machine):
    """A230, A232, A234: write returns before any block event; the flusher stores it some 5 seconds later."""
    m = machine()
    m.sh("echo > g; head -c 64k /dev/zero > /tmp/zero; sync; sleep 60")
    issued, completed = [], []
    tracepoint_probe_register(m.kernel, "block_rq_issue", lambda *_: issued.append(m.kernel.now_ns))
    tracepoint_probe_register(m.kernel, "block_rq_complete", lambda *_: completed.append(m.kernel.now_ns))
    m.sh("cat /tmp/zero > f; grep Dirty: /proc/meminfo > /tmp/dirty")
    assert not issued
    written_ns = m.kernel.now_ns
    m.sh("sleep 40; grep Dirty: /proc/meminfo >> /tmp/dirty")
    assert issued and issued[0] - written_ns > 4_000_000_000
    assert len(completed) >= len(issued)
    first, last = (int(line.split()[1]) for line in m.sh("cat /tmp/dirty").splitlines())
    assert first >= 64 and last <= 24                        # what is left is of the journal, not of the file


def test_the_flusher_works_in_wb_workfn(machine):
    """A232: wb_workfn, wb_do_writeback, wb_writeback, writeback_sb_inodes, __writeback_single_inode, do_writepages."""
    m = machine()
    graph = m.calls("head -c 64k /dev/zero > f; sleep 40")
    assert graph.reaches("process_one_work", "wb_workfn") and graph.reaches("wb_workfn", "wb_writeback")
    assert ("__writeback_single_inode", "do_writepages") in graph.edges and ("do_writepages", "ext4_writepages") in graph.edges
    assert graph.reaches("wb_writeback", "__writeback_single_inode", 4)


def test_readahead_brings_several_pages(machine):
    """A231: 4 KB of a fresh file bring more; read_ahead_kb says how many."""
    out = machine().sh("head -c 1M /dev/urandom > f; sync; for k in 128 0 16; do echo $k > /sys/block/sda/queue/read_ahead_kb; "
                       "echo 3 > /proc/sys/vm/drop_caches; dd if=f of=/dev/null bs=4k count=1 2> /dev/null; fincore -bno RES f; done")
    many, one, some = (int(n) // 4096 for n in out.split())
    assert many > 3 and one == 1 and 1 < some <= 8


def test_sync_leaves_nothing_dirty(machine):
    """A233: wakeup_flusher_threads, iterate_supers, iterate_bdevs; afterwards the disk holds the data."""
    m = machine()
    graph = m.calls("echo 'find me on the disk' > f; head -c 2M /dev/urandom > g; sync; " + MEMINFO + "m > /tmp/m")
    assert meminfo(m.sh("cat /tmp/m"))[0][2] <= 16
    for callee in ("wakeup_flusher_threads", "iterate_supers", "iterate_bdevs"):
        assert ("ksys_sync", callee) in graph.edges, callee
    disk = m.kernel.params.disks[0]
    assert any(b"find me on the disk" in disk.read_bytes(at, 1 << 20) for at in range(0, disk.size, 1 << 20))


def test_access_times_follow_relatime(machine):
    """A235: read changes atime if it was not after the last change, or a day old."""
    out = machine().sh("echo x > f; touch -a -d '2019-09-15 19:00' f; sleep 1; s() { stat -c %X f; }; s; cat f > /dev/null; s; sleep 60; "
                       "cat f > /dev/null; s; sleep 90000; cat f > /dev/null; s")
    old, first, second, day = (int(n) for n in out.splitlines() if n.isdigit())
    assert old < first == second and day - first > 86400


def test_ext2_and_ext3_mount_and_dumpe2fs_reads_them(machine):
    """A238, A239, A240: Debian's mkfs and dumpe2fs inside, on the second disk; e2fsck is content afterwards."""
    for kind in ("ext2", "ext3", "ext4"):
        m = machine(disks=[Disk(size=64 << 20), Disk(size=32 << 20)])
        out = m.sh(f"PATH=$PATH:/usr/sbin; mkfs.{kind} -q /dev/sdb; mount /dev/sdb /mnt; grep /mnt /proc/mounts; cp -r /etc/apt /mnt; "
                   "umount /mnt; dumpe2fs -h /dev/sdb 2> /dev/null | grep -e features -e 'Block count'; e2fsck -fn /dev/sdb | tail -1")
        assert f"/dev/sdb /mnt {kind} rw" in out and "Block count" in out and re.search(r"/dev/sdb: \d+/8192 files", out)
        assert ("has_journal" in out) == (kind != "ext2") and ("extent" in out) == (kind == "ext4")


def test_formatting_leaves_old_data(machine):
    """A241: mkfs writes super blocks and tables only."""
    m = machine(disks=[Disk(size=64 << 20), Disk(size=32 << 20)])
    out = m.sh("PATH=$PATH:/usr/sbin; mkfs.ext4 -q /dev/sdb; mount /dev/sdb /mnt; for i in $(seq 2000); do echo old secret $i; done > /mnt/f; "
               "umount /mnt; mkfs.ext4 -q -F -E nodiscard /dev/sdb; grep -a -c 'old secret' /dev/sdb; mount /dev/sdb /mnt; ls /mnt")
    assert out.split() == ["2000", "lost+found"]


def test_istat_on_the_image_agrees_with_stat(machine, tmp_path):
    """A242, A259: the inode and the block that sleuthkit finds from outside are those that stat and filefrag tell inside."""
    need("istat", "sleuthkit")
    path = tmp_path / "d.img"
    m = machine(disks=[Disk(str(path), 64 << 20)])
    out = m.sh("echo hello linux filesystem > f; chown 1000:1000 f; sync; stat -c '%i %u %g %s' f; filefrag -v f")
    ino, uid, gid, size = out.split()[:4]
    block = re.search(r"0: +0\.\. +0: +(\d+)\.\.", out).group(1)
    m.kernel.shutdown()
    told = subprocess.run(["istat", str(path), ino], capture_output=True, text=True).stdout
    assert f"inode: {ino}\nAllocated\nGroup: 0" in told and f"uid / gid: {uid} / {gid}" in told and f"size: {size}" in told
    assert "Flags: Extents" in told and f"Direct Blocks:\n{block} " in told
    with open(path, "rb") as image:
        image.seek(int(block) * 1024)                  # a small file system has blocks of 1 KB
        assert image.read(5) == b"hello"
    assert fsck(path) == ""


def test_tmpfs_makes_no_block_event(machine):
    """A248."""
    m = machine()
    script = "head -c 1M /dev/zero > /tmp/f; sync; cat /tmp/f > /dev/null; head -c 1M /dev/zero > /dev/shm/f; sync"
    m.sh(script)
    issued = []
    tracepoint_probe_register(m.kernel, "block_bio_queue", lambda *_: issued.append(m.kernel.now_ns))
    m.sh(script)
    assert not issued


def test_block_devices_are_files_with_numbers(machine):
    """A249, B92."""
    out = machine().sh("ls -hal /dev | grep ^b")
    assert re.search(r"^brw-rw---- 1 root disk +7, +0 .* loop0$", out, re.MULTILINE)
    assert re.search(r"^brw-rw---- 1 root disk +8, +2 .* sda2$", out, re.MULTILINE)


def test_a_page_has_several_buffers(machine):
    """A250: with blocks of 1 KB four buffer heads a page; one dirty one is written, not all four."""
    m = machine(disks=[Disk(size=64 << 20), Disk(size=32 << 20)])
    m.sh("PATH=$PATH:/usr/sbin; mkfs.ext2 -q -b 1024 /dev/sdb; mount /dev/sdb /mnt; head -c 4k /dev/zero > /mnt/f; sync")
    with m.kernel.trace(events="block:block_rq_issue") as t:
        m.sh("printf x | dd of=/mnt/f bs=1 seek=2100 conv=notrunc 2> /dev/null; grep Dirty: /proc/meminfo; sync -d /mnt/f")
    assert [e.fields["nr_sector"] for e in t.events("block:block_rq_issue") if e.fields["dev"] == 8 << 20 | 16][:1] == [2]


def test_inotify_hears_of_a_read(machine):
    """A254: fsnotify reports IN_ACCESS."""
    m = machine()
    graph = m.calls("""python3 -c '
import ctypes, os, struct
c = ctypes.CDLL(None); fd = c.inotify_init(); open("f", "w").write("x"); c.inotify_add_watch(fd, b"f", 1)
open("f").read(); print(struct.unpack_from("iI", os.read(fd, 100))[1])' > out""")
    assert m.sh("cat out") == "1\n"
    assert graph.reaches("vfs_read", "fsnotify")


def test_sectors_of_a_file_are_its_blocks_times_eight(machine):
    """A258, A259, B48: the remap from (8,2) and the partition's start."""
    m = machine()
    with m.kernel.trace(events=["block:block_bio_remap", "block:block_rq_issue"]) as t:
        out = m.sh("dd if=/dev/urandom of=f bs=4k count=1 conv=fsync 2> /dev/null; filefrag -v f")
    block = int(re.search(r"0: +0\.\. +0: +(\d+)\.\.", out).group(1))
    remaps = [e.fields for e in t.events("block:block_bio_remap") if e.fields["old_sector"] == block * 8]
    assert remaps and {r["sector"] - r["old_sector"] for r in remaps} == {4096}
    assert remaps[0]["old_dev"] == 8 << 20 | 2 and remaps[0]["dev"] == 8 << 20
    assert any(e.fields["sector"] == block * 8 + 4096 for e in t.events("block:block_rq_issue"))


def test_the_disk_is_scsi_and_its_interrupts_are_counted(machine):
    """A264, A265: sda is a SCSI disk; its line in /proc/interrupts and the BLOCK softirq grow."""
    out = machine().sh("cat /sys/block/sda/device/type; ls -d /sys/bus/scsi/devices/0:0:0:0; c() { grep mdisk /proc/interrupts; grep BLOCK /proc/softirqs; }; "
                       "c; head -c 4M /dev/urandom > f; sync; c")
    lines = out.splitlines()
    assert lines[:2] == ["0", "/sys/bus/scsi/devices/0:0:0:0"]
    sums = [sum(int(n) for n in re.findall(r" (\d+)(?= |$)", line)) for line in lines[2:]]
    assert sums[2] > sums[0] and sums[3] > sums[1]


def test_a_reader_of_the_disk_counts_as_iowait(machine):
    """A266: on a hard disk a cold read sleeps in io_schedule."""
    m = machine(disks=[Disk(size=1 << 30, model="hdd")])
    out = m.sh("head -c 8M /dev/urandom > f; sync; echo 3 > /proc/sys/vm/drop_caches; w() { awk '$1 == \"cpu\" {print $6}' /proc/stat; }; "
               "w; cat f > /dev/null; w")
    before, after = (int(n) for n in out.split())
    assert after > before


def test_losetup_on_a_file_of_the_disk(machine):
    """A267: a loop device over ext4."""
    out = machine().sh("PATH=$PATH:/usr/sbin; truncate -s 16M img; losetup -f --show img; mkfs.ext4 -q /dev/loop0; mount /dev/loop0 /mnt; echo inside > /mnt/f; "
                       "umount /mnt; losetup -d /dev/loop0; grep -a -c inside img")
    assert out == "/dev/loop0\n1\n"


def test_tracefs_and_debugfs_are_mounted(machine):
    """A247: /sys/kernel/debug/tracing is there."""
    out = machine().sh("grep -c -e 'debugfs /sys/kernel/debug ' -e 'tracefs /sys/kernel/tracing ' /proc/mounts; "
                       "cat /sys/kernel/debug/tracing/current_tracer; ls /sys/kernel/debug | head -3")
    assert out.startswith("2\nnop\n")
