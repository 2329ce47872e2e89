"""`glasskernel shell`: the first shell the guest has, on the console, at the pace of the host's clock."""

from __future__ import annotations

from typing import Any

from glasskernel.cli.run import run_command

SHELLS = (["/bin/bash", "-i"], ["/bin/sh", "-i"], ["/bin/busybox", "sh", "-i"])


def run_shell(**options: Any) -> int:
    """Options as run_command()."""
    return run_command([list(shell) for shell in SHELLS], **options)
