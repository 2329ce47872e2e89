"""kprobe_events, as shell scripts use it. Texts: reference session on Linux."""

import re


def test_a_probe_has_a_directory_and_fires(sh):
    text = sh("echo 'p:myp vfs_read' > kprobe_events; cat kprobe_events; ls events/kprobes; cat events/kprobes/myp/format;"
              "echo 1 > events/kprobes/myp/enable; cat /etc/hostname; echo 0 > events/kprobes/myp/enable; cat trace kprobe_profile")
    assert text.startswith("p:kprobes/myp vfs_read\nenable\nfilter\nmyp\nname: myp\n")
    assert "\tfield:unsigned long __probe_ip;\toffset:8;\tsize:8;\tsigned:0;\n" in text
    assert 'print fmt: "(%lx)", REC->__probe_ip\n' in text
    hits = re.findall(r" +cat-\d+ +\[\d+\] \S+ +\d+\.\d{6}: myp: \(vfs_read\+0x0/0x[0-9a-f]+\)", text)
    assert hits
    assert re.search(r"^  myp {41} +\d+ +0$", text, re.M)


def test_arguments_and_return_values(sh):
    text = sh("echo 'p:a vfs_read n=$arg3:u64 who=$comm' > kprobe_events; echo 'r:b vfs_read $retval:s32' >> kprobe_events;"
              "echo 1 > events/kprobes/enable; cat /etc/hostname >/dev/null; echo 0 > events/kprobes/enable; cat kprobe_events trace")
    assert text.startswith("p:kprobes/a vfs_read n=$arg3:u64 who=$comm\nr:kprobes/b vfs_read arg1=$retval:s32\n")
    assert re.search(r': a: \(vfs_read\+0x0/0x\w+\) n=\d+ who="cat"', text)
    assert re.search(r": b: \(\w+\+0x\w+/0x\w+ <- vfs_read\) arg1=\d+", text)


def test_bad_probes_are_refused_and_logged(sh):
    text = sh("echo 'p:bad nosuchfn' >> kprobe_events; cat error_log")
    assert "No such file or directory" in text
    assert "] trace_kprobe: error: Invalid probed address or symbol\n  Command: p:bad nosuchfn\n                 ^\n" in text
    assert "busy" in sh("echo p:x vfs_read > kprobe_events; echo 1 > events/kprobes/x/enable; echo > kprobe_events", 1)
    assert sh("echo 0 > events/kprobes/x/enable; echo -:x >> kprobe_events; cat kprobe_events") == ""
