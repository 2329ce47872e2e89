"""A195: the order in the event mm_page_alloc is the order that was asked for."""
import re


def test_mm_page_alloc_tells_the_order_of_the_request(run):
    """A slab of task_struct is 8 pages (order 3): as many events of order 3 as slabs that were added for the children."""
    out = run(["/bin/bash", "-c", """
        slabs() { awk '$1 == "task_struct" {print $6, $15}' /proc/slabinfo; }
        cd /sys/kernel/tracing; echo stacktrace > trace_options; echo 'order > 0' > events/kmem/mm_page_alloc/filter
        slabs; echo 1 > events/kmem/mm_page_alloc/enable
        for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done
        echo 0 > events/kmem/mm_page_alloc/enable; slabs; cat trace"""]).stdout.decode()
    (pages, before), (pages_after, after) = (line.split() for line in re.findall(r"^\d+ \d+$", out, re.M))
    assert pages == pages_after == "8"
    blocks = re.split(r"\n(?= +\S+-\d+ .* mm_page_alloc:)", out)
    mine = [block for block in blocks if "mm_page_alloc:" in block and "copy_process" in block and "order=3" in block]
    assert len(mine) >= int(after) - int(before) >= 2
    for block in blocks[1:]:
        if "mm_page_alloc:" in block:
            pfn, order = (int(re.search(rf"{name}=(\d+)", block)[1]) for name in ("pfn", "order"))
            assert order > 0 and pfn % (1 << order) == 0, block
    assert all("new_slab" in block or "allocate_slab" in block for block in mine)


def test_every_order_is_told_as_it_was_asked_for(boot):
    from glasskernel.kernel.current import register
    from glasskernel.kernel.tracepoint import tracepoint_probe_register
    from glasskernel.mm.page_alloc import GFP_KERNEL, __free_pages, alloc_pages

    kernel = boot()
    seen = []
    tracepoint_probe_register(kernel, "mm_page_alloc", lambda pfn, order, gfp, kind: seen.append((pfn, order, gfp)))
    register.task = kernel.machine.this_cpu.task
    asked = [(alloc_pages(kernel, GFP_KERNEL, order), order, GFP_KERNEL) for order in range(11)]
    for pfn, order, _gfp in asked:
        __free_pages(kernel, pfn, order)
    assert seen == asked and all(pfn % (1 << order) == 0 for pfn, order, _ in asked)
