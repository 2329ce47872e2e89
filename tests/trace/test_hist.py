"""Histograms of events: Documentation/trace/histogram.rst, as shell scripts use it."""

import re

import pytest

WRITE, SWITCH = "events/syscalls/sys_enter_write", "events/sched/sched_switch"


def test_hits_are_counted_by_key(sh):
    """The whole text of the hist file."""
    text = sh(f"cd {WRITE}; echo 'hist:keys=count if count < 9' > trigger; cat trigger; for x in a b c def; do echo $x; done >/dev/null; "
              "echo 'hist:keys=count:pause if count < 9' >> trigger; cat hist; cat trigger")
    assert text == """\
hist:keys=count:vals=hitcount:sort=hitcount:size=2048 if count < 9 [active]
# event histogram
#
# trigger info: hist:keys=count:vals=hitcount:sort=hitcount:size=2048 if count < 9 [paused]
#

{ count:          4 } hitcount:          1
{ count:          2 } hitcount:          3

Totals:
    Hits: 4
    Entries: 2
    Dropped: 0
hist:keys=count:vals=hitcount:sort=hitcount:size=2048 if count < 9 [paused]
"""


def test_values_are_summed_and_sorted(sh):
    text = sh(f"cd {WRITE}; echo 'hist:keys=fd,common_pid.execname:vals=count:sort=count.descending,fd:size=200' > trigger; "
              "for x in 1 22 333; do echo $x >/dev/null; done; echo mine >&2; cat hist trigger")
    rows = re.findall(r"^\{ fd: +(\d+), common_pid: (\S+) +\[ +\d+\] \} hitcount: +(\d+)  count: +(\d+)$", text, re.M)
    assert rows[0] == ("1", "bash", "4", "14")       # `>&2` makes the file descriptor 1
    assert ":vals=hitcount,count:sort=count.descending,fd:size=256 [active]\n" in text


def test_modifiers(sh):
    text = sh("cd events/raw_syscalls/sys_enter; echo 'hist:keys=id.syscall:sort=id' > trigger; echo; cat hist; echo > trigger;"
              f"cd ../../../{WRITE}; echo 'hist:keys=count.log2' > trigger; echo 12345; echo 'hist:keys=buf.hex' >> trigger; echo x; cat hist")
    assert re.search(r"^\{ id: sys_write                     \[  1\] \} hitcount: +\d+$", text, re.M)
    assert re.search(r"^\{ count: ~ 2\^3  \} hitcount: +1$", text, re.M)
    assert re.search(r"^\{ buf: 5[0-9a-f]+ \} hitcount: +1$", text, re.M)


def test_stack_traces_are_keys(sh):
    text = sh(f"echo 'hist:keys=stacktrace' > {SWITCH}/trigger; sleep 0.1; cat {SWITCH}/hist")
    assert re.search(r"^\{ stacktrace:\n(?: {9}\S+\+0x\w+/0x\w+\n)* {9}schedule\+0x\w+/0x\w+\n(?: {9}\S+\n)*\} hitcount: +\d+$", text, re.M)


def test_strings_are_keys_and_an_event_is_not_recorded_for_it(sh):
    text = sh(f"echo 'hist:keys=next_comm' > {SWITCH}/trigger; sleep 0.1; cat {SWITCH}/enable {SWITCH}/hist; grep -c sched_switch trace", 1)
    assert text.startswith("0*\n") and text.endswith("0\n")
    assert re.search(r"^\{ next_comm: sleep {45} \} hitcount: +\d+$", text, re.M)


def test_pause_continue_clear_and_remove(sh):
    text = sh(f"cd {WRITE}; echo 'hist:keys=fd:pause' > trigger; echo; grep Hits hist; echo 'hist:keys=fd:cont' >> trigger; echo; grep Hits hist;"
              "echo 'hist:keys=fd:clear' >> trigger; grep Entries hist; echo '!hist:keys=fd' >> trigger; cat trigger hist enable")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    assert found[0] == "Hits: 0" and int(found[1].split()[1]) > 0 and found[2].startswith("Entries:")
    assert found[3] == "# Available triggers:" and found[-1] == "0"


def test_what_finds_no_room_is_dropped(sh):
    text = sh(f"cd {WRITE}; echo 'hist:keys=count:size=128' > trigger; for i in $(seq 200); do printf '%*s' $i x >/dev/null; done; tail -4 hist")
    assert "    Entries: 128\n" in text and int(text.split("Dropped: ")[1]) >= 72


def test_one_event_pauses_the_histogram_of_another(sh):
    text = sh(f"echo 'hist:keys=count' > {WRITE}/trigger; echo disable_hist:syscalls:sys_enter_write > events/sched/sched_process_exec/trigger; "
              f"/bin/true; cat {WRITE}/trigger")
    assert text.endswith("size=2048 [paused]\n")


@pytest.mark.parametrize("bad", ["hist", "hist:vals=count", "hist:keys=nothing", "hist:keys=count.huh", "hist:keys=count.execname",
                                 "hist:keys=count:sort=buf", "hist:keys=count:size=5", "hist:keys=count:size=1000000",
                                 "hist:keys=count if", "hist:keys=fd,buf,count,common_pid", "hist:keys=count:what=ever"])
def test_bad_histograms_are_refused(sh, bad):
    assert "Invalid argument" in sh(f"echo '{bad}' > {WRITE}/trigger", 1)


def test_errors_are_logged(sh):
    text = sh(f"echo 'hist:keys=bogus' > {WRITE}/trigger; echo 'hist:keys=fd:clear' > {WRITE}/trigger; cat error_log")
    assert "hist:syscalls:sys_enter_write: error: Couldn't find field\n  Command: hist:keys=bogus\n                     ^\n" in text
    assert "No such file" in text and "Can't clear or continue a nonexistent hist trigger" in text
