"""echo 2 >/proc/sys/vm/drop_caches: what nobody uses and what is on disk goes, and comes back when it is wanted."""


def test_unused_inodes_go_and_are_read_again(ext4):
    fs = ext4("-t ext4 -b 4096")
    sb = next(sb for sb in fs.kernel.vfs.super_blocks if sb.s_type.name == b"ext4" and sb.s_root is not None)
    fs.sh("cd /mnt; for i in $(seq 40); do echo $i >f$i; done; ln f1 again; mkdir d; echo deep >d/e; sync")
    before = len(sb.s_inode_list)
    assert before >= 42
    fs.sh("""cd /mnt/d; exec 3<../f7; echo dirty >../f8; echo 2 >/proc/sys/vm/drop_caches
        read word <&3; [ $word = 7 ]""")
    left = {inode.i_ino for inode in sb.s_inode_list}
    assert before - len(left) >= 38
    numbers = dict(reversed(line.split()) for line in fs.sh("cd /mnt; ls -i f7 f8").splitlines())
    assert {int(numbers["f7"]), int(numbers["f8"])} <= left, "one was open, the other has not been written"
    text = fs.sh("cd /mnt; cat f[0-9] again d/e; stat -c %h f1")
    assert text.split() == ["1", "2", "3", "4", "5", "6", "7", "dirty", "9", "1", "deep", "2"]
    fs.done()


def test_extents_are_looked_up_again(ext4):
    """A file of many extents: its status tree is emptied, but for blocks that have no place on disk yet."""
    fs = ext4("-t ext4 -b 4096")
    fs.sh("""cd /mnt; python3 -c '
import os
f = os.open("holes", os.O_CREAT | os.O_RDWR)
for i in range(0, 200, 2):
    os.pwrite(f, b"%04d" % i, i * 4096)
os.fsync(f)
os.pwrite(f, b"later", 500 * 4096)
for _ in range(2):                            # who was used gets a second round
    open("/proc/sys/vm/drop_caches", "w").write("2")
text = open("/proc/fs/ext4/sda/es_shrinker_info").read()
assert "\\n  0 reclaimable" in text and "  0 objects" not in text, text
assert all(os.pread(f, 4, i * 4096) == b"%04d" % i for i in range(0, 200, 2)) and os.pread(f, 4, 4096) == bytes(4)
assert os.pread(f, 5, 500 * 4096) == b"later"
'""")
    fs.done()
