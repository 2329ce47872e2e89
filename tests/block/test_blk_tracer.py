"""The tracer "blk" and /sys/block/NAME/trace, as blktrace's manual and kernel/trace/blktrace.c have them."""
import re

TABLE = r"printf 'label: gpt\nstart=4096, size=4M\n' | sfdisk -q /dev/sda; "
ON = "cd /sys/kernel/tracing; echo blk > current_tracer; echo 1 > /sys/block/sda/sda1/trace/enable; "
OFF = "; echo 0 > /sys/block/sda/sda1/trace/enable; echo nop > current_tracer"


def test_the_records_in_the_layout_of_a_trace(sh, memory_disk):
    out, kernel = sh([memory_disk(model="ssd")], TABLE + ON + "dd if=/dev/zero of=/dev/sda1 bs=4k count=4 conv=fsync 2>/dev/null; "
                     "cat trace" + OFF)
    assert out.startswith("# tracer: blk\n#\n  ")                 # and no header: Linux has none here
    lines = re.findall(r"^ +dd-\d+ +\[00[01]\] [d.][.N][.sh][.\d] +\d+\.\d{6}: +8,(\d) +([A-Z]+) +([A-Z]+) (.*)$", out, re.MULTILINE)
    writes = [(action, rest) for minor, action, letters, rest in lines if letters == "WS"]
    assert writes[:3] == [("A", "4096 + 8 <- (8,1) 0"), ("Q", "4096 + 8 [dd]"), ("G", "4096 + 8 [dd]")]
    assert ("M", "4120 + 8 [dd]") in writes and ("D", "4096 + 32 [dd]") in writes
    assert {minor for minor, *_ in lines} == {"1"}                  # what is traced is the partition
    assert ("1", "P", "N", "[dd]") in lines and ("1", "U", "N", "[dd] 1") in lines
    assert re.search(r"8,1 +C +WS 4096 \+ 32 \[0\]", out)
    assert kernel.tp.block_rq_issue is None and kernel.block.blk_tr is None


def test_the_classic_layout(sh, memory_disk):
    out, _ = sh([memory_disk(model="ssd")], TABLE + ON + "echo 1 > options/blk_classic; dd if=/dev/sda1 of=/dev/null bs=4k count=1 "
                "iflag=direct 2>/dev/null; cat trace; echo 0 > options/blk_classic; cat trace | tail -1" + OFF)
    assert "# DEV   CPU TIMESTAMP     PID ACT FLG\n#  |     |     |           |   |   |\n" in out
    assert re.search(r"^  8,1    [01] +\d+\.\d{9} +\d+  Q   R 4096 \+ 8 \[dd\]$", out, re.MULTILINE)
    assert re.search(r"-\d+ +\[00[01]\] .*: +8,1 ", out.splitlines()[-1])           # the usual layout is back


def test_the_attributes(sh, memory_disk):
    out, _ = sh([memory_disk()], "cd /sys/block/sda/trace; ls | tr '\\n' ' '; echo; cat enable act_mask pid; "
                "echo read,WRITE > act_mask; cat enable act_mask pid start_lba end_lba; echo 0x30 > act_mask; cat act_mask; "
                "echo nothing > act_mask || echo x > pid || true; echo 44 > end_lba; cat end_lba; echo 0 > enable; cat enable end_lba")
    assert out == ("act_mask enable end_lba pid start_lba \n0\ndisabled\ndisabled\n1\nread,write\n0\n0\n0\nqueue,requeue\n"
                   "44\n0\ndisabled\n")


def test_filters_apply_and_blktrace_is_told_that_the_disk_is_taken(sh, memory_disk):
    out, _ = sh([memory_disk(model="ssd")], "cd /sys/kernel/tracing; echo blk > current_tracer; echo issue > /sys/block/sda/trace/act_mask; "
                "dd if=/dev/sda of=/dev/null bs=4k count=2 iflag=direct 2>/dev/null; grep -c ' D ' trace; grep -c ' Q ' trace || true; "
                "blktrace -d /dev/sda -w 1 -o /tmp/t 2>&1 | head -1; echo 0 > /sys/block/sda/trace/enable")
    lines = out.splitlines()
    assert lines[:2] == ["2", "0"] and "BLKTRACESETUP" in lines[2]
