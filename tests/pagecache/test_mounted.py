"""A file system on a block device: mount_bdev(), buffers, write-back and umount through tests/pagecache/tinyfs.py."""
import pytest

from glasskernel.kernel.tracepoint import tracepoint_probe_register
from tests.pagecache.test_block_dev import PROGRAM, sh
from tests.pagecache.tinyfs import tiny_init


@pytest.fixture
def tiny(disk):
    kernel, d = disk
    d.data[:4] = b"TINY"
    tiny_init(kernel)
    sh(kernel, "mkdir -p /mnt/t; mount -t tiny /dev/disk /mnt/t")
    d.log.clear()
    d.times.clear()
    yield kernel, d
    sh(kernel, "if mountpoint -q /mnt/t; then umount /mnt/t; fi")


def test_what_was_written_is_there_after_umount_and_mount(tiny):
    kernel, d = tiny
    sh(kernel, "seq 1 5000 > /mnt/t/file; umount /mnt/t")
    text = b"".join(b"%d\n" % n for n in range(1, 5001))
    assert d.data[1024 : 1024 + len(text)] == text
    assert int.from_bytes(d.data[4:12], "little") == len(text)
    assert sh(kernel, "mount -t tiny /dev/disk /mnt/t; cat /mnt/t/file") == text


def test_nothing_is_written_before_somebody_asks(tiny, guest_c):
    kernel, d = tiny
    sh(kernel, "echo hello > /mnt/t/file")
    assert not [op for op, _, _ in d.log if op == "W"]
    sh(kernel, "sync")
    assert d.data[1024:1030] == b"hello\n" and d.data[4] == 6


def test_fsync_stores_one_file(tiny, guest_c):
    kernel, d = tiny
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        int f = open("/mnt/t/file", O_RDWR);
        if (pwrite(f, "abc", 3, 4094) != 3) return 1;
        return fsync(f) != 0; }""") == 0
    assert d.data[1024 + 4094 : 1024 + 4097] == b"abc" and d.data[1024 : 1024 + 4094] == bytes(4094)


def test_write_back_gathers_pages_in_large_requests(tiny):
    kernel, d = tiny
    sh(kernel, "head -c 1M /dev/zero > /mnt/t/file; sync")
    assert max(size for op, _, size in d.log if op == "W") >= 1 << 18


def test_direct_io_of_a_file_bypasses_the_cache(tiny):
    kernel, d = tiny
    sh(kernel, "yes | head -c 65536 | dd of=/mnt/t/file bs=16384 iflag=fullblock oflag=direct conv=notrunc 2>/dev/null")
    assert d.data[1024 : 1024 + 65536] == b"y\n" * 32768
    assert sh(kernel, "dd if=/mnt/t/file bs=65536 iflag=direct 2>/dev/null | cmp - /mnt/t/file && echo same") == b"same\n"


def test_a_mapped_file_is_written_back(tiny, guest_c):
    kernel, d = tiny
    sh(kernel, "head -c 20000 /dev/zero > /mnt/t/file")
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        int f = open("/mnt/t/file", O_RDWR);
        char *p = mmap(0, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
        p[0] = 'a'; p[19999] = 'z'; return 0; }""") == 0
    sh(kernel, "sync")
    assert d.data[1024:1025] == b"a" and d.data[1024 + 19999 : 1024 + 20000] == b"z"


def test_a_busy_file_system_cannot_be_unmounted_nor_its_device_claimed(tiny):
    kernel, d = tiny
    assert sh(kernel, "cd /mnt/t; umount /mnt/t 2>&1 || true").strip().endswith(b"target is busy.")
    assert b"busy" in sh(kernel, "dd if=/dev/disk of=/dev/null count=1 iflag=excl 2>&1; "
                                 "python3 -c \"import os; os.open('/dev/disk', os.O_RDONLY | os.O_EXCL)\" 2>&1 || true")


def test_drop_caches_forgets_clean_pages(tiny):
    kernel, d = tiny
    sh(kernel, "head -c 100000 /dev/zero > /mnt/t/file; sync; echo 1 > /proc/sys/vm/drop_caches")
    d.log.clear()
    sh(kernel, "cat /mnt/t/file > /dev/null")
    assert any(op == "R" for op, _, _ in d.log)
    d.log.clear()
    sh(kernel, "cat /mnt/t/file > /dev/null")
    assert not d.log


def test_a_fast_writer_is_slowed_down_to_the_device(tiny):
    """proc(5): dirty_bytes: the amount of dirty memory at which a process starts to write."""
    kernel, d = tiny
    sh(kernel, "echo 262144 > /proc/sys/vm/dirty_bytes; head -c 4M /dev/zero > /mnt/t/file; grep Dirty: /proc/meminfo")
    written = sum(size for op, _, size in d.log if op == "W")
    assert written >= 3 << 20
    dirty = int(sh(kernel, "grep Dirty: /proc/meminfo").split()[1])
    assert dirty <= 1024


def test_the_flusher_is_called_after_its_device(tiny):
    kernel, d = tiny
    names = []
    before = d.make_request

    def make_request(queue, bio):
        names.append(bytes(kernel.machine.this_cpu.task.comm))
        before(queue, bio)

    d.disk.queue.make_request_fn = make_request
    sh(kernel, "echo x > /mnt/t/file; sleep 40")
    assert any(name.startswith(b"kworker/u") for name in names)


def test_relatime_moves_the_access_time_once_after_a_write_and_the_inode_is_dirty(tiny):
    """mount(8): relatime: update inode access times relative to modify or change time."""
    kernel, d = tiny
    text = sh(kernel, "cd /mnt/t; echo a > file; sync; sleep 2; cat file; stat -c '%X %Y' file; sleep 2; cat file; "
                      "stat -c '%X %Y' file").split()
    assert int(text[1]) > int(text[2]) and text[1:3] == text[4:6]
    sb = next(sb for sb in kernel.vfs.super_blocks if sb.s_type.name == b"tiny")
    assert any(inode.i_state & 7 and inode.i_wb_list is d.bdi.wb.b_dirty for inode in sb.s_inode_list)


def test_the_tracepoints_of_write_back_fire_in_the_order_of_linux(tiny):
    """include/trace/events/writeback.h"""
    kernel, d = tiny
    seen = []
    for name in ("writeback_dirty_page", "writeback_mark_inode_dirty", "writeback_queue", "writeback_exec",
                 "writeback_start", "writeback_queue_io", "writeback_single_inode_start", "wbc_writepage",
                 "writeback_write_inode", "writeback_single_inode", "writeback_written"):
        tracepoint_probe_register(kernel, name, lambda *_arguments, name=name: seen.append(name))
    sh(kernel, "echo x > /mnt/t/file")
    page = seen.index("writeback_dirty_page")       # before it: the times; after it: its inode, and the size
    assert "writeback_mark_inode_dirty" in seen[:page] and seen[page + 1] == "writeback_mark_inode_dirty"
    assert "writeback_queue" not in seen
    seen.clear()
    sh(kernel, "sync -f /mnt/t")
    assert seen[:5] == ["writeback_queue", "writeback_exec", "writeback_start", "writeback_queue_io",
                        "writeback_single_inode_start"]
    assert seen.index("wbc_writepage") < seen.index("writeback_write_inode") < seen.index("writeback_single_inode")
