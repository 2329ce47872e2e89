"""Makes home.bin, the default disk as it leaves the factory: python -m glasskernel.tools.image.home_image

A test compares the file with what this would write.
"""
from __future__ import annotations

import zlib

from glasskernel.init.command import BOOT_TIME_NS
from glasskernel.machine.disk import PAGE, Disk
from glasskernel.tools.image.geometry import MkfsOptions
from glasskernel.tools.image.home import DEFAULT_SIZE, HOME, format_second_partition


def home_image() -> bytes:
    """The pages that are not zero, each behind its number; compressed."""
    disk = Disk(size=DEFAULT_SIZE)
    options = MkfsOptions(root_mode=0o700, lost_found=False, now=BOOT_TIME_NS // 1_000_000_000,
                          features=("^resize_inode", "metadata_csum_seed"))
    format_second_partition(disk, options, 0)
    step = 256                                             # most of the disk is zeros: look at 1 MB at a time
    runs = [n for n in range(0, disk.size // PAGE, step) if disk.read_bytes(n * PAGE, step * PAGE).strip(b"\0")]
    pages = [n for run in runs for n in range(run, run + step) if any(disk.read_bytes(n * PAGE, PAGE))]
    return zlib.compress(b"".join(n.to_bytes(4, "little") + disk.read_bytes(n * PAGE, PAGE) for n in pages), 9)


if __name__ == "__main__":
    with open(HOME, "wb") as file:
        file.write(home_image())
