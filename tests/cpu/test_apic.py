"""Which CPUs and interrupt controllers a boot uses: maxcpus=, nosmp, nolapic, noapic (kernel-parameters.txt)."""
import pytest

LOOK = ["/bin/bash", "-c", "nproc; cat /sys/devices/system/cpu/possible; sleep 0.2; cat /proc/interrupts; dmesg | grep -c 'SMP disabled'"]


def look(kernel):
    """(number of CPUs, possible CPUs, {line's name: (counts, controller)}, how often 'SMP disabled' was said)"""
    text = kernel.run(LOOK).stdout.decode().split("\n")
    cpus = int(text[0])
    lines = {}
    for line in text[3:-2]:
        words = line.split()
        lines[words[0].rstrip(":") if words[0][0].isalpha() else words[-1]] = (
            [int(word) for word in words[1 : 1 + cpus] if word.isdigit()], next((w for w in words if w in ("IO-APIC", "XT-PIC")), ""))
    assert len(text[2].split()) == cpus
    return cpus, text[1], lines, int(text[-2])


def test_interrupts_come_through_the_io_apic(boot):
    """proc(5): /proc/interrupts names the controller of each line."""
    cpus, possible, lines, smp_disabled = look(boot())
    assert (cpus, possible, smp_disabled) == (4, "0-3", 0)
    assert {lines[name][1] for name in ("timer", "i8042", "rtc0", "acpi")} == {"IO-APIC"}
    assert sum(lines["LOC"][0]) > 0


@pytest.mark.parametrize("word", ["nosmp", "maxcpus=0", "nolapic", "disableapic"])
def test_without_smp_there_is_one_cpu_and_the_old_controller(boot, word):
    """Seed 004: a guest whose I/O APIC is off says SMP disabled and has one CPU."""
    cpus, possible, lines, smp_disabled = look(boot(cmdline=word))
    assert (cpus, possible, smp_disabled) == (1, "0", 1)
    assert {lines[name][1] for name in ("timer", "i8042", "rtc0", "acpi")} == {"XT-PIC"}
    clock, other = ("timer", "LOC") if "apic" in word else ("LOC", "timer")
    assert lines[clock][0][0] > 0 and lines[other][0][0] == 0


def test_noapic_leaves_the_cpus(boot):
    """noapic: only the I/O APIC is not used: the MADT names the CPUs' local APICs."""
    cpus, _, lines, smp_disabled = look(boot(cmdline="noapic"))
    assert (cpus, smp_disabled) == (4, 0)
    assert lines["timer"][1] == "XT-PIC" and sum(lines["LOC"][0]) > 0


def test_the_network_card_has_an_old_line_then(boot):
    """PCI's lines are routed to the i8259s."""
    script = "ip link set eth0 up; ping -c1 -w2 10.0.2.2 | grep -c ' 0% packet loss'; grep eth0 /proc/interrupts | tr -s ' ' | cut -d: -f1"
    assert boot(cmdline="nosmp").run(["/bin/bash", "-c", script]).stdout == b"1\n 11\n"


def test_nr_cpus_is_a_limit_for_ever(boot):
    """nr_cpus=N: no more than N are possible; the firmware still names all."""
    kernel = boot(cmdline="nr_cpus=2")
    result = kernel.run(["/bin/bash", "-c", "cat /sys/devices/system/cpu/possible; ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l; dmesg | grep exceeds"])
    assert result.stdout.split(b"\n", 2)[:2] == [b"0-1", b"2"]
    assert b"smpboot: 4 Processors exceeds NR_CPUS limit of 2" in result.stdout


ETH0 = "ip link set eth0 up; cd /proc/irq; "
PING = "ping -c3 -i0.1 -w3 10.0.2.2 | grep -o '[0-9] received'; "


def test_smp_affinity_sends_a_line_to_another_cpu(boot):
    """Documentation/IRQ-affinity.txt: the mask of CPUs that may take the line; one of them does."""
    script = (ETH0 + "cat default_smp_affinity 19/smp_affinity 19/smp_affinity_list 19/effective_affinity; echo 6 > 19/smp_affinity;"
              "cat 19/smp_affinity_list 19/effective_affinity_list; set -- $(grep eth0 /proc/interrupts); before=$2;"
              + PING + "set -- $(grep eth0 /proc/interrupts); echo $(($2 - before)) $(($3 > 0)) $4 $5;"
              "echo 0-3 > 19/smp_affinity_list; cat 19/smp_affinity; echo 2 > 0/smp_affinity; echo 10 > 19/smp_affinity; echo x > 19/smp_affinity")
    result = boot().run(["/bin/bash", "-c", script])
    assert result.stdout == b"f\nf\n0-3\n1\n1-2\n1\n3 received\n0 1 0 0\nf\n"
    assert [line.rsplit(b": ", 1)[1] for line in result.stderr.splitlines()] == [
        b"Input/output error", b"Value too large for defined data type", b"Invalid argument"]


def test_lines_of_a_cpu_that_goes_are_taken_by_others(boot):
    """A line that may only go to it may go anywhere from then on; the kernel says so."""
    script = (ETH0 + "echo 4 > 19/smp_affinity; echo c > 8/smp_affinity; echo 0 > /sys/devices/system/cpu/cpu2/online;"
              "cat 19/smp_affinity 8/smp_affinity 8/effective_affinity_list; " + PING + "dmesg | grep -o 'IRQ.*'")
    assert boot().run(["/bin/bash", "-c", script]).stdout == b"b\nc\n3\n3 received\nIRQ 19: no longer affine to CPU2\n"
