"""What ext4 does at its limits: the right errno, nothing lost, and e2fsck has nothing to say."""
import pytest

from tests.conftest import PROGRAMS

LARGEST = {"4096": 16 * 2**40 - 4096, "1024": 4 * 2**40 - 1024}


@pytest.fixture
def limits(build_c, ext4):
    """limits(mke2fs options, size) -> (the disk, what runs a part of limits.c in a new directory of it)."""
    program = build_c(PROGRAMS / "limits.c")

    def start(options, size="16M", mount=""):
        fs = ext4(options, size=size, mount=mount)

        def go(*arguments):
            result = fs.kernel.run([f"/programs/{program.name}", *arguments], cwd="/")
            assert result.status == 0, result.stdout.decode() + result.stderr.decode()
            return result.stdout.decode()

        fs.sh("mkdir /mnt/d")
        return fs, go

    return start


@pytest.mark.parametrize("options", ["-t ext4", "-t ext4 -b 4096", "-t ext3", "-t ext2"])
def test_a_full_disk(limits, options):
    """ENOSPC; what is there can be written; after rm there is room again; SIGBUS for a mapped hole."""
    fs, go = limits(options, size="10M")
    go("/mnt/d", "space")
    go("/mnt/d", "mmap")
    fs.done()


def test_a_full_disk_without_delayed_allocation(limits):
    fs, go = limits("-t ext4", size="10M", mount="nodelalloc")
    go("/mnt/d", "space")
    fs.done()


def test_no_inode_is_left(limits):
    """ENOSPC, though there are blocks."""
    fs, go = limits("-t ext4 -N 256")
    go("/mnt/d", "inodes")
    fs.done()


def test_names(limits):
    """255 bytes fit."""
    fs, go = limits("-t ext4")
    go("/mnt/d", "names")
    fs.done()


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_sparse_files_and_the_largest(limits, block):
    """A file of 1 TB; EFBIG behind the last byte that an extent can name, and at RLIMIT_FSIZE."""
    fs, go = limits(f"-t ext4 -b {block}")
    go("/mnt/d", "sparse", str(LARGEST[block]))
    fs.done()


def test_a_block_map_has_a_smaller_limit(limits):
    """ext3 with blocks of 1 KB: 16 GB."""
    fs, go = limits("-t ext3 -b 1024")
    size = 1024 * (12 + 256 + 256**2 + 256**3)
    fs.sh(f"truncate -s {size} /mnt/d/f; ! truncate -s {size + 1} /mnt/d/g 2> /tmp/e; grep -q 'File too large' /tmp/e")
    fs.sh(f"echo -n x | dd of=/mnt/d/f bs=1 seek={size - 1} conv=notrunc 2>/dev/null; tail -c 1 /mnt/d/f | grep -q x")
    fs.done()


def test_a_directory_of_three_thousand_names(limits):
    """Blocks of 1 KB: the index has two levels. (100,000 in `make conformance`.)"""
    fs, go = limits("-t ext4 -b 1024 -N 8192")
    go("/mnt/d", "many", "3000")
    fs.sh("debugfs -R 'htree_dump /d' /dev/sda 2>/dev/null | grep -q 'Indirect levels: 1'")
    fs.umount()
    fs.mount()
    fs.sh("test $(ls /mnt/d | wc -l) = 3000")
    go("/mnt/d", "unlink", "3000")
    fs.done()


def test_a_file_of_sixty_five_thousand_links(limits):
    """EMLINK. The first 64,989 links are only counted (`make conformance` makes all of them)."""
    fs, go = limits("-t ext4")
    fs.sh("touch /mnt/d/file")
    kernel = fs.kernel
    inode = next(i for sb in kernel.vfs.super_blocks if sb.s_type.name == b"ext4" for i in sb.s_inode_list
                 if i.i_ino == int(fs.sh("stat -c %i /mnt/d/file")))
    inode.i_nlink = 64_990
    assert fs.run("for i in $(seq 20); do ln /mnt/d/file /mnt/d/l$i || exit; done").stderr.endswith(b"Too many links\n")
    assert fs.sh("ls /mnt/d | wc -l; stat -c %h /mnt/d/file") == "11\n65000\n"
    inode.i_nlink = 11
    fs.sh("touch /mnt/d/file; rm /mnt/d/l*")
    fs.done()


def test_directories_of_sixty_five_thousand_directories(limits):
    """dir_nlink: behind 64,999 subdirectories the count is 1; without it EMLINK."""
    fs, go = limits("-t ext4 -O ^dir_nlink -b 1024")
    kernel = fs.kernel
    inode = next(i for sb in kernel.vfs.super_blocks if sb.s_type.name == b"ext4" for i in sb.s_inode_list
                 if i.i_ino == int(fs.sh("stat -c %i /mnt/d")))
    inode.i_nlink = 64_998
    assert fs.run("mkdir /mnt/d/1 /mnt/d/2 /mnt/d/3").stderr.endswith(b"Too many links\n")
    assert fs.sh("ls /mnt/d; stat -c %h /mnt/d") == "1\n2\n65000\n"
    inode.i_nlink = 4
    fs.sh("rmdir /mnt/d/1 /mnt/d/2")
    fs.done()
