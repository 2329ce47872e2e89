"""A171, A027, B21, B27, B85: /sys/kernel/debug/page_tables, and the option that switches it on."""
import itertools
import re

LINE = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) {3} *(\d+)([BKMGTPE]) (.{30})(cr3|pgd|p4d|pud|pmd|pte)")


def ranges(text):
    found = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith(("---[", "..."))]
    assert all(found), text
    return [(int(m[1], 16), int(m[2], 16), m[5], m[6]) for m in found]


def test_the_tables_of_a_process_are_what_its_maps_allow(run):
    text = run("cat /sys/kernel/debug/page_tables/current_user /proc/self/maps").stdout.decode()
    split = re.search(r"^[0-9a-f]+-[0-9a-f]+ [r-]", text, re.M).start()
    tables, maps = text[:split], text[split:]
    areas = [(int(m[1], 16), int(m[2], 16), m[3]) for m in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) (\S+)", maps, re.M)]
    rows = ranges(tables)
    assert rows[0][0] == 0 and rows[-1][1] == 0 and all(a[1] == b[0] for a, b in itertools.pairwise(rows))      # no gaps
    present = [row for row in rows if row[2].strip()]
    assert len(present) > 10 and all(row[3] == "pte" and row[2].startswith("USR ") for row in present)
    for start, end, flags, _ in present:
        rights = [area[2] for area in areas if start < area[1] and area[0] < end]
        assert rights, hex(start)
        assert "RW " not in flags or all("w" in right for right in rights)
        assert ("x  " in flags) == ("x" in rights[0])
    markers = re.findall(r"---\[ (.*) \]---", tables)
    assert markers[:4] == ["User Space", "Kernel Space", "Low Kernel Mapping", "vmalloc() Area"]


def test_vmalloc_ranges_are_in_the_kernels_table(run):
    text = run("cat /sys/kernel/debug/page_tables/kernel; echo; cat /sys/kernel/debug/page_tables/current_kernel; echo; cat /proc/vmallocinfo").stdout.decode()
    kernel, current, info = text.split("\n\n")
    pages = [int(n) for n in re.findall(r" pages=(\d+)", info)]
    mapped = [(start, end) for start, end, flags, _ in ranges(kernel) if flags.strip()]
    assert len(pages) > 3 and sum(end - start for start, end in mapped) == 4096 * sum(pages)       # addresses are hashed there
    assert all(0xFFFFC900_00000000 <= start < end < 0xFFFFE900_00000000 for start, end in mapped)
    rows = [row for row in ranges(current) if row[2].strip()]
    assert any(row[0] < 1 << 47 for row in rows) and any(row[0] > 1 << 63 for row in rows)


def test_only_root_may_look(run):
    done = run("setpriv --reuid 1000 --clear-groups cat /sys/kernel/debug/page_tables/kernel; grep -E 'CONFIG_X86_PTDUMP=|CONFIG_PGTABLE' /boot/config-$(uname -r)")
    assert done.stdout == b"CONFIG_PGTABLE_LEVELS=4\nCONFIG_X86_PTDUMP=y\n" and b"Permission denied" in done.stderr
