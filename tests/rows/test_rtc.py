"""rtc(4): the PC's clock, its interrupts through line 8, and what /proc and /sys say of it."""
from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from glasskernel.drivers.rtc.lib import rtc_time64_to_tm, rtc_tm_to_time64
from glasskernel.machine.rtc import (
    DONT_CARE,
    RTC_24H,
    RTC_AIE,
    RTC_HOURS_ALARM,
    RTC_MINUTES_ALARM,
    RTC_REG_A,
    RTC_REG_B,
    RTC_REG_C,
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_SET,
    RTC_UIP,
    Rtc,
)
from tests.conftest import need

IOCTL = """
import fcntl, os, select, struct, time
RD_TIME, ALM_SET, AIE_ON, UIE_ON, UIE_OFF, IRQP_SET, PIE_ON, PIE_OFF = (
    0x80247009, 0x40247007, 0x7001, 0x7003, 0x7004, 0x4008700c, 0x7005, 0x7006)
f = os.open("/dev/rtc0", os.O_RDONLY)
def now(): return struct.unpack("9i", fcntl.ioctl(f, RD_TIME, bytes(36)))
def wait():
    select.select([f], [], [])
    return struct.unpack("Q", os.read(f, 8))[0]
def irqs(): return next(int(l.split()[1]) for l in open("/proc/interrupts") if l.endswith("rtc0\\n"))
"""


def inside(kernel, script):
    result = kernel.run(["python3", "-c", IOCTL + script])
    assert result.status == 0, result.stderr.decode()
    return result.stdout.decode()


def test_line_8_is_requested_by_the_clocks_driver(run):
    line = next(x for x in run("cat /proc/interrupts").stdout.decode().splitlines() if x.startswith("  8:"))
    assert re.fullmatch(r"  8:( +0){4}   IO-APIC   8-edge      rtc0", line)


def test_the_clock_shows_the_time_of_the_system_at_boot(boot):
    kernel = boot()
    assert inside(kernel, "t = now(); print(t[:6], t[6], t[7])") == "(0, 0, 20, 15, 8, 119) 0 257\n"
    text = kernel.run(["sh", "-c", "sleep 70; cat /sys/class/rtc/rtc0/date /sys/class/rtc/rtc0/time /sys/class/rtc/rtc0/since_epoch; date +%s"]).stdout
    assert text == b"2019-09-15\n20:01:10\n1568577670\n1568577670\n"


def test_hwclock_reads_and_sets_it(boot):
    need("busybox", "busybox-static")
    kernel = boot()
    script = "busybox hwclock -u -r; date -s '2024-02-29 12:34:56'; busybox hwclock -u -w; sleep 86399; busybox hwclock -u -r"
    lines = kernel.run(["sh", "-c", script]).stdout.decode().splitlines()
    assert lines[0].startswith("Sun Sep 15 20:00:00 2019") and lines[2].startswith("Fri Mar  1 12:34:55 2024")


def test_update_interrupts_come_at_each_new_second(boot):
    out = inside(boot(), """
time.sleep(0.25)
fcntl.ioctl(f, UIE_ON)
before = irqs()
for _ in range(3): print(wait() & 0xff, now()[0])
print(irqs() - before)
fcntl.ioctl(f, UIE_OFF)
""")
    assert out == "144 1\n144 2\n144 3\n3\n"


def test_periodic_interrupts_come_at_the_frequency_that_was_set(boot):
    out = inside(boot(), """
fcntl.ioctl(f, IRQP_SET, 64)
fcntl.ioctl(f, PIE_ON)
start = time.monotonic()
count = sum(wait() >> 8 for _ in range(32))
print(count, round(time.monotonic() - start, 3))
fcntl.ioctl(f, PIE_OFF)
""")
    assert out == "32 0.5\n"


def test_the_alarm_interrupts_once(boot):
    out = inside(boot(), """
t = list(now()); t[0] += 30
fcntl.ioctl(f, ALM_SET, struct.pack("9i", *t))
fcntl.ioctl(f, AIE_ON)
start = time.monotonic()
print(wait() & 0xff, round(time.monotonic() - start), irqs())
print(select.select([f], [], [], 100)[0])
""")
    assert out == "160 30 1\n[]\n"


def test_wakealarm_of_sysfs(boot):
    kernel = boot()
    script = """cd /sys/class/rtc/rtc0; echo +10 > wakealarm; cat wakealarm since_epoch; echo +5 > wakealarm; echo 0 > wakealarm
cat wakealarm; echo +10 > wakealarm; sleep 11; cat wakealarm; grep rtc0 /proc/interrupts"""
    result = kernel.run(["bash", "-c", script])
    lines = result.stdout.decode().split("\n")
    assert int(lines[0]) - int(lines[1]) == 10
    assert b"Device or resource busy" in result.stderr
    assert lines[2] == "" and lines[3] == "" and lines[4].split()[1] == "1"


