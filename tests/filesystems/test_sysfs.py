"""sysfs: the tree of devices, and the tools that read it."""

import re


def test_cpus_are_links_into_devices(run):
    """A031, A246: /sys/bus/cpu/devices/cpuN -> ../../../devices/system/cpu/cpuN."""
    text = run("cd /sys/bus/cpu/devices; for c in *; do echo $c $(readlink $c); done; ls cpu3; cat cpu3/uevent; "
               "readlink cpu3/subsystem", cpus=4).stdout.decode().splitlines()
    assert text[:4] == [f"cpu{n} ../../../devices/system/cpu/cpu{n}" for n in range(4)]
    assert {"cache", "online", "subsystem", "topology", "uevent"} <= set(text)
    assert "../../../../bus/cpu" in text


def test_every_link_leads_somewhere(run):
    result = run("find /sys -type l ! -exec test -e {} ';' -print; find /sys -type l | wc -l")
    assert re.fullmatch(rb"\d+\n", result.stdout), result.stdout
    assert int(result.stdout) > 30


def test_every_file_can_be_read_and_ends_its_line(run):
    """But autosuspend_delay_ms: EIO for a device that does not use it."""
    result = run("for f in $(find /sys -path /sys/kernel/tracing -prune -o -path /sys/kernel/debug -prune -o "
                 "-path /sys/fs/cgroup -prune -o -path /sys/firmware/dmi -prune -o -path /sys/firmware/acpi/tables -prune -o -path '*/net' -prune -o "
                 "-type f ! -name config ! -name autosuspend_delay_ms -perm -400 -print); do cat $f > /tmp/x || echo cannot $f; "
                 "[ -s /tmp/x ] && [ \"$(tail -c1 /tmp/x | od -An -tx1)\" != ' 0a' ] && echo no newline $f; done; true")
    assert (result.stdout, result.stderr) == (b"", b"")


def test_devices_have_numbers_and_nodes(run):
    text = run("cat /sys/class/mem/null/dev /sys/class/mem/null/uevent; readlink /sys/dev/char/1:3; cd /sys/class; "
               "for d in mem/* tty/*; do echo $d $(cat $d/dev) $(stat -c '%t:%T' /dev/$(basename $d)); done")
    lines = text.stdout.decode().splitlines()
    assert lines[:6] == ["1:3", "MAJOR=1", "MINOR=3", "DEVNAME=null", "DEVMODE=0666", "../../devices/virtual/mem/null"]
    for line in lines[6:]:
        _, decimal, node = line.split()
        assert decimal.split(":") == [str(int(n, 16)) for n in node.split(":")]


def test_attributes_cannot_be_made_and_read_only_ones_not_written(run):
    result = run(["bash", "-c", "touch /sys/new; mkdir /sys/new; rm /sys/class/mem/null/dev; "
                  "echo 1 > /sys/devices/system/cpu/online"])
    assert result.stderr.count(b"Permission denied") + result.stderr.count(b"Operation not permitted") == 4


def test_lscpu_agrees_with_cpuinfo(run):
    """A029: unmodified lscpu prints its labels; counts agree with /proc/cpuinfo."""
    result = run("lscpu; grep -c ^processor /proc/cpuinfo", cpus=3)
    fields = dict(re.findall(r"^ *([^:\n]+): +(.*)$", result.stdout.decode(), re.M))
    assert fields["Architecture"] == "x86_64"
    assert fields["CPU(s)"] == result.stdout.decode().splitlines()[-1] == "3"
    assert fields["On-line CPU(s) list"] == "0-2"
    assert (fields["Thread(s) per core"], fields["Core(s) per socket"], fields["Socket(s)"]) == ("1", "3", "1")
    assert fields["Vendor ID"] == "GenuineIntel" and fields["CPU family"] == "6"
    assert fields["L1d cache"].startswith("96 KiB") and fields["L2 cache"].startswith("12 MiB")
    assert fields["NUMA node0 CPU(s)"] == "0-2"


def test_nproc_and_getconf(run):
    assert run("nproc --all; getconf _NPROCESSORS_CONF; getconf PAGESIZE", cpus=2).stdout == b"2\n2\n4096\n"


def test_uevents_are_counted(run):
    text = run("cat /sys/kernel/uevent_seqnum; echo change > /sys/class/mem/null/uevent; cat /sys/kernel/uevent_seqnum")
    before, after = map(int, text.stdout.split())
    assert after == before + 1


def test_kernfs_names_come_and_go(boot):
    from glasskernel.fs.sysfs.kobject import Attribute, kobject_create_and_add, kobject_del, sysfs_create_file
    from glasskernel.kernel.current import register

    kernel = boot()
    ls = ["sh", "-c", "ls /sys/kernel; cat /sys/kernel/extra/value"]
    assert b"extra" not in kernel.run(ls).stdout
    previous = getattr(register, "task", None)
    register.task = kernel.machine.this_cpu.task
    extra = kobject_create_and_add(b"extra", kernel.sysfs.kernel_kobj)
    sysfs_create_file(extra, Attribute(b"value", lambda kobj: b"42\n"))
    assert kernel.run(ls).stdout.endswith(b"42\n")
    kobject_del(extra)
    if previous is not None:
        register.task = previous
    result = kernel.run(ls)
    assert b"extra" not in result.stdout and b"No such file" in result.stderr
