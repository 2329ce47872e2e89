"""Block device files: the page cache of a device."""


def sh(kernel, script):
    result = kernel.run(["/bin/sh", "-c", "[ -b /dev/disk ] || mknod /dev/disk b 240 0; " + script])
    assert result.status == 0, result
    return result.stdout


def test_a_read_of_a_device_comes_through_the_page_cache_once(disk):
    kernel, d = disk
    d.data[:6] = b"hello\n"
    assert sh(kernel, "head -c 6 /dev/disk; head -c 6 /dev/disk") == b"hello\nhello\n"
    assert d.log and all(op == "R" for op, _, _ in d.log)


def test_what_is_written_is_on_the_device_after_the_last_close(disk):
    kernel, d = disk
    sh(kernel, "printf abc | dd of=/dev/disk bs=1 seek=5000 conv=notrunc 2>/dev/null")
    assert d.data[5000:5003] == b"abc"


def test_direct_io_moves_pages_past_the_cache(disk):
    kernel, d = disk
    d.data[4096:8192] = b"x" * 4096
    assert sh(kernel, "dd if=/dev/disk bs=4096 skip=1 count=1 iflag=direct 2>/dev/null | tr -d x | wc -c").strip() == b"0"
    assert d.log[-1] == ("R", 8, 4096)
    sh(kernel, "yes | head -c 8192 | dd of=/dev/disk bs=8192 oflag=direct conv=notrunc iflag=fullblock 2>/dev/null")
    assert d.data[:8192] == b"y\n" * 4096


PROGRAM = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
"""



def test_an_error_of_a_write_is_told_once_to_every_open_file(disk, guest_c):
    """fsync(2): EIO; a second fsync() on the same descriptor succeeds."""
    kernel, d = disk
    d.bad = {16}
    sh(kernel, "true")
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        char buf[4096]; memset(buf, 'x', 4096);
        int a = open("/dev/disk", O_RDWR), b = open("/dev/disk", O_RDWR);
        if (pwrite(a, buf, 4096, 8192) != 4096) return 1;
        if (fsync(a) != -1 || errno != EIO) return 2;
        if (fsync(a) != 0) return 3;
        if (fsync(b) != -1 || errno != EIO) return 4;
        if (fsync(b) != 0) return 5;
        return 0; }""") == 0


def test_the_flusher_writes_what_is_older_than_the_expiry(disk, guest_c):
    """proc(5): dirty_expire_centisecs: data older than 30 s is written at the next wakeup of the flusher."""
    kernel, d = disk
    sh(kernel, "true")
    start = kernel.now_ns
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        int a = open("/dev/disk", O_RDWR);
        if (pwrite(a, "dirty", 5, 0) != 5) return 1;
        sleep(60); return 0; }""") == 0
    written = [when - start for (op, _, _), when in zip(d.log, d.times, strict=True) if op == "W"]
    assert len(written) == 1 and 30e9 <= written[0] <= 36e9
    assert d.data[:5] == b"dirty"


def test_a_shared_mapping_of_a_device_is_stored_by_msync(disk, guest_c):
    kernel, d = disk
    sh(kernel, "true")
    assert guest_c(kernel, PROGRAM + r"""int main(void) {
        int a = open("/dev/disk", O_RDWR);
        char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
        p[4097] = 'm';
        if (msync(p, 8192, MS_SYNC)) return 1;
        if (pread(a, p + 5000, 1, 4097) != 1 || p[5000] != 'm') return 2;
        return 0; }""") == 0
    assert d.data[4097:4098] == b"m" and d.data[5000:5001] == b"m"


def test_reading_ahead_of_a_sequential_reader_makes_large_requests(disk):
    kernel, d = disk
    sh(kernel, "dd if=/dev/disk of=/dev/null bs=4096 count=512 2>/dev/null")
    reads = [size for op, _, size in d.log if op == "R"]
    assert max(reads) >= 65536 and len(reads) < 40
