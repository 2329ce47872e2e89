"""Events of ext4 that only happen on the way to something: each is raised by what Linux raises it by."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "trace"))
from listening import Listener

SCRIPT = """
import ctypes, fcntl, os, struct, time
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, mode, offset, length):
    assert libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0, ctypes.get_errno()
os.chdir("/mnt")
# blocks that were never written: the second write moves the border to its written neighbour
f = os.open("unwritten", os.O_CREAT | os.O_RDWR); fallocate(f, 0, 0, 65536)
for block in range(3):
    os.pwrite(f, b"x" * 4096, block * 4096); os.fsync(f)
fallocate(f, 0x10, 0, 32768)                                # FALLOC_FL_ZERO_RANGE
os.ftruncate(f, 8192); os.close(f)
# preallocations: of a file that grows in pieces, and of a group of small files
f = os.open("grows", os.O_CREAT | os.O_RDWR)
for i in range(40):
    os.write(f, b"y" * 8192); os.fsync(f)
os.close(f)
for i in range(3):
    f = os.open(f"small{i}", os.O_CREAT | os.O_RDWR); os.write(f, b"z" * 5000); os.fsync(f); os.close(f)
# times of the neighbour in the same block of inodes
os.sync(); time.sleep(0.1); open("small0", "rb").read(); os.chmod("small1", 0o600); os.sync()
f = os.open("hole", os.O_CREAT | os.O_RDWR); os.ftruncate(f, 1 << 20); os.pread(f, 4096, 8192); os.close(f); os.unlink("hole")
open("/proc/sys/vm/drop_caches", "w").write("3"); open("grows", "rb").read()
open("/proc/sys/vm/drop_caches", "w").write("3")
f = os.open(".", os.O_RDONLY)
fcntl.ioctl(f, 0xC0185879, struct.pack("QQQ", 0, 1 << 40, 0))   # FITRIM
# the last blocks come from where small files have kept some
try:
    with open("full", "wb", 0) as full:
        while True:
            full.write(b"w" * 65536); os.fsync(full.fileno())
except OSError:
    pass
fcntl.ioctl(f, 0x8004587D, struct.pack("I", 0))             # EXT4_IOC_SHUTDOWN
"""
EXPECTED = [
    "begin_ordered_truncate", "drop_inode", "es_find_extent_range_enter", "es_find_extent_range_exit",
    "es_lookup_extent_enter", "es_lookup_extent_exit", "es_shrink", "es_shrink_count", "es_shrink_scan_enter",
    "es_shrink_scan_exit", "ext_convert_to_initialized_fastpath", "ext_remove_space_done", "ext_show_extent",
    "mb_bitmap_load", "mb_release_group_pa", "mb_release_inode_pa", "mballoc_alloc", "mballoc_discard",
    "mballoc_free", "mballoc_prealloc", "other_inode_update_time", "shutdown", "trim_all_free", "trim_extent",
    "zero_range",
]


def test_what_happens_on_the_way_is_told(ext4):
    """Every event above, with texts in Linux's format."""
    fs = ext4(size="16M", mount="lazytime,strictatime")
    listener = Listener(fs.kernel, {f"ext4_{name}" for name in EXPECTED})
    fs.sh(f"python3 -c '{SCRIPT.replace(chr(39), chr(34))}'")
    listener.stop()
    assert [name for name in EXPECTED if not listener.counts[f"ext4_{name}"]] == []
    line = listener.lines["ext4_ext_convert_to_initialized_fastpath"][0]
    ints = [int(n) for n in re.findall(r"(?:lblk|len|pblk) (\d+)", line)]
    m_lblk, m_len, u_lblk, u_len, u_pblk, i_lblk, i_len, i_pblk = ints
    assert (u_lblk, i_lblk + i_len, i_pblk + i_len) == (m_lblk, m_lblk, u_pblk), line
    assert u_len > m_len
    assert listener.records["ext4_ext_remove_space_done"][0]["eh_entries"] >= 1          # truncated, not emptied


def test_unwritten_blocks_are_converted_under_reserved_credits(ext4):
    """dioread_nolock: the end of I/O starts the handle whose credits were reserved when the pages went out."""
    fs = ext4("-t ext4 -b 4096", mount="dioread_nolock")
    listener = Listener(fs.kernel, {"ext4_journal_start_reserved"})
    fs.sh("echo data > /mnt/f; sync; cat /mnt/f")
    listener.stop()
    assert listener.counts["ext4_journal_start_reserved"] == 1
    assert re.fullmatch(r"dev 8,0 blocks, \d+ caller \w+\+0x[0-9a-f]+/0x[0-9a-f]+", listener.lines["ext4_journal_start_reserved"][0])
    fs.done()


def test_a_border_moves_to_both_sides(ext4):
    """The head of an unwritten extent joins the written one before it, the tail the one behind it; e2fsck agrees."""
    fs = ext4("-t ext4 -b 4096")
    listener = Listener(fs.kernel, {"ext4_ext_convert_to_initialized_fastpath"})
    fs.sh("""cd /mnt; fallocate -l 64k f
        for block in 0 15 1 14 2 13; do
            printf %04096d $block | dd of=f bs=4k seek=$block conv=notrunc,fsync 2>/dev/null
        done; echo 3 >/proc/sys/vm/drop_caches
        for block in 0 1 2 13 14 15; do printf %04096d $block >want
            dd if=f bs=4k skip=$block count=1 2>/dev/null | cmp - want || exit 1; done""")
    listener.stop()
    blocks = [record["m_lblk"] for record in listener.records["ext4_ext_convert_to_initialized_fastpath"]]
    assert blocks == [1, 14, 2, 13]
    fs.done()


def test_random_changes_under_dioread_nolock(ext4):
    """What is written, cut, punched and mapped reads back, cold as well; e2fsck agrees."""
    fs = ext4("-t ext4 -b 4096", mount="dioread_nolock")
    fs.sh("""python3 -c '
import mmap, os, random, subprocess
r = random.Random(5); want = bytearray(); f = os.open("/mnt/f", os.O_CREAT | os.O_RDWR)
for step in range(250):
    what, at, length = r.randrange(8), r.randrange(200000), r.randrange(1, 30000)
    if what < 3:
        want.extend(bytes(max(0, at + length - len(want)))); want[at:at + length] = data = r.randbytes(length)
        os.pwrite(f, data, at)
    elif what == 3:
        want = (want + bytes(max(0, at - len(want))))[:at]; os.ftruncate(f, at)
    elif what == 4 and len(want) > at + length:
        want[at:at + length] = bytes(length)
        subprocess.run(["fallocate", "-p", "-o", str(at), "-l", str(length), "/mnt/f"], check=True)
    elif what == 5 and len(want) > at:
        m = mmap.mmap(f, len(want)); end = min(at + length, len(want))
        m[at:end] = want[at:end] = r.randbytes(end - at); m.close()
    elif what == 6:
        os.fsync(f)
    else:
        want.extend(bytes(max(0, at + length - len(want)))); os.posix_fallocate(f, at, length)
    if step % 50 == 49:
        os.sync(); open("/proc/sys/vm/drop_caches", "w").write("3")
    assert os.pread(f, 1 << 20, 0) == want, (step, what, at, length)
'""")
    fs.done()
