"""What I/O schedulers are for, on the hard disk of machine/disk.py: `python -m benchmarks.io_schedulers [--write]`.

Virtual times: the table is the same on every host. `--write` brings the table in docs/io-models.md and the plot beside
it, docs/io-schedulers.svg, up to date. Threads inside the kernel submit bios, past every page cache.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bars import Panel, svg
from glasskernel import Kernel
from glasskernel.block.bio import bio_add_page, bio_alloc
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_OP_READ, REQ_OP_WRITE, REQ_SYNC, Bio
from glasskernel.block.elevator import elv_iosched_store
from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion_io
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.workqueue import WorkStruct, queue_work
from glasskernel.machine.disk import Disk
from glasskernel.mm.page_alloc import alloc_page

SCHEDULERS = (b"none", b"mq-deadline", b"kyber", b"bfq")
DISK_BYTES = 4 << 30
PAGE = Path(__file__).resolve().parent.parent / "docs" / "io-models.md"
PLOT = PAGE.with_name("io-schedulers.svg")
BEGIN, END = "<!-- python -m benchmarks.io_schedulers --write -->\n", "<!-- end -->\n"


@dataclass
class Lab:
    """A kernel with one hard disk and one scheduler, and what was measured."""

    kernel: Kernel
    latencies: dict[str, list[int]] = field(default_factory=dict)
    done_bytes: dict[str, int] = field(default_factory=dict)
    stop: bool = False

    def bio(self, sector: int, length: int, op: int) -> Bio:
        bio = bio_alloc(self.kernel, 256)
        bio.bi_disk = next(disk for disk in self.kernel.block.disks if disk.disk_name == b"sda")
        bio.bi_sector, bio.bi_opf = sector, op
        for _ in range(0, length, 4096):
            bio_add_page(bio, self.pfn, min(4096, length), 0)
        return bio

    @property
    def pfn(self) -> int:
        """One frame serves everybody: nobody looks at the data."""
        if not hasattr(self.kernel, "bench_pfn"):
            self.kernel.bench_pfn = alloc_page(self.kernel, 0)  # type: ignore[attr-defined]
        pfn: int = self.kernel.bench_pfn  # type: ignore[attr-defined]
        return pfn

    def read(self, who: str, sector: int, length: int = 4096) -> None:
        """One read, waited for."""
        done = Completion()
        bio = self.bio(sector, length, REQ_OP_READ | REQ_SYNC)
        bio.bi_end_io = lambda _bio: complete(done)
        start = self.kernel.now_ns
        submit_bio(bio)
        wait_for_completion_io(done)
        self.latencies.setdefault(who, []).append(self.kernel.now_ns - start)
        self.done_bytes[who] = self.done_bytes.get(who, 0) + length
        self.kernel.machine.charge(length // 2)            # the program looks at what it read, 2 GB/s

    def flood(self, who: str, sectors: list[int], op: int, depth: int, length: int = 4096) -> None:
        """Keeps `depth` requests under way until all are done."""
        under_way = [0]

        def end(_bio: Bio) -> None:
            under_way[0] -= 1
            self.done_bytes[who] = self.done_bytes.get(who, 0) + length

        for sector in sectors:
            while under_way[0] >= depth:
                msleep(1)
            if self.stop:
                break
            under_way[0] += 1
            bio = self.bio(sector, length, op)
            bio.bi_end_io = end
            submit_bio(bio)
        while under_way[0]:
            msleep(1)


def run(scheduler: bytes, *threads: Callable[[Lab], None], ioprio: tuple[int, ...] = ()) -> tuple[Lab, int]:
    """Runs the threads on a fresh kernel; (lab, ns until the first thread was done)."""
    kernel = Kernel(disks=[Disk(size=DISK_BYTES, model="hdd")], home=False)
    lab = Lab(kernel)
    state = {"left": len(threads), "first": 0}
    register.task = kernel.machine.this_cpu.task

    def body(item: tuple[int, Callable[[Lab], None]]) -> int:
        number, function = item
        if number < len(ioprio):
            register.task.ioprio = ioprio[number]
        function(lab)
        if number == 0:
            state["first"] = kernel.now_ns
            lab.stop = True
        state["left"] -= 1
        return 0

    def starter(_work: object) -> None:
        q = lab.bio(0, 0, 0).bi_disk.queue  # type: ignore[union-attr]
        elv_iosched_store(q, scheduler)
        state["start"] = kernel.now_ns
        for item in enumerate(threads):
            kthread_run(body, item, f"bench/{item[0]}")
        while state["left"]:
            msleep(10)
        kernel.machine.stop()

    queue_work(kernel.workqueues.system_unbound_wq, WorkStruct(starter))
    kernel.machine.run()
    kernel.close()
    return lab, state["first"] - state["start"]


def random_sectors(seed: int, count: int) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(DISK_BYTES // 512 - 2048) & ~7 for _ in range(count)]


def random_reads_together(scheduler: bytes) -> float:
    """Many random reads at once: those that lie near each other should follow each other. MB/s"""
    lab, ns = run(scheduler, lambda lab: lab.flood("r", random_sectors(1, 400), REQ_OP_READ, 64))
    return lab.done_bytes["r"] / ns * 1e3


def reads_beside_writes(scheduler: bytes) -> float:
    """Somebody reads while somebody else writes all over the disk: how long a read takes at 90 %, in ms."""
    def reader(lab: Lab) -> None:
        for sector in random_sectors(2, 60):
            lab.read("r", sector)

    lab, _ = run(scheduler, reader, lambda lab: lab.flood("w", random_sectors(3, 4000), REQ_OP_WRITE, 56))
    return sorted(lab.latencies["r"])[53] / 1e6


def streams_beside_each_other(scheduler: bytes) -> float:
    """Four processes read a file each from start to end: together, in MB/s."""
    def stream(start: int) -> Callable[[Lab], None]:
        def reader(lab: Lab) -> None:
            for number in range(150):
                if lab.stop:
                    break
                lab.read("s", start + number * 256, 131072)

        return reader

    lab, ns = run(scheduler, *(stream(n * 2_000_000) for n in range(4)))
    return lab.done_bytes["s"] / ns * 1e3


def start_of_a_program(scheduler: bytes) -> float:
    """A program that begins reads 60 small pieces while three streams run: how long that takes, in ms."""
    def program(lab: Lab) -> None:
        msleep(500)
        start = lab.kernel.now_ns
        for sector in (3_000_000 + n % 7 * 4000 + n * 8 for n in range(60)):
            lab.read("p", sector)
        lab.latencies["total"] = [lab.kernel.now_ns - start]

    def stream(start: int) -> Callable[[Lab], None]:
        def reader(lab: Lab) -> None:
            number = 0
            while not lab.stop:
                lab.read("s", start + number * 256, 131072)
                number += 1

        return reader

    lab, _ = run(scheduler, program, *(stream(n * 2_000_000) for n in range(3)))
    return lab.latencies["total"][0] / 1e6


def shares_by_priority(scheduler: bytes) -> float:
    """Two streams, best effort 0 and 7: how many times as much the first one gets."""
    def stream(who: str, start: int) -> Callable[[Lab], None]:
        def reader(lab: Lab) -> None:
            for number in range(400):
                if lab.stop:
                    break
                lab.read(who, start + number * 256, 131072)

        return reader

    lab, _ = run(scheduler, stream("high", 0), stream("low", 4_000_000), ioprio=(2 << 13 | 0, 2 << 13 | 7))
    return lab.done_bytes["high"] / lab.done_bytes["low"]


WORKLOADS: tuple[tuple[str, Callable[[bytes], float], str], ...] = (
    ("64 random reads at once (MB/s, more is better)", random_reads_together, "{:8.3f}"),
    ("90th percentile of reads beside random writes (ms, less is better)", reads_beside_writes, "{:8.1f}"),
    ("four sequential readers (MB/s, more is better)", streams_beside_each_other, "{:8.1f}"),
    ("start of a program beside three streams (ms, less is better)", start_of_a_program, "{:8.0f}"),
    ("share of ioprio 0 against ioprio 7 (times)", shares_by_priority, "{:8.1f}"),
)


def table(out: Callable[[str], None] = print) -> dict[str, dict[bytes, float]]:
    """Measures everything; the figures by workload and scheduler."""
    figures: dict[str, dict[bytes, float]] = {}
    out(f"{'':68}" + "".join(f"{name.decode():>12}" for name in SCHEDULERS))
    for title, workload, form in WORKLOADS:
        row = figures[workload.__name__] = {scheduler: workload(scheduler) for scheduler in SCHEDULERS}
        out(f"{title:68}" + "".join(f"{form.format(row[scheduler]):>12}" for scheduler in SCHEDULERS))
    return figures


def write(figures: dict[str, dict[bytes, float]]) -> None:
    """The table in the page and the plot beside it."""
    names = [scheduler.decode() for scheduler in SCHEDULERS]
    lines = ["| workload | " + " | ".join(names) + " |", "|---" + "|---:" * len(names) + "|"]
    panels = []
    for title, workload, form in WORKLOADS:
        row = figures[workload.__name__]
        cells = (form.format(row[scheduler]).strip() for scheduler in SCHEDULERS)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
        panels.append(Panel(title, {name.decode(): row[name] for name in SCHEDULERS}, form))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])
    PLOT.write_text(svg(panels))


if __name__ == "__main__":
    measured = table(lambda line: print(line, file=sys.stdout, flush=True))
    if "--write" in sys.argv[1:]:
        write(measured)