def test_proc_driver_rtc_has_linuxs_lines(run):
    names = [line.split("\t")[0] for line in run("cat /proc/driver/rtc").stdout.decode().splitlines()]
    assert names == ["rtc_time", "rtc_date", "alrm_time", "alrm_date", "alarm_IRQ", "alrm_pending", "update IRQ enabled",
                     "periodic IRQ enabled", "periodic IRQ frequency", "max user IRQ frequency", "24hr", "periodic_IRQ",
                     "update_IRQ", "HPET_emulated", "BCD", "DST_enable", "periodic_freq", "batt_status"]


def test_one_opener_and_no_setting_without_the_right(boot):
    kernel = boot()
    out = inside(kernel, """
try: os.open("/dev/rtc0", os.O_RDONLY)
except OSError as e: print(e.errno)
os.setuid(1000)
for request, value in ((0x4024700a, bytes(36)), (IRQP_SET, 1000), (0x1234, 0)):
    try: fcntl.ioctl(f, request, value)
    except OSError as e: print(e.errno)
""")
    assert out == "16\n13\n13\n25\n"


def test_the_clock_costs_no_boot_time(boot):
    kernel = boot()
    kernel.run(["true"])
    assert kernel.rtc is None


class FakeMachine:
    def __init__(self):
        self.clock, self.events, self.irqs = 0, [], []

    def now(self):
        return self.clock

    def at(self, when, action):
        self.events.append((when, action))

    def post_irq(self, irq):
        self.irqs.append(irq)


def test_the_chip_stops_while_it_is_set_and_says_when_it_updates():
    machine = FakeMachine()
    chip = Rtc(machine, 0)
    chip.write(RTC_REG_B, RTC_24H | RTC_SET)
    chip.write(RTC_SECONDS, 0x42)
    machine.clock = 10_000_000_000
    assert chip.read(RTC_SECONDS) == 0x42
    chip.write(RTC_REG_B, RTC_24H)
    machine.clock += 999_900_000
    assert chip.read(RTC_SECONDS) == 0x42 and chip.read(RTC_REG_A) & RTC_UIP
    machine.clock += 100_000
    assert chip.read(RTC_SECONDS) == 0x43 and not chip.read(RTC_REG_A) & RTC_UIP


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.sets(st.integers(0, 2)), st.integers(0, 200_000))
def test_the_alarm_comes_at_the_next_matching_second(hour, minute, second, free, start):
    machine = FakeMachine()
    machine.clock = start * 1_000_000_000 + 5
    chip = Rtc(machine, 0)
    wanted = [hour, minute, second]
    for i, register in enumerate((RTC_HOURS_ALARM, RTC_MINUTES_ALARM, RTC_SECONDS_ALARM)):
        chip.write(register, DONT_CARE if i in free else wanted[i] // 10 << 4 | wanted[i] % 10)
    chip.write(RTC_REG_B, RTC_24H | RTC_AIE)
    when, action = machine.events[-1]

    def matches(t):
        shown = (t // 3600 % 24, t // 60 % 60, t % 60)
        return all(i in free or shown[i] == wanted[i] for i in range(3))

    assert when % 1_000_000_000 == 0 and matches(when // 1_000_000_000)
    assert not any(matches(t) for t in range(start + 1, when // 1_000_000_000))
    machine.clock = when
    action()
    assert machine.irqs == [8] and chip.read(RTC_REG_C) == 0xA0 and chip.read(RTC_REG_C) == 0


@given(st.integers(0, 250_000_000_000 // 1000))
def test_dates_convert_to_seconds_and_back(seconds):
    seconds *= 1000
    tm = rtc_time64_to_tm(seconds)
    assert rtc_tm_to_time64(tm) == seconds


def test_dates_agree_with_pythons():
    import time
    for seconds in (0, 951_782_399, 951_782_400, 4_102_444_799, 1_568_577_600, 68_169_600):
        t, ours = time.gmtime(seconds), rtc_time64_to_tm(seconds)
        assert (t.tm_year - 1900, t.tm_mon - 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, (t.tm_wday + 1) % 7, t.tm_yday - 1) == (
            ours.tm_year, ours.tm_mon, ours.tm_mday, ours.tm_hour, ours.tm_min, ours.tm_sec, ours.tm_wday, ours.tm_yday)
