"""sqlite3 that is killed, or whose machine loses its power: what was committed stays, nothing is damaged."""
import subprocess

import pytest

from glasskernel.machine.disk import Disk
from tests.storage_tools import sqlite


@pytest.mark.patience(120)
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_kill_9_costs_no_transaction(tmp_path, mode):
    """Killed at four moments; the next one goes on where the last one ended."""
    image = tmp_path / "sqlite.img"
    sqlite.make_image(image)
    kernel = sqlite.boot(tmp_path, Disk(str(image), model="ssd"))
    committed = 0
    for number in range(4):
        done = kernel.run(["/bin/bash", "-c", "/usr/bin/python3 -S /programs/work.py $0 1000000 > /tmp/said & "
                           f"while ! grep -q $(($1 + {number + 2})) /tmp/said; do sleep 0.001; done; kill -9 $!; wait; "
                           "tail -n 1 /tmp/said", mode, str(committed)])
        said = int(done.stdout)
        there = sqlite.rows(kernel)
        assert there in (said, said + 1) and there > committed
        committed = there
    assert kernel.run(["/bin/umount", "/mnt"]).status == 0
    assert not kernel.oopses
    kernel.close()
    assert subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True).returncode == 0


@pytest.mark.patience(180)
@pytest.mark.parametrize(("mode", "count", "points"), [("delete", 6, 6), ("wal", 10, 4)])
def test_a_power_cut_costs_no_transaction(tmp_path, mode, count, points):
    """Cut at some of the commands of the disk (at all of them in `make conformance`)."""
    assert sqlite.sweep(tmp_path, mode, count, points) == []
