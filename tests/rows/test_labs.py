"""Inventory section B: the commands of the labs, as written there, on an unmodified userland."""
import re

from tests.conftest import need


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def test_lab_b01_kernel_information(run):
    assert text(run("uname -a")).startswith("Linux ")
    out = text(run("dmesg | grep -i kernel | more; dmesg | grep -i -e 'command line' -e memory"))
    assert "Command line:" in out and "Memory:" in out


def test_lab_b02_cpu_information(boot):
    out = text(boot(cpus=2).run(["/bin/sh", "-c", "cat /proc/cpuinfo"]))
    blocks = out.strip().split("\n\n")
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in block.splitlines())}
        assert fields["processor"] == str(number)
        assert {"vendor_id", "cpu family", "model", "model name", "stepping", "cpu MHz", "flags", "bogomips"} <= set(fields)


def test_lab_b02_dmidecode(boot):
    need("dmidecode", "dmidecode")
    out = text(boot(cpus=2, memory=256 << 20).run(["/bin/sh", "-c", "PATH=$PATH:/usr/sbin; dmidecode -t bios -t system; dmidecode -t processor -t memory"]))
    assert "BIOS Information\n\tVendor: Glasskernel\n" in out and "\tProduct Name: Virtual Machine\n" in out
    assert "\tSignature: Type 0, Family 6, Model 44, Stepping 1\n" in out and "\tCore Count: 2\n" in out
    assert out.count("\tSize: 256 MB\n") == 1 and "bad" not in out.lower()


def test_lab_b07_load_and_affinity(run):
    script = "dd if=/dev/zero of=/dev/null & sleep 0.02; taskset -pc 3 $(pidof dd); sleep 0.01; cut -d' ' -f3,39 /proc/$!/stat; kill $!"
    lines = run(["/bin/bash", "-c", script]).stdout.decode().splitlines()
    assert lines[0].endswith("current affinity list: 0-3") and lines[1].endswith("new affinity list: 3")
    assert lines[2] == "R 3"


def test_lab_b10_policies_and_killing_all_dd(run):
    script = """
        chrt --help | grep -E -- '-[bfior], --'; for i in 1 2 3 4; do dd if=/dev/zero of=/dev/null & done 2>/dev/null
        sleep 0.01; pidof dd | wc -w; kill -9 $(pidof dd); wait; pidof dd; echo $?"""
    out = run(["/bin/bash", "-c", script]).stdout.decode()
    assert all(f"--{p}" in out for p in ("batch", "fifo", "idle", "other", "rr"))
    assert out.splitlines()[-2:] == ["4", "1"]


def test_lab_b11_descriptors(run):
    assert re.search(r"^total 0\n(.*\n)*l[r-][w-]x------ .* 1 -> pipe:", text(run("ls -alh /proc/$$/fd | cat")))
    links = re.findall(r"^lrwx------ .* (\d) -> (\S+)$", text(run("ls -alh /proc/1/fd")), re.MULTILINE)
    assert links == [("0", "/dev/null"), ("1", "/dev/null"), ("2", "/dev/null"), ("3", "/dev/init")]


def test_lab_b12_process_data(run):
    out = text(run("sleep 50 & cd /proc/$!; sleep 0.01; cat cmdline | tr '\\0' '|'; cat oom_score; grep -c '^Vm' status; kill $!"))
    assert re.fullmatch(r"sleep\|50\|\d+\n\d\d\n", out)


def test_lab_b13_b29_b82_free(run):
    lines = text(run("free -m; free -h; free; cat /proc/meminfo | head -5")).splitlines()
    assert lines[0].split() == ["total", "used", "free", "shared", "buff/cache", "available"]
    assert re.match(r"Mem: +\d+(\.\d+)?Mi ", lines[4])
    assert [line.split(":")[0] for line in lines[-5:]] == ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached"]
    total, used, free, _, cache, available = map(int, lines[7].split()[1:])
    assert used + available == total and free < total and cache > 0


