"""Loop devices and RAM disks, through Debian's losetup."""


def test_a_file_is_a_disk(sh):
    out, _ = sh([], "ls /sys/block; truncate -s 8M /tmp/img; losetup -f; ls -l /dev/loop0 /dev/loop-control | awk '{print $1,$3,$4,$5,$6}'; "
                "losetup -f --show /tmp/img; losetup -nO NAME,BACK-FILE,OFFSET,RO -l | tr -s ' '; cat /sys/block/loop0/size; "
                "printf data | dd of=/dev/loop0 bs=512 seek=5 conv=sync,fsync 2>/dev/null; tail -c +2561 /tmp/img | head -c 4; echo; "
                "losetup -d /dev/loop0; cat /sys/block/loop0/size; losetup -a; head -c 1 /dev/loop0 | wc -c")
    lines = out.splitlines()
    assert lines[:3] == ["/dev/loop0", "crw-rw---- root root 10, 237", "brw-rw---- root disk 7, 0"]
    assert lines[3:] == ["/dev/loop0", "/dev/loop0 /tmp/img 0 0", "16384", "data", "0", "0"]


def test_offset_size_limit_and_read_only(sh):
    out, _ = sh([], "seq 1 2000 > /tmp/img; truncate -s 64K /tmp/img; losetup -r -o 4096 --sizelimit 8192 /dev/loop3 /tmp/img; "
                "blockdev --getsize64 --getro /dev/loop3; cmp -n 8192 -i 4096:0 /tmp/img /dev/loop3 && echo same; "
                "echo x > /dev/loop3 || echo denied; losetup -D")
    assert out == "8192\n1\nsame\ndenied\n"


def test_partitions_on_a_loop_device(sh):
    out, kernel = sh([], r"truncate -s 16M /tmp/img; printf 'label: dos\nsize=4M\nsize=2M\n' | sfdisk -q /tmp/img; "
                     "losetup -P -f --show /tmp/img; lsblk -rno NAME,MAJ:MIN,SIZE,TYPE /dev/loop0; "
                     "printf part | dd of=/dev/loop0p2 bs=512 conv=sync,fsync 2>/dev/null; cmp -n 4 -i 0:5242880 /dev/loop0p2 /tmp/img; "
                     "losetup -d /dev/loop0; ls /dev/loop0p* 2>/dev/null | wc -l")
    assert out == "/dev/loop0\nloop0 7:0 16M loop\nloop0p1 259:0 4M part\nloop0p2 259:1 2M part\n0\n"


def test_a_discard_is_a_hole_in_the_file(sh):
    out, _ = sh([], "dd if=/dev/urandom of=/tmp/img bs=1M count=4 2>/dev/null; losetup /dev/loop0 /tmp/img; stat -c %b /tmp/img; "
                "blkdiscard -o 1M -l 2M /dev/loop0; stat -c %b /tmp/img; dd if=/tmp/img bs=1M skip=1 count=2 2>/dev/null | tr -d '\\0' | wc -c; "
                "losetup -d /dev/loop0")
    assert out == "8192\n4096\n0\n"


def test_a_file_that_grew_is_seen_when_asked_for(sh):
    out, _ = sh([], "truncate -s 1M /tmp/img; losetup /dev/loop1 /tmp/img; truncate -s 2M /tmp/img; blockdev --getsz /dev/loop1; "
                "losetup -c /dev/loop1; blockdev --getsz /dev/loop1; losetup -d /dev/loop1")
    assert out == "2048\n4096\n"


def test_a_device_in_use_is_cleared_by_its_last_close(sh):
    out, _ = sh([], "truncate -s 1M /tmp/img; losetup /dev/loop2 /tmp/img; exec 3< /dev/loop2; losetup -d /dev/loop2; "
                "cat /sys/block/loop2/loop/autoclear; exec 3<&-; cat /sys/block/loop2/size; losetup /dev/loop2 /tmp/img; "
                "losetup /dev/loop2 /tmp/img 2>&1 | grep -o busy; losetup -D")
    assert out == "1\n0\nbusy\n"


def test_more_loop_devices_are_made_when_needed(sh):
    out, _ = sh([], "for n in 0 1 2 3 4 5 6 7 8; do truncate -s 64K /tmp/i$n; losetup -f --show /tmp/i$n; done | tail -n 2; "
                "test -b /dev/loop8; losetup -D; losetup -a | wc -l")
    assert out == "/dev/loop7\n/dev/loop8\n0\n"


def test_a_loop_device_over_a_disk(sh, memory_disk):
    disk = memory_disk(8)
    sh([disk], "losetup -o 1M /dev/loop0 /dev/sda; printf deep | dd of=/dev/loop0 bs=512 seek=1 conv=sync,fsync 2>/dev/null; "
       "losetup -d /dev/loop0; sync")
    assert disk.read_bytes((1 << 20) + 512, 4) == b"deep"


def test_ram_disks_come_with_their_first_use(sh):
    out, _ = sh([], "ls /dev/ram* 2>/dev/null | wc -l; mknod /dev/first b 1 0; dd if=/dev/urandom of=/dev/first bs=64k count=8 2>/dev/null; "
                "ls /dev/ram* | wc -l; cmp -n 524288 /dev/first /dev/ram0 && blockdev --getsize64 /dev/ram0; "
                "cat /sys/block/ram0/queue/scheduler; awk '{print $5}' /sys/block/ram0/stat")
    lines = out.splitlines()
    assert lines[:4] == ["0", "16", "16777216", "none"] and int(lines[4]) > 0


def test_ram_disks_at_boot(sh):
    out, _ = sh([], "ls /dev/ram*; blockdev --getsize64 /dev/ram1", cmdline="oops=panic brd.rd_nr=2 brd.rd_size=1024")
    assert out == "/dev/ram0\n/dev/ram1\n1048576\n"
