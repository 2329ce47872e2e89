"""Damaged partition tables: what Linux would make of them, or nothing; never an oops, never an endless loop."""
import random
import subprocess

import pytest

from glasskernel.machine.disk import Disk
from tests.conftest import need

TABLES = {
    "gpt": "label: gpt\nsize=2M\nsize=1M, name=data\nsize=1M",
    "dos": "label: dos\nsize=1M\nsize=2M\nsize=10M, type=5\nsize=1M\nsize=2M\nsize=1M",
}
SECTOR = 512


def places(kind):
    """The sectors that hold the table: the first ones, and where the logical partitions chain on."""
    return range(4) if kind == "gpt" else (0, *range(6144, 24576, 2048))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", TABLES)
def test_no_damage_of_a_table_breaks_the_kernel(boot, tmp_path, kind, seed):
    path = tmp_path / "disk.img"
    with path.open("wb") as f:
        f.truncate(16 << 20)
    subprocess.run([need("sfdisk", "fdisk"), "-q", str(path)], input=TABLES[kind], text=True, check=True)
    dice = random.Random(seed)
    with path.open("r+b") as f:
        for _ in range(dice.choice((1, 4, 30))):
            # The entries are where it hurts: 446 to 510 of a boot record.
            offset = dice.randrange(446, 510) if kind == "dos" else dice.randrange(SECTOR)
            f.seek(dice.choice(places(kind)) * SECTOR + offset)
            f.write(dice.choice((b"\0", b"\5", b"\xff\xff\xff\xff", dice.randbytes(4))))
    kernel = boot(disks=[Disk(str(path), model="ideal")])
    result = kernel.run(["sh", "-c", "cat /proc/partitions; cat /dev/sda? > /dev/null; true"])
    assert result.status == 0 and b" sda\n" in result.stdout
    assert not kernel.oopses


def test_a_chain_of_extended_partitions_that_loops_ends(boot, tmp_path):
    """The link of the first extended boot record leads back to itself."""
    path = tmp_path / "disk.img"
    with path.open("wb") as f:
        f.truncate(16 << 20)
    subprocess.run([need("sfdisk", "fdisk"), "-q", str(path)], input=TABLES["dos"], text=True, check=True)
    with path.open("r+b") as f:
        f.seek(446 + 2 * 16 + 8)
        extended = int.from_bytes(f.read(4), "little")
        f.seek(extended * SECTOR + 446 + 16 + 4)
        f.write(b"\5")
        f.seek(extended * SECTOR + 446 + 16 + 8)
        f.write(bytes(4))
    kernel = boot(disks=[Disk(str(path), model="ideal")])
    result = kernel.run(["cat", "/proc/partitions"])
    assert result.status == 0 and b" sda3\n" in result.stdout
