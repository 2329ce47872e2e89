"""docs/io-models.md: its table says what the schedulers are for, and is what one measures today."""
import re
from math import isqrt
from xml.etree import ElementTree

import pytest

from benchmarks.io_schedulers import BEGIN, END, PAGE, PLOT, SCHEDULERS, WORKLOADS
from glasskernel.machine import disk


def table():
    """Figures of the committed table, by function and scheduler."""
    rows = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()[2:]
    figures = [[float(cell) for cell in row.strip("| ").split(" | ")[1:]] for row in rows]
    return {workload.__name__: dict(zip(SCHEDULERS, row)) for (_, workload, _), row in zip(WORKLOADS, figures, strict=True)}


def test_each_scheduler_wins_where_it_should():
    of = table()
    together, beside = of["random_reads_together"], of["reads_beside_writes"]
    for scheduler in (b"mq-deadline", b"bfq"):
        assert together[scheduler] > 1.3 * together[b"none"]
        assert beside[scheduler] < 0.5 * beside[b"none"]
    assert of["streams_beside_each_other"][b"bfq"] > 5 * of["streams_beside_each_other"][b"none"]
    assert of["start_of_a_program"][b"bfq"] < 0.3 * of["start_of_a_program"][b"none"]
    assert of["shares_by_priority"][b"bfq"] > 3


@pytest.mark.parametrize("name", ["random_reads_together", "start_of_a_program"])
@pytest.mark.parametrize("scheduler", [b"none", b"bfq"])
def test_the_table_is_what_one_measures(name, scheduler):
    """Within a fifth: what the kernel itself charges may change, what the disk does may not."""
    workload = next(workload for _, workload, _ in WORKLOADS if workload.__name__ == name)
    assert workload(scheduler) == pytest.approx(table()[name][scheduler], rel=0.2)


def test_the_plot_shows_the_table():
    texts = [element.text for element in ElementTree.parse(PLOT).iter() if element.text]
    for (title, _, form), row in zip(WORKLOADS, table().values()):
        assert title in texts
        assert {form.format(value).strip() for value in row.values()} <= set(texts)


def test_the_formulas_are_those_of_the_disk():
    text = PAGE.read_text()
    assert f"{disk.TURN_NS / 1e6:.3f} ms" in text and f"{disk.SECTORS_PER_TRACK} sectors" in text
    assert f"{disk.WRITE_BACK_NS // 10**6} ms of work" in text and f"{disk.READ_AHEAD} sectors" in text
    hdd = disk.Disk(size=4 << 30, model="hdd")
    seeks = [hdd._seek_ns(hdd.nr_sectors * part // 300) / 1e6 for part in (100, 300)]
    assert tuple(f"{seek:.1f} ms" for seek in seeks) == re.findall(r"neighbour, (\S+ ms) over a third of the disk, (\S+ ms)", text)[0] \
        == (f"{0.8 + isqrt(25_000_000 // 3) * 1.5e-3:.1f} ms", "8.3 ms")
    for name, (channels, read_ns, write_ns, speed) in disk._CHANNELS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        shown = f"{speed / 1000:g} GB/s" if speed > 1000 else f"{speed} MB/s"
        assert f"on {channels} channels" in row and f"{read_ns // 1000} µs + n / {shown}" in row
        assert f"{write_ns // 1000} µs + n / {shown}" in row
