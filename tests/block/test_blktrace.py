"""blktrace(8), blkparse(1) and btrace(8) of Debian, inside."""
import re

TABLE = r"printf 'label: gpt\nstart=4096, size=4M\n' | sfdisk -q /dev/sda; "


def parse(text):
    """(action, rwbs, rest) of blkparse's lines."""
    return re.findall(r"^ *8,0 +\d+ +\d+ +[\d.]+ +\d+ +([A-Z]+) +([A-Z]+)(?: (.*))?$", text, re.MULTILINE)


def test_a_write_in_the_words_of_blktrace(sh, memory_disk):
    """A remap, Q queue, G get request, P plug, M merge, U unplug, I insert, D dispatch, C complete."""
    out, _ = sh([memory_disk(model="ssd")], TABLE + "blktrace -d /dev/sda -w 1 -o - > /tmp/t & sleep 0.2; "
                "dd if=/dev/zero of=/dev/sda1 bs=4k count=4 conv=fsync 2>/dev/null; wait; blkparse -i - < /tmp/t")
    lines = parse(out)
    writes = [(a, rest) for a, rwbs, rest in lines if rwbs == "WS"]
    assert writes[:3] == [("A", "4096 + 8 <- (8,1) 0"), ("Q", "4096 + 8 [dd]"), ("G", "4096 + 8 [dd]")]
    assert ("A", "4104 + 8 <- (8,1) 8") in writes and ("M", "4120 + 8 [dd]") in writes
    assert [(a, r) for a, r in writes if a in "IDC"][:3] == [
        ("I", "4096 + 32 [dd]"), ("D", "4096 + 32 [dd]"), ("C", "4096 + 32 [0]")]
    assert ("P", "N", "[dd]") in lines and ("U", "N", "[dd] 1") in lines
    assert [a for a, rwbs, _ in lines if rwbs == "FN"] == ["D", "C"]             # fsync flushed the device
    assert "Write Merges:            3" in out


def test_btrace_shows_a_partition(sh, memory_disk):
    out, kernel = sh([memory_disk(model="ssd")], TABLE + "(sleep 0.5; dd if=/dev/sda1 of=/dev/null bs=4k count=1 iflag=direct; "
                     "dd if=/dev/sda of=/dev/null bs=4k count=1 skip=3000 iflag=direct; sleep 0.5; pkill -INT -x blktrace) 2>/dev/null & "
                     "btrace /dev/sda1; wait")
    assert re.search(r"8,1 +\d+ +\d+ +[\d.]+ +\d+ +Q +R 4096 \+ 8 \[dd\]", out) or re.search(r"Q +R 4096 \+ 8 \[dd\]", out)
    assert "24000 + 8" not in out                                    # not in the partition
    assert kernel.tp.block_rq_issue is None                          # nobody listens any more


def test_the_files_of_a_trace(sh, memory_disk):
    out, _ = sh([memory_disk()], "blktrace -d /dev/sda -w 1 -o - > /tmp/t & sleep 0.3; ls /sys/kernel/debug/block/sda | tr '\\n' ' '; "
                "cat /sys/kernel/debug/block/sda/dropped; echo 'look here' > /sys/kernel/debug/block/sda/msg; "
                "wait; blkparse -i - < /tmp/t | grep -o 'look here'; "
                "ls /sys/kernel/debug/block", cpus=2)
    assert out == "dropped msg trace0 trace1 0\nlook here\n"


def test_tracing_does_not_change_the_run(boot, memory_disk):
    """The same program at the same virtual times, whether somebody listens or not."""
    from glasskernel.kernel.trace.blktrace import blk_register_tracepoints

    def once(listening):
        kernel = boot(disks=[memory_disk(model="hdd")])
        if listening:
            blk_register_tracepoints(kernel)
        kernel.run(["/bin/dd", "if=/dev/zero", "of=/dev/sda", "bs=4k", "count=50", "conv=fsync"])
        return kernel.now_ns, kernel.block.disks[-1].part0.nsecs

    assert once(True) == once(False)
