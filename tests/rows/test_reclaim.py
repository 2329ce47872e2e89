"""Inventory rows about running short of memory: kswapd, direct reclaim, watermarks, and labs B39 to B41."""
from __future__ import annotations

import re

import pytest

from tests.labs.replay import Shell
from tests.trace.call_graph import CallGraph

pytestmark = pytest.mark.patience(300)
MB = 1 << 20
SWAP = ("dd if=/dev/zero of=/root/swap bs=1M count=32 2>/dev/null; chmod 600 /root/swap; mkswap /root/swap >/dev/null; "
        "swapon /root/swap; ")
SWAP_TEST = """python3 -S -c "
import random
random.seed(1)
kept = [random.randbytes(65536) for _ in range({blocks})]
random.seed(1)
assert all(block == random.randbytes(65536) for block in kept)
print(len(kept))
"
"""


def zones(text):
    """{zone: {field: number}} of /proc/zoneinfo, as far as fields have one number."""
    found = {}
    for part in text.split("Node 0, zone ")[1:]:
        name, _, body = part.lstrip().partition("\n")
        fields = re.findall(r"^ +(?:pages )?(\w+) +(\d+)$", body.partition("pagesets")[0], re.M)
        found[name.strip()] = {key: int(value) for key, value in fields}
    return found


@pytest.fixture
def sh(boot):
    return Shell(boot(memory=24 * MB, home=True), "/sys/kernel/debug/tracing")


def test_a088_kswapd0_is_a_child_of_kthreadd(sh):
    line = next(line for line in sh("ps -ef").splitlines() if line.endswith("[kswapd0]"))
    assert line.split()[2] == "2"
    assert sh("cat /proc/$(pidof kswapd0 || pgrep kswapd0)/comm") == "kswapd0\n"


