"""Power cuts at every command of the disk, with every way its cache may end: tests/powercut, the whole of it."""
from __future__ import annotations

import pathlib

from tests.powercut import harness

SEEDS, STEPS, DICE = (1, 2), 40, 1
PARTS = 4                                      # a row is to take minutes, not hours
CASES = [f"{kind} {seed} {part}/{PARTS}" for kind in harness.KINDS for seed in SEEDS for part in range(1, PARTS + 1)]


def inside(name: str, directory: pathlib.Path) -> dict[str, object]:
    """Every fourth cut of one run. why: the first that went wrong. A cut that oopses or leaks has gone wrong too."""
    kind, seed, part = name.split()
    steps = STEPS // harness.KINDS[kind].processes
    done, wrong = harness.sweep(directory, kind, int(seed), steps, 1 << 30, dice=DICE, every_way=True,
                                part=(int(part.split("/")[0]) - 1, PARTS))
    return {"status": 1 if wrong else 0, "good": done - len(wrong), "runs": done, "why": wrong[0] if wrong else "",
            "oopses": 0, "invariants": []}
