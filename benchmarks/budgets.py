"""What DESIGN allows the kernel to cost, and what it costs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import CannotRun, Effort, peak_memory, seconds_to_first_output
from benchmarks.peers import GUEST_DIR, Peer, glasskernel_prefix
from benchmarks.suite import BOOT
from benchmarks.table import Budget, Row, duration


def check_budgets(rows: list[Row], programs: Path, effort: Effort) -> list[Budget]:
    """Each budget with today's figure. rows: the finished table."""
    table = {row.name: row.seconds for row in rows}
    ours = {name: seconds.get("glasskernel") for name, seconds in table.items()}
    budgets = [
        _time("null syscall", ours, 8e-6),
        _factor("null syscall", "qiling", table, at_least=5),
        _time(BOOT, ours, 0.150),
        _time("fork + exec + wait, static", ours, 6e-3),
        _factor("compute (sieve, matrix, hash, qsort)", "qemu-user", table, at_least=0.5),
    ]
    try:
        small, large = (
            Peer("glasskernel", glasskernel_prefix(programs, "--memory", size), GUEST_DIR, "/tmp")
            for size in ("512M", "16G")
        )
        mb = peak_memory(small) / 1e6
        budgets.append(Budget("peak host memory, 512 MB machine", "150 MB", f"{mb:.0f} MB", mb < 150))
        times = [seconds_to_first_output(peer, 3 * effort.repeats) for peer in (small, large)]
        growth = times[1] / times[0] - 1
        budgets.append(Budget("boot, 16 GB against 512 MB", "+20 %", f"{growth:+.0%}", growth <= 0.2))
    except CannotRun as e:
        budgets.append(Budget("peak host memory, boot with 16 GB", "", str(e), None))
    return budgets


def _time(name: str, ours: dict[str, float | None], allowed: float) -> Budget:
    seconds = ours.get(name)
    kept = None if seconds is None else seconds <= allowed
    return Budget(name, duration(allowed), duration(seconds), kept)


def _factor(name: str, peer: str, table: dict[str, dict[str, float | None]], at_least: float) -> Budget:
    seconds = table.get(name, {})
    ours, theirs = seconds.get("glasskernel"), seconds.get(peer)
    title, allowed = f"{name}, against {peer}", f"{at_least:g}x"
    if not ours or not theirs:
        return Budget(title, allowed, "-", None)
    return Budget(title, allowed, f"{theirs / ours:.2g}x", theirs / ours >= at_least)