def test_a202_a203_b39_watermarks_follow_from_min_free_kbytes(sh):
    """B179: min < low < high, spanned >= present >= managed; the zones' mins are min_free_kbytes together."""
    shown = zones(sh("cat /proc/zoneinfo"))
    real = {name: zone for name, zone in shown.items() if zone.get("managed")}
    assert set(real) == {"DMA", "DMA32"}
    for zone in real.values():
        assert 0 < zone["min"] < zone["low"] < zone["high"] < zone["managed"]
        assert zone["spanned"] >= zone["present"] >= zone["managed"]
    kbytes = int(sh("cat /proc/sys/vm/min_free_kbytes"))
    assert abs(sum(zone["min"] for zone in real.values()) - kbytes // 4) < len(real)
    for lru in ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"):
        assert sum(zone[f"nr_zone_{lru}"] for zone in real.values()) == shown["DMA"][f"nr_{lru}"]


def test_a200_b40_kswapd_wakes_below_low_and_sleeps_above_high(boot):
    """B185 to B193: somebody finds a zone at its low mark and wakes it; it sleeps when a zone has its high one."""
    from tests.trace.listening import Listener

    kernel = boot(memory=24 * MB, home=True)
    mem = kernel.mem
    names = ("mm_vmscan_wakeup_kswapd", "mm_vmscan_kswapd_wake", "mm_vmscan_kswapd_sleep")
    listener = Listener(kernel, names)
    sh = Shell(kernel)
    marks = []
    from glasskernel.kernel.tracepoint import tracepoint_probe_register

    def below_low(*_arguments):
        marks.append(any(zone.nr_free <= zone.low_marks[-1] for zone in mem.zones))

    def above_high(_nid):
        marks.append(any(zone.nr_free > zone.watermark[2] for zone in mem.zones))

    tracepoint_probe_register(kernel, "mm_vmscan_wakeup_kswapd", below_low)
    tracepoint_probe_register(kernel, "mm_vmscan_kswapd_sleep", above_high)
    sh("dd if=/dev/zero of=/root/big bs=64k count=480 2>/dev/null; sleep 0.3")
    listener.stop()
    assert all(marks) and len(marks) > 2
    counts = listener.counts
    assert all(counts[name] > 0 for name in names)
    assert listener.lines["mm_vmscan_kswapd_wake"][0] == "nid=0 order=0"
    assert re.fullmatch(r"nid=0 order=0 gfp_flags=\S+", listener.lines["mm_vmscan_wakeup_kswapd"][0])


def test_b40_the_lab_as_it_is_typed(sh):
    """B182 to B193: the three events in the trace; kswapd0 raises two of them, who allocates the third."""
    text = sh(SWAP + "cd /sys/kernel/debug/tracing; echo 0 > events/enable; echo 0 > options/stacktrace; echo > trace; "
              "for e in kswapd_sleep kswapd_wake wakeup_kswapd; do echo 1 > events/vmscan/mm_vmscan_$e/enable; done; "
              + SWAP_TEST.format(blocks=280) + "sleep 0.3; echo 0 > tracing_on; cat trace; swapoff /root/swap")
    raised = re.findall(r"^ +(\S+)-\d+ +\[\d{3}\] .{4} +[\d.]+: mm_vmscan_(\w+): (.*)$", text, re.M)
    by = {event: {comm for comm, name, _ in raised if name == event} for _, event, _ in raised}
    assert by["kswapd_wake"] == by["kswapd_sleep"] == {"kswapd0"}
    assert "python3" in by["wakeup_kswapd"]
    assert ("kswapd0", "kswapd_wake", "nid=0 order=0") in raised
    assert ("kswapd0", "kswapd_sleep", "nid=0") in raised


def test_a201_b41_direct_reclaim_begins_and_ends(sh):
    """B199 to B204: the allocator reclaims itself; what it got is in the second event; pages go to swap."""
    text = sh(SWAP + "cd /sys/kernel/debug/tracing; echo 0 > events/enable; echo > trace; "
              "for e in direct_reclaim_begin writepage direct_reclaim_end; do "
              "echo 1 > events/vmscan/mm_vmscan_$e/enable; done; echo 1 > events/oom/enable; "
              + SWAP_TEST.format(blocks=300) + "echo 0 > tracing_on; cat trace; swapoff /root/swap")
    begins = re.findall(r"(\S+-\d+) .*mm_vmscan_direct_reclaim_begin: order=(\d) gfp_flags=(\S+)$", text, re.M)
    ends = re.findall(r"(\S+-\d+) .*mm_vmscan_direct_reclaim_end: nr_reclaimed=(\d+)$", text, re.M)
    assert begins and len(begins) == len(ends)
    assert any("GFP_HIGHUSER_MOVABLE" in gfp for _, _, gfp in begins)
    assert sum(int(nr) for _, nr in ends) > 0
    written = re.findall(r"mm_vmscan_writepage: page=[0-9a-f]+ pfn=\d+ flags=(\S+)$", text, re.M)
    assert "RECLAIM_WB_ANON|RECLAIM_WB_ASYNC" in written
    assert "\n300\n" in text or text.startswith("300\n")


def test_a204_the_reclaim_chain(boot):
    """shrink_node -> shrink_node_memcg -> shrink_list -> shrink_inactive_list -> shrink_page_list -> pageout -> writepage."""
    kernel = boot(memory=20 * MB, home=True)
    sh = Shell(kernel)
    sh(SWAP)
    with CallGraph(kernel) as graph:
        sh(SWAP_TEST.format(blocks=200))
    edges = graph.edges
    for caller, callee in (
        ("balance_pgdat", "kswapd_shrink_node"), ("kswapd_shrink_node", "shrink_node"),
        ("shrink_node", "shrink_node_memcg"), ("shrink_node_memcg", "shrink_list"),
        ("shrink_list", "shrink_inactive_list"), ("shrink_list", "shrink_active_list"),
        ("shrink_inactive_list", "shrink_page_list"), ("pageout", "swap_writepage"),
        ("shrink_page_list", "pageout"), ("shrink_page_list", "add_to_swap"), ("shrink_page_list", "try_to_unmap"),
        ("shrink_page_list", "__remove_mapping"), ("shrink_page_list", "page_check_references"),
        ("page_check_references", "page_referenced"), ("shrink_inactive_list", "isolate_lru_pages"),
        ("shrink_inactive_list", "move_pages_to_lru"), ("shrink_node", "shrink_slab"),
        ("shrink_slab", "do_shrink_slab"), ("do_shrink_slab", "super_cache_count"),
        ("__alloc_pages_nodemask", "__alloc_pages_slowpath"), ("__alloc_pages_slowpath", "wake_all_kswapds"),
        ("wake_all_kswapds", "wakeup_kswapd"), ("__alloc_pages_slowpath", "__alloc_pages_direct_reclaim"),
        ("__perform_reclaim", "try_to_free_pages"), ("try_to_free_pages", "do_try_to_free_pages"),
        ("do_try_to_free_pages", "shrink_zones"), ("shrink_zones", "shrink_node"),
    ):
        assert edges[caller, callee], (caller, callee)
    sh("swapoff /root/swap")


def test_a205_meminfo_adds_up_under_pressure(sh):
    """Active = anon + file, Inactive likewise; anonymous pages swap, file pages go."""
    text = sh(SWAP + SWAP_TEST.format(blocks=280) + "cat /proc/meminfo; swapoff /root/swap")
    value = {name: int(kb) for name, kb in re.findall(r"^(\S+): +(\d+) kB$", text, re.M)}
    assert value["Active"] == value["Active(anon)"] + value["Active(file)"]
    assert value["Inactive"] == value["Inactive(anon)"] + value["Inactive(file)"]
    assert value["MemFree"] + value["Active"] + value["Inactive"] + value["Unevictable"] < value["MemTotal"]
    assert value["Inactive(file)"] < 24 << 10


def test_a208_swap_test_brings_kswapd_and_then_swap(sh):
    """1024 blocks of 2 MB on 2 GB there; the same proportion here. The random bytes come back as they were."""
    text = sh(SWAP + SWAP_TEST.format(blocks=384) + "cat /proc/vmstat; swapoff /root/swap")
    assert text.startswith("384\n")
    stat = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.M)}
    assert stat["pageoutrun"] > 0 and stat["pswpout"] > 0 and stat["pswpin"] > 0
    assert stat["pgsteal_kswapd"] > 0 and stat["oom_kill"] == 0
