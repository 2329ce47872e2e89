"""Real programs on ext4, in their whole size: tests/storage_tools and tests/storage_limits with nothing left out."""
from __future__ import annotations

import pathlib
import subprocess

from tests.storage_tools import scripts, sqlite

SHELL = {
    **{f"fio {job}": scripts.fio(job, "16m") for job in scripts.FIO_JOBS},
    "git 2000": scripts.git(2000),
    "tar python3.11": scripts.tar("/usr/lib/python3.11"),
    **{f"disk-stress {name}": scripts.stress(name, options, 4) for name, options in scripts.STRESSORS.items()},
    "disk-stress link": scripts.stress("link", "--link-ops 1"),
    "links 70000": "/programs/limits /mnt/d links 70000",
    "directory 100000": "/programs/limits /mnt/d many 100000 && cd / && umount /mnt && mount /dev/sda /mnt && "
                        "test $(ls /mnt/d | wc -l) = 100000 && /programs/limits /mnt/d unlink 100000",
}
CASES = [*SHELL, "sqlite delete", "sqlite wal"]
ROWS, CUTS = 20, 400                           # of sqlite: every command of the disk, unless there are more


def on_disk(script: str, directory: pathlib.Path) -> list[str]:
    """A line of shell on a fresh disk of 1 GB: what went wrong."""
    from glasskernel import Kernel, Share
    from glasskernel.machine.disk import Disk
    from glasskernel.tools.invariants import check_kernel
    from tests.conformance.cpython import ENV

    programs = pathlib.Path(__file__).parent.parent / "programs"
    subprocess.run(["gcc", "-O1", "-static", "-I", programs, "-o", directory / "limits", programs / "limits.c"], check=True,
                   stderr=subprocess.DEVNULL)
    image = directory / "disk.img"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-N", "131072", str(image), "1G"], check=True)
    disk = Disk(str(image), model="ssd")
    kernel = Kernel(cmdline="oops=panic", disks=[disk], home=False, shares=[Share(str(directory), "/programs")])
    result = kernel.run(["/bin/bash", "-c", "mkdir -p /mnt; mount /dev/sda /mnt && mkdir /mnt/d && rmdir /mnt/d || exit 99\n"
                         + ("mkdir /mnt/d\n" if "/mnt/d" in script else "") + script], env=ENV, cwd="/")
    wrong = [f"status {result.status}: {(result.stdout + result.stderr)[-300:].decode(errors='replace')}"] if result.status else []
    if kernel.run(["/bin/umount", "/mnt"]).status:
        wrong.append("umount fails")
    wrong += [*kernel.oopses, *check_kernel(kernel)]
    kernel.close()
    disk.close()
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, check=False)
    if checked.returncode:
        wrong.append("e2fsck: " + checked.stdout.decode()[-300:])
    return wrong


def inside(name: str, directory: pathlib.Path) -> dict[str, object]:
    """One row. why: the first that went wrong."""
    if name.startswith("sqlite"):
        wrong = sqlite.sweep(directory, name.split()[1], ROWS, CUTS)
    else:
        wrong = on_disk(SHELL[name], directory)
    return {"status": 1 if wrong else 0, "good": int(not wrong), "runs": 1, "why": wrong[0].replace("\n", " ") if wrong else "",
            "oopses": 0, "invariants": []}
