"""A kernel with a disk that has an ext4 image of the host's mke2fs, and Python that runs inside a system call of it."""
import pathlib
import subprocess
import traceback

import pytest

from glasskernel.fs.block_dev import sb_set_blocksize
from glasskernel.fs.buffer import brelse, sb_bread
from glasskernel.fs.dcache import d_make_root
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import insert_inode_hash, new_inode
from glasskernel.fs.jbd2.journal import jbd2_journal_init_inode
from glasskernel.fs.jbd2.transaction import (
    jbd2__journal_start,
    jbd2_journal_dirty_metadata,
    jbd2_journal_get_write_access,
    jbd2_journal_stop,
)
from glasskernel.fs.libfs import simple_dir_inode_operations, simple_dir_operations, simple_statfs
from glasskernel.fs.super_bdev import kill_block_super, mount_bdev
from glasskernel.fs.types import S_IFDIR, S_IFREG, FileSystemType, SuperOperations
from glasskernel.kernel.current import register
from glasskernel.mm.types import AddressSpaceOperations
from tests.jbd2.journal_disk import JournalDisk

BLOCK = 1024


class Image:
    """An ext4 image: blocks of the file "victim", and of the journal. disk: what the kernel sees."""

    def __init__(self, path, kernel):
        self.path = path
        self.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-J", "size=4", "-O",
                  "^metadata_csum,^64bit,^resize_inode", str(path), "16384"])
        payload = path.with_suffix(".payload")
        payload.write_bytes(b"old!" * (BLOCK * 300 // 4))
        self.debugfs(f"write {payload} victim", write=True)
        self.victim = self.blocks_of("victim", 300)
        self.journal = self.blocks_of("<8>", 4096)
        self.disk = JournalDisk(kernel, megabytes=16)
        self.disk.data[:] = path.read_bytes()
        self.kernel = kernel
        self.count = 0

    @staticmethod
    def run(argv, ok=(0,)):
        done = subprocess.run(argv, capture_output=True, timeout=60)
        assert done.returncode in ok, done
        return done.stdout.decode() + done.stderr.decode()

    def debugfs(self, commands, write=False, path=None):
        return self.run(["debugfs", *(["-w"] if write else []), "-R", commands, str(path or self.path)])

    def blocks_of(self, name, count):
        script = self.path.with_suffix(".cmd")
        script.write_text("".join(f"bmap {name} {n}\n" for n in range(count)))
        text = self.run(["debugfs", "-f", str(script), str(self.path)])
        return [int(line) for line in text.splitlines() if line.strip().isdigit()]

    def inside(self, function):
        """Runs function(sb) in a mount(2) of the disk, and answers what it returns."""
        answer = []

        def fill_super(sb, data, silent):
            sb_set_blocksize(sb, BLOCK)
            sb.s_op = SuperOperations(statfs=simple_statfs)
            root = new_inode(sb)
            root.i_ino, root.i_mode, root.i_nlink = 1, S_IFDIR | 0o755, 2
            root.i_op, root.i_fop = simple_dir_inode_operations, simple_dir_operations
            insert_inode_hash(root)
            sb.s_root = d_make_root(root)
            try:
                answer.append(function(sb))
            except BaseException:
                answer.append(traceback.format_exc())
                raise

        def mount(kernel, fs_type, flags, dev_name, data):
            return mount_bdev(kernel, fs_type, flags, dev_name, data, fill_super)

        self.count += 1
        name = f"jtest{self.count}"
        register_filesystem(self.kernel, FileSystemType(name.encode(), mount, kill_block_super, 1))
        result = self.kernel.run(["/bin/sh", "-c", f"mkdir -p /mnt/t; [ -b /dev/disk ] || mknod /dev/disk b 240 0; "
                                                   f"mount -t {name} /dev/disk /mnt/t && umount /mnt/t"])
        assert result.status == 0 and answer, (result, answer)
        return answer[0]

    def open_journal(self, sb):
        inode = new_inode(sb)
        inode.i_ino, inode.i_mode, inode.i_size = 8, S_IFREG | 0o600, len(self.journal) * BLOCK
        inode.i_data.a_ops = AddressSpaceOperations(bmap=lambda mapping, block: self.journal[block])
        insert_inode_hash(inode)
        return jbd2_journal_init_inode(inode)

    def change(self, journal, sb, numbers, text, sync=False):
        """One handle that fills blocks of "victim" with a text of four bytes."""
        handle = jbd2__journal_start(journal, len(numbers), 0, 0xC40, 0, 0)
        for number in numbers:
            bh = sb_bread(sb, self.victim[number])
            jbd2_journal_get_write_access(handle, bh)
            bh.b_data[:] = text * (BLOCK // 4)
            jbd2_journal_dirty_metadata(handle, bh)
            brelse(bh)
        handle.h_sync = int(sync)
        jbd2_journal_stop(handle)

    def recovered(self, data):
        """What "victim" has after the host's e2fsck has replayed the journal of a disk image."""
        path = self.path.with_suffix(".cut")
        data = bytearray(data)
        data[1024 + 0x60] |= 4                      # needs_recovery
        path.write_bytes(data)
        self.run(["e2fsck", "-fy", str(path)], ok=(0, 1))
        assert "needs_recovery" not in self.run(["dumpe2fs", "-h", str(path)])
        self.run(["e2fsck", "-fn", str(path)])
        image = path.read_bytes()
        return [bytes(image[block * BLOCK : block * BLOCK + 4]) for block in self.victim]

    def here(self, data, number):
        block = self.victim[number]
        return bytes(data[block * BLOCK : block * BLOCK + 4])


@pytest.fixture
def image(boot, tmp_path):
    kernel = boot()
    register.task = kernel.machine.this_cpu.task
    return Image(pathlib.Path(tmp_path) / "image", kernel)
