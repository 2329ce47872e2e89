"""Journals that are damaged: the mount is refused with Linux's words, and nothing oopses or hangs."""
import random
import subprocess

import pytest

from glasskernel.machine.disk import Disk

BLOCK = 1024


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "image"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-E", "lazy_journal_init=0", str(path), "16M"],
                   check=True, capture_output=True)
    found = subprocess.run(["debugfs", "-R", "bmap <8> 0", str(path)], check=True, capture_output=True)
    return path.read_bytes(), int(found.stdout) * BLOCK


def mount(boot, tmp_path, data):
    path = tmp_path / "damaged"
    path.write_bytes(data)
    kernel = boot(disks=[Disk(base=str(path))], cpus=1, memory=64 << 20)
    result = kernel.run(["/bin/sh", "-c", "mkdir /mnt/t; mount -t ext4 /dev/sda /mnt/t && umount /mnt/t"])
    return result.status, kernel.dmesg()


@pytest.mark.parametrize(("offset", "value", "words"), [
    (0, 0x12345678, "no valid journal superblock found"),                # h_magic
    (4, 9, "unrecognised superblock format ID"),                         # h_blocktype
    (16, 1 << 24, "journal file too short"),                             # s_maxlen
    (20, 0, "Invalid start block of journal: 0"),                        # s_first
    (40, 1 << 16, "Unrecognised features on journal"),                   # s_feature_incompat
    (40, 0x18, "Can't enable checksumming v2 and v3 at the same time!"),
    (40, 0x10, "Unknown checksum type"),
])
def test_a_superblock_that_makes_no_sense_is_refused(boot, tmp_path, image, offset, value, words):
    data, start = image
    damaged = bytearray(data)
    damaged[start + offset : start + offset + 4] = value.to_bytes(4, "big")
    status, log = mount(boot, tmp_path, damaged)
    assert status == 32
    assert f"JBD2: {words}" in log
    assert "EXT4-fs (sda): error loading journal" in log


def needs_recovery(damaged, start, sequence, block=1):
    """As if there was something in the log."""
    damaged[1024 + 0x60] |= 4
    damaged[1024 + 0x3FC : 1024 + 0x400] = bytes(4)
    damaged[start + 24 : start + 28] = sequence.to_bytes(4, "big")
    damaged[start + 28 : start + 32] = block.to_bytes(4, "big")


@pytest.fixture
def plain(tmp_path):
    """The same without checksums: what is written into it counts."""
    path = tmp_path / "plain"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-O", "^metadata_csum,^64bit", "-E",
                    "lazy_journal_init=0", str(path), "16M"], check=True, capture_output=True)
    found = subprocess.run(["debugfs", "-R", "bmap <8> 0", str(path)], check=True, capture_output=True)
    return bytearray(path.read_bytes()), int(found.stdout) * BLOCK


def test_a_log_that_begins_behind_its_end_is_refused(boot, tmp_path, plain):
    damaged, start = plain
    needs_recovery(damaged, start, 5, 1 << 20)
    status, log = mount(boot, tmp_path, damaged)
    assert status == 32 and "JBD2: corrupted journal superblock" in log and "JBD2: recovery failed" in log


def test_descriptors_all_around_the_log_do_not_hang_the_mount(boot, tmp_path, plain):
    damaged, start = plain
    needs_recovery(damaged, start, 5)
    length = int.from_bytes(damaged[start + 16 : start + 20], "big")
    # magic, descriptor, transaction 5; one tag: block 9000, last one
    block = (bytes.fromhex("c03b3998 00000001 00000005") + (9000).to_bytes(4, "big") + bytes.fromhex("0000 0008")
             + bytes(16)).ljust(BLOCK, b"\0")
    for number in range(1, length):
        damaged[start + number * BLOCK : start + (number + 1) * BLOCK] = block
    status, log = mount(boot, tmp_path, damaged)
    assert status == 32 and "JBD2: recovery failed" in log


@pytest.mark.parametrize("seed", range(6))
def test_noise_in_the_log_ends_in_a_mount_or_in_an_error(boot, tmp_path, plain, seed):
    """Every block that begins like one of the log has nonsense behind it."""
    damaged, start = plain
    dice = random.Random(seed)
    needs_recovery(damaged, start, 5)
    for number in range(1, 300):
        header = (0xC03B3998).to_bytes(4, "big") + dice.choice((1, 2, 5)).to_bytes(4, "big") + (5).to_bytes(4, "big")
        rest = dice.randbytes(64) if dice.random() < 0.5 else bytes(64)
        damaged[start + number * BLOCK : start + number * BLOCK + 76] = header + rest
    status, _log = mount(boot, tmp_path, damaged)
    assert status in (0, 32)
