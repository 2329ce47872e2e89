"""Labs that look at files of /proc, /sys and /boot: the commands as the pages have them."""
import re

import pytest

from tests.conftest import need


@pytest.fixture
def lab(boot):
    kernel = boot(home=True)

    def go(script):
        done = kernel.run(["/bin/bash", "-c", script])
        assert done.status == 0, (script, done)
        return done.stdout.decode()

    go.kernel = kernel
    return go


def test_lab_b03_memory_hardware(lab):
    """A030: dmidecode -t memory."""
    need("dmidecode", "dmidecode")
    assert "Memory Device\n" in lab("dmidecode -t memory")
    assert lab("dmidecode -t memory | grep -i size:").strip() == "Size: 512 MB"
    for kind in ("bios", "system", "processor"):
        assert "Handle 0x" in lab(f"dmidecode -t {kind}")


def test_lab_b21_and_b85_page_table_levels(lab):
    """A022: the options of /boot/config-RELEASE."""
    assert re.fullmatch(r"Linux \S+ 5\.3\.0\S* #1 SMP .* x86_64( x86_64)* GNU/Linux\n", lab("uname -a"))
    assert lab("cat /boot/config-`uname -r` | grep PGTABLE") == "CONFIG_PGTABLE_LEVELS=4\n"
    assert lab("grep -E '^CONFIG_(64BIT|X86_64|FUNCTION_TRACER)=' /boot/config-`uname -r`").split() == [
        "CONFIG_64BIT=y", "CONFIG_X86_64=y", "CONFIG_FUNCTION_TRACER=y"]


def test_lab_b35_buddy_allocator(lab):
    """One count per order; freeing and taking memory moves them."""
    lines = lab("cat /proc/buddyinfo").splitlines()
    assert lines and all(re.fullmatch(r"Node 0, zone +\w+( +\d+){11} ?", line) for line in lines)


def test_lab_b36_slab_allocator(lab):
    text = lab("cat /proc/slabinfo").splitlines()
    assert text[0] == "slabinfo - version: 2.1" and text[1].startswith("# name            <active_objs> <num_objs> <objsize>")
    rows = {line.split()[0]: line.split() for line in text[2:]}
    assert {"dentry", "inode_cache", "task_struct", "vm_area_struct", "kmalloc-64", "ext4_inode_cache"} <= set(rows)
    assert all(int(row[1]) <= int(row[2]) for row in rows.values())


def test_lab_b49_scheduler_constants(lab):
    """2250000 ns on the seed's four CPUs; systemd's place for cpu.cfs_period_us."""
    assert lab("cat /proc/sys/kernel/sched_min_granularity_ns") == "2250000\n"
    assert lab("cat /sys/fs/cgroup/cpu/cpu.cfs_period_us") == "100000\n"


def test_lab_b51_and_b91_interrupt_table(lab):
    text = lab("cat /proc/interrupts")
    assert text.split("\n")[0].split() == ["CPU0", "CPU1", "CPU2", "CPU3"]
    rows = {line.split(":")[0].strip(): line for line in text.splitlines()[1:]}
    assert {"0", "1", "8", "9", "12", "NMI", "LOC", "SPU", "PMI", "IWI", "RES", "CAL", "TLB", "TRM", "THR", "MCE", "MCP",
            "ERR", "MIS"} <= set(rows)
    before, after = (list(map(int, re.findall(r"\d+", line.split("Local")[0]))) for line in
                     lab('grep "Local timer" /proc/interrupts; for ((i=0;i<20000;i++)); do :; done; grep "Local timer" /proc/interrupts').splitlines())
    assert sum(after) > sum(before)
    disk = r"^ *\d+: .*IO-APIC.*"
    old, new = (sum(int(n) for line in part.splitlines() for n in line.split()[1:5]) for part in
                lab("grep mdisk /proc/interrupts; echo ==; dd if=/dev/sda of=/dev/null bs=64k count=8 iflag=direct 2>/dev/null;"
                    "grep mdisk /proc/interrupts").split("==\n"))
    assert re.search(disk, text, re.M) and new > old
    assert lab("echo $((16#ec))") == "236\n"


def test_lab_b54_softirq_counters(lab):
    names = [line.split(":")[0].strip() for line in lab("cat /proc/softirqs").splitlines()[1:]]
    assert names == ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
    numbered = lab('cat /proc/softirqs | grep ":" | nl -v 0').splitlines()
    assert [line.split()[0] for line in numbered] == [str(n) for n in range(10)]
    assert len(lab("cat /proc/softirqs | grep TIMER").splitlines()) == 2 and len(lab("cat /proc/softirqs | grep RX").splitlines()) == 1
