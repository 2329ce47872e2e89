"""Every event that the seeds show is raised in its scenario, with the fields that they show."""
from __future__ import annotations

import pathlib
import re
import tomllib

import pytest

from glasskernel import Kernel
from glasskernel.kernel.trace.events import event_calls
from tests.trace.listening import Listener

SEEDS = pathlib.Path(__file__).resolve().parent.parent / "data" / "trace" / "seed_events.toml"
ENTRIES = tomllib.loads(SEEDS.read_text())["event"]
# Not raised yet, by room; a test sees to it that this list does not grow stale.
MISSING = {
    "vmscan": "needs a machine short of memory: tests/mm/test_vmscan.py",
    "writeback": "needs a disk: tests of fs/fs_writeback.py",
    "kprobes": "dynamic events",
    "irq/irq_handler_entry": "needs a device with an interrupt",
}
WORK = r"""
import mmap, os, signal, time
m = mmap.mmap(-1, 1 << 20)
m[0] = 1
signal.signal(signal.SIGCHLD, lambda *a: None)
pid = os.fork()
if pid == 0:
    m[4096] = 2
    os._exit(0)
os.waitpid(pid, 0)
end = time.monotonic() + 0.03
while time.monotonic() < end: pass
open("/proc/self/oom_score_adj", "w").write("7")
os.read(os.open("/proc/self/stat", os.O_RDONLY), 4096)
"""


@pytest.fixture(scope="module")
def heard():
    kernel = Kernel(cpus=2, cmdline="oops=panic")
    listener = Listener(kernel)
    assert kernel.run(["python3", "-S", "-c", WORK]).status == 0
    listener.stop()
    yield listener
    kernel.close()


def is_missing(entry):
    return entry["group"] in MISSING or f"{entry['group']}/{entry['name']}" in MISSING


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.get("kind") in ("tracepoint", "group") and not is_missing(e)],
                         ids=lambda e: f"{e['group']}-{e['name']}-{e['source']}")
def test_the_event_is_raised_with_its_fields(heard, entry):
    calls = [c for c in event_calls() if c.system == entry["group"] and entry["name"] in ("*", c.name)]
    assert calls
    if entry["group"] == "workqueue":
        pytest.skip("nothing queues a work here: test_event_texts.py does")
    assert any(heard.counts[c.name] for c in calls)
    for sample in (entry.get("sample", ""), *entry.get("samples_more", ())):
        if entry["name"] == "*" or f"{entry['name']}: " not in sample:
            continue
        theirs = re.findall(r"\w+=", sample.partition(f"{entry['name']}: ")[2])
        for line in heard.lines[entry["name"]]:
            assert re.findall(r"\w+=", line)[: len(theirs)] == theirs


def test_the_fields_that_the_seeds_name_are_there():
    calls = {(c.system, c.name): c for c in event_calls()}
    for entry in ENTRIES:
        call = calls.get((entry["group"], entry["name"]))
        if call is not None:
            for name in entry["fields"]:
                assert name.split()[0] in call.print_fmt or name in {f.name for f in call.fields}, entry


def test_what_is_missing_is_missing():
    """As soon as somebody declares these, they belong into the scenario above."""
    systems = {c.system for c in event_calls()}
    assert not systems & {"kprobes"}