def test_lab_b20_b83_virtual_and_resident_size(run):
    script = """
        sleep 100 & p=$!; sleep 0.01; ps -eo pid,comm,vsz,rss | head -2; cat /proc/$p/maps | grep sleep; cat /proc/$p/maps | grep heap
        cat /proc/$p/maps | grep stack; set -- $(ps -o vsz=,rss= -p $p); echo $(($1 - $2)); ps -eo pid,comm,vsz,rss --sort rss | more | tail -1; kill $p"""
    lines = text(run(["/bin/bash", "-c", script])).splitlines()
    assert lines[0].split() == ["PID", "COMMAND", "VSZ", "RSS"]
    assert re.fullmatch(r" +1 init +\d\d+ +\d+", lines[1])
    assert [line.split()[1] for line in lines if "/sleep" in line] == ["r--p", "r-xp", "r--p", "r--p", "rw-p"]
    assert any(re.search(r" rw-p .*\[heap\]$", line) for line in lines)
    assert any(re.search(r" rw-p .*\[stack\]$", line) for line in lines)
    assert int(lines[-2]) > 0


def test_lab_b46_open_file_limits(run):
    out = text(run(["/bin/bash", "-c", "cat /proc/sys/fs/file-max; ulimit -a | grep files"]))
    assert re.fullmatch(r"\d+\nopen files +\(-n\) 1024\n", out)


def test_lab_b71_kernel_threads(run):
    out = text(run("ps -ef | grep  ksoft; ps -ef | grep  kwo; for p in /proc/[0-9]*; do cat $p/comm; done"))
    assert len(re.findall(r"^root +\d+ +2 .*\[ksoftirqd/\d\]$", out, re.MULTILINE)) == 4
    assert len(re.findall(r"^root +\d+ +2 .*\[kworker/", out, re.MULTILINE)) >= 9
    assert re.search(r"^kworker/2:0H", out, re.MULTILINE)


def test_labs_b69_b75_b76_hello_as_elf(run):
    need("gcc", "gcc libc6-dev")
    script = r"""
        cd /tmp; printf '#include <stdio.h>\nvoid main(void)\n{\n\tprintf("hello\\n");\n}\n' >hello.c; cat hello.c; gcc hello.c; file a.out
        readelf -l  a.out | head -5; objdump -d a.out | grep -E '<(_start|main)>:'; readelf -h a.out | head -3; hexdump a.out | head -1; ./a.out"""
    out = run(["/bin/bash", "-c", script]).stdout.decode()
    assert "ELF 64-bit LSB pie executable, x86-64, version 1 (SYSV), dynamically linked, interpreter /lib64/ld-linux-x86-64.so.2" in out
    assert "Elf file type is DYN" in out and "<_start>:" in out and "<main>:" in out
    assert "0000000 457f 464c 0102 0001 0000 0000 0000 0000" in out and out.endswith("hello\n")


def test_labs_b20_b76_maps_of_pid_1(run):
    maps = text(run("cat /proc/1/maps"))
    assert re.search(r" r-xp 00000000 00:\d\d \d+ +/init$", maps, re.MULTILINE)
    assert re.search(r" rw-p 00000000 00:00 0 +\[heap\]$", maps, re.MULTILINE)
    assert re.search(r" rw-p 00000000 00:00 0 +\[stack\]$", maps, re.MULTILINE)


def test_lab_b76_maps_of_the_shell(run):
    lines = text(run(["/bin/bash", "-c", "cat /proc/$$/maps | nl"])).splitlines()
    assert 15 < len(lines) < 60
    assert [line.split()[-1] for line in lines[-4:]] == ["[stack]", "[vvar]", "[vdso]", "[vsyscall]"]


def test_lab_b82_arithmetic_and_b81_a_typing_slip(run):
    assert text(run(["/bin/bash", "-c", "echo $((161108+39620+1834948)); echo $((16#52)) $((16#ec)); pwd"])) == "2035676\n82 236\n/root\n"


def test_lab_b86_maps_of_the_running_command(run):
    lines = text(run("cat /proc/self/maps; echo $$")).splitlines()
    assert lines[-1].isdigit() and sum(line.endswith("/usr/bin/cat") for line in lines) == 5
    assert sum(line.endswith("/libc.so.6") for line in lines) >= 4


def test_lab_b92_signals_page_size_and_devices(run):
    out = text(run("ps aux | head -1; getconf PAGESIZE; ls -hal /dev/ | grep ^b | wc -l; kill -l | head -c 20"))
    assert "VSZ" in out and "\n4096\n" in out
