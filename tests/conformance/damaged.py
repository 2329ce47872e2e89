"""Damaged images: the 500 seeds of tests/ext4/mutate.py, fifty in a row of the table."""
from __future__ import annotations

import pathlib
import shutil

from tests.ext4.mutate import FORMATS, WALK, make_images, mutate

SEEDS, SLICE = 500, 50
CASES = [f"images {first}" for first in range(0, SEEDS, SLICE)]


def one(path: pathlib.Path, kind: str) -> list[str]:
    """What goes wrong in the kernel that mounts it, reads it and writes to it."""
    from glasskernel import Kernel
    from glasskernel.init.command import KernelStopped
    from glasskernel.machine.disk import Disk
    from glasskernel.tools.invariants import check_kernel

    disk = Disk(str(path), model="ideal")
    kernel = Kernel(cmdline="oops=panic", disks=[disk], home=False)
    try:
        kernel.run(["/bin/bash", "-c", WALK % kind], cwd="/")
    except KernelStopped as stopped:
        return [str(stopped), *kernel.oopses]
    wrong = [*kernel.oopses, *check_kernel(kernel)]
    kernel.close()
    disk.close()
    return wrong


def inside(name: str, directory: pathlib.Path) -> dict[str, object]:
    """All seeds of one row. why: the first that went wrong; `log` names the one that is under way, should it never end."""
    first = int(name.split()[1])
    good_images = make_images(directory)
    good, why = 0, ""
    for seed in range(first, first + SLICE):
        which = seed % len(FORMATS)
        path = directory / "damaged.img"
        shutil.copy(good_images[which], path)
        what = mutate(path, seed)
        (directory / "log").write_text(f"seed {seed} ({FORMATS[which]}): {what}")
        wrong = one(path, FORMATS[which].split()[1])
        good += not wrong
        if wrong and not why:
            why = f"seed {seed} ({FORMATS[which]}: {what}): {wrong[0].partition(chr(10))[0]}"
    return {"status": 0 if good == SLICE else 1, "good": good, "runs": SLICE, "why": why, "oopses": 0, "invariants": []}
