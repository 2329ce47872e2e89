"""A151: the timer, the keyboard controller and ACPI: rows of /proc/interrupts that count, and what the firmware says."""
import re
import struct

from glasskernel.drivers.clocksource.i8253 import pit_next_event, pit_set_oneshot, pit_set_periodic, pit_shutdown
from glasskernel.drivers.pnp import acpi_device, i8042_device, i8253_device


def rows(kernel):
    """{line: (its count, controller, kind, names)}"""
    found = {}
    for line in kernel.run(["cat", "/proc/interrupts"]).stdout.decode().splitlines():
        match = re.fullmatch(r" *(\d+):((?: +\d+)+)   (\S+) +(\d+-\S+) +(.*)", line)
        if match:
            found[int(match[1])] = (sum(map(int, match[2].split())), *match.groups()[2:])
    return found


def test_the_rows_of_a_pc_exist(boot):
    """A151: i8042, rtc0, acpi, timer lines in /proc/interrupts."""
    assert {line: row for line, row in rows(boot()).items() if line < 16 and line != 4} == {
        0: (0, "IO-APIC", "2-edge", "timer"), 1: (0, "IO-APIC", "1-edge", "i8042"), 8: (0, "IO-APIC", "8-edge", "rtc0"),
        9: (0, "IO-APIC", "9-fasteoi", "acpi"), 12: (0, "IO-APIC", "12-edge", "i8042")}


def test_keys_and_the_mouse_interrupt(boot):
    kernel = boot()
    i8042 = i8042_device(kernel)
    assert "serio: i8042 KBD port at 0x60,0x64 irq 1" in kernel.dmesg() and "i8042 AUX port at 0x60,0x64 irq 12" in kernel.dmesg()
    seen = []
    i8042.ports[0].driver = seen.append
    i8042.hardware.type_keys(b"\x1e\x9e")
    i8042.hardware.move_mouse(b"\x08\x01\x02")
    found = rows(kernel)
    assert (found[1][0], found[12][0]) == (2, 3) and seen == [0x1E, 0x9E]
    assert [port.received for port in i8042.ports] == [2, 3]
    i8042.hardware.write_data(0xF2)                # what kind of keyboard are you
    rows(kernel)
    assert seen[2:] == [0xFA, 0xAB, 0x83]


def test_the_interval_timer_interrupts_once_or_at_every_tick(boot):
    kernel = boot()
    timer = i8253_device(kernel)
    times = []
    timer.event_handler = lambda: times.append(kernel.now_ns)
    pit_set_oneshot(timer)
    before = kernel.now_ns
    pit_next_event(timer, 11932)                   # 10 ms
    assert kernel.run(["sleep", "0.05"]).status == 0
    assert len(times) == 1 and 0 <= times[0] - before - 10_000_000 < 1_000_000
    assert rows(kernel)[0][0] == 1
    pit_set_periodic(timer)
    kernel.run(["sleep", "0.1"])
    pit_shutdown(timer)
    count = len(times)
    assert 25 <= count - 1 <= 27
    kernel.run(["sleep", "0.1"])
    assert rows(kernel)[0][0] == len(times) == count
    assert abs((times[-1] - times[1]) / (count - 2) - 4_000_000) < 100_000


def test_the_power_button_reaches_acpi_through_its_line(boot):
    kernel = boot()
    button = "cat /sys/firmware/acpi/interrupts/ff_pwr_btn /sys/firmware/acpi/interrupts/sci"
    show = lambda: kernel.run(["sh", "-c", button]).stdout.decode()  # noqa: E731
    assert show() == "       0  EN       enabled       unmasked\n       0\n"
    registers = acpi_device(kernel).registers
    registers.press_power_button()
    assert rows(kernel)[9] == (1, "IO-APIC", "9-fasteoi", "acpi")
    assert show() == "       1  EN       enabled       unmasked\n       1\n"
    assert "Power Button [PWRF] pressed" in kernel.dmesg()
    assert kernel.run(["sh", "-c", "echo disable > /sys/firmware/acpi/interrupts/ff_pwr_btn"]).status == 0
    registers.press_power_button()
    assert rows(kernel)[9][0] == 1 and "disabled" in show() and "STS" in show()
    assert kernel.run(["sh", "-c", "echo enable > /sys/firmware/acpi/interrupts/ff_slp_btn"]).status == 1


def test_the_firmwares_tables_add_up_and_name_the_cpus(boot):
    kernel = boot(cpus=3)
    assert acpi_device(kernel).tables.lapics == [0, 1, 2] and acpi_device(kernel).tables.overrides == {0: 2, 9: 9}
    assert kernel.run(["ls", "/sys/firmware/acpi/tables"]).stdout.split() == [b"APIC", b"DSDT", b"FACP", b"FACS"]
    for name in ("APIC", "DSDT", "FACP"):
        table = kernel.run(["cat", f"/sys/firmware/acpi/tables/{name}"]).stdout
        signature, length, revision = struct.unpack("<4sIB", table[:9])
        assert (signature.decode(), length, sum(table) & 0xFF) == (name, len(table), 0) and revision == 1
    assert kernel.run(["stat", "-c", "%a %s", "/sys/firmware/acpi/tables/FACP"]).stdout == b"400 116\n"
    assert kernel.run(["cat", "/sys/firmware/acpi/tables/FACP"], uid=1000, cwd="/").status == 1


def test_a_damaged_table_is_noticed():
    from glasskernel.drivers.acpi.tables import AcpiTables, acpi_find_root_pointer, acpi_tb_parse_root_table
    from glasskernel.lib.errno import EINVAL, ENODEV, KernelError
    from glasskernel.machine.acpi import RSDP_ADDRESS, acpi_tables

    for address, expected in [(a, ENODEV if a == RSDP_ADDRESS else EINVAL) for a, t in acpi_tables(2).items() if t[:4] != b"FACS"]:
        rom = acpi_tables(2)
        rom[address] = rom[address][:-1] + bytes([rom[address][-1] ^ 1])
        acpi = AcpiTables(rom)
        try:
            acpi_tb_parse_root_table(acpi, acpi_find_root_pointer(acpi))
        except KernelError as error:
            assert error.errno == expected
        else:
            raise AssertionError(hex(address))
