"""What /proc and /sys say about write-back."""
from tests.pagecache.test_block_dev import PROGRAM, sh
from tests.pagecache.test_mounted import tiny

__all__ = ["tiny"]


def test_the_defaults_of_linux(disk):
    kernel, _ = disk
    assert sh(kernel, "cd /proc/sys/vm; for f in dirty_*; do echo $f $(cat $f); done") == (
        b"dirty_background_bytes 0\ndirty_background_ratio 10\ndirty_bytes 0\ndirty_expire_centisecs 3000\n"
        b"dirty_ratio 20\ndirty_writeback_centisecs 500\n")


def test_bytes_and_ratio_switch_each_other_off(disk):
    kernel, _ = disk
    assert sh(kernel, "cd /proc/sys/vm; echo 1048576 > dirty_bytes; cat dirty_bytes dirty_ratio; echo 30 > dirty_ratio; "
                      "cat dirty_bytes dirty_ratio") == b"1048576\n0\n0\n30\n"


def test_a_device_has_its_tunables_in_sysfs(disk):
    kernel, d = disk
    assert sh(kernel, "cd /sys/class/bdi/240:0; cat read_ahead_kb min_ratio max_ratio stable_pages_required; "
                      "echo 256 > read_ahead_kb; cat read_ahead_kb") == b"128\n0\n100\n0\n256\n"
    assert d.bdi.ra_pages == 64


def test_meminfo_counts_buffers_and_dirty_pages(tiny):
    kernel, _ = tiny
    text = sh(kernel, "head -c 40960 /dev/zero > /mnt/t/file; grep -E '^(Buffers|Dirty):' /proc/meminfo; "
                      "grep -E '^nr_(dirty|dirtied) ' /proc/vmstat; sync; grep -E '^nr_(dirty|written) ' /proc/vmstat")
    values = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[:4]}
    assert values[b"Buffers:"] >= 4 and values[b"Dirty:"] == 40 and values[b"nr_dirty"] == 10
    assert b"nr_dirty 0\n" in text and int(text.split()[-1]) >= 10


def test_fibmap_tells_where_a_block_is(tiny, guest_c):
    kernel, _ = tiny
    sh(kernel, "head -c 5000 /dev/zero > /mnt/t/file")
    assert guest_c(kernel, PROGRAM.replace("<unistd.h>", "<unistd.h>\n#include <sys/ioctl.h>\n#include <linux/fs.h>") + r"""
        int main(void) {
        int f = open("/mnt/t/file", O_RDONLY), block = 3, size = 0;
        if (ioctl(f, FIBMAP, &block) || block != 4) return 1;
        if (ioctl(f, FIGETBSZ, &size) || size != 1024) return 2;
        return 0; }""") == 0


def test_a_device_is_mounted_once_and_shared(tiny):
    kernel, d = tiny
    assert sh(kernel, "mkdir -p /mnt/u; mount -t tiny /dev/disk /mnt/u; echo both > /mnt/u/file; cat /mnt/t/file; "
                      "umount /mnt/u") == b"both\n"
    assert b"already mounted" in sh(kernel, "mount -r -t tiny /dev/disk /mnt/u 2>&1 || true")      # EBUSY
    assert b"block device" in sh(kernel, "mount -i -t tiny /dev/null /mnt/u 2>&1 || true")


def test_o_sync_is_on_the_device_when_write_returns(tiny, guest_c):
    kernel, d = tiny
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        int f = open("/mnt/t/file", O_RDWR | O_SYNC);
        if (write(f, "sync", 4) != 4) return 1;
        return 0; }""") == 0
    assert d.data[1024:1028] == b"sync"
    assert d.data[4] == 0                            # the inode's buffer belongs to the device: not written yet


def test_waiting_for_a_disk_is_iowait(disk):
    kernel, d = disk
    d.latency_ns = 50_000_000
    text = sh(kernel, "head -1 /proc/stat; dd if=/dev/disk of=/dev/null bs=4096 count=64 iflag=direct 2>/dev/null; "
                      "head -1 /proc/stat")
    first, last = (list(map(int, line.split()[1:])) for line in text.splitlines())
    assert last[4] - first[4] > 100                  # ticks of 10 ms


def test_an_unreadable_page_is_eio_for_read_and_sigbus_for_a_mapping(disk, guest_c):
    kernel, d = disk
    d.bad = set(range(64, 72))
    sh(kernel, "true")
    assert guest_c(kernel, PROGRAM + r"""
        #include <signal.h>
        static void bus(int s) { _exit(0); }
        int main(void) {
        int f = open("/dev/disk", O_RDONLY);
        char b[16];
        if (pread(f, b, 16, 64 * 512) != -1 || errno != EIO) return 1;
        if (pread(f, b, 16, 72 * 512) != 16) return 2;
        signal(SIGBUS, bus);
        volatile char *p = mmap(0, 4096, PROT_READ, MAP_SHARED, f, 64 * 512);
        p[0];
        return 3; }""") == 0
