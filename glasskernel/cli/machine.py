"""From --disk, --no-disk and --root IMAGE to the disks of a machine, and what is mounted where.

Invariants: a disk that cannot be used is told in one line before anything boots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from glasskernel.cli.options import RootImage


def machine_disks(
    root: str | RootImage | None, disks: Sequence[dict[str, Any]], no_disk: bool, seed: int
) -> dict[str, Any]:
    """The arguments `root`, `disks`, `root_dev` and `home_dev` of Kernel()."""
    from glasskernel.machine.disk import Disk

    made = [Disk(seed=seed, **disk) for disk in disks]
    if isinstance(root, RootImage):
        return {"root": None, **_root_image(root, made, seed)}
    if root is not None or no_disk:
        return {"root": root, "disks": made}
    from glasskernel.tools.image.home import home_disks

    try:
        found, home = home_disks(made, seed)
    except ValueError as e:
        raise click.UsageError(f"--disk: {e}; --no-disk leaves it alone") from None
    return {"root": None, "disks": found, "home_dev": home}


def _root_image(root: RootImage, disks: list[Any], seed: int) -> dict[str, Any]:
    """The image is the first disk."""
    from glasskernel.machine.disk import Disk
    from glasskernel.tools.image.home import find_ext4

    disk = Disk(root.path, seed=seed) if root.writable else Disk(base=root.path, seed=seed)
    device = find_ext4(disk)
    if device is None:
        raise click.UsageError(f"--root: {root.path} has no ext4 file system")
    return {"disks": [disk, *disks], "root_dev": device}
