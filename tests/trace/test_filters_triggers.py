"""Filters and triggers of trace events, as shell scripts use them. Texts: reference session on Linux."""

import pytest

SWITCH = "events/sched/sched_switch"


def records(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_a_filter_is_shown_and_removed(sh):
    assert sh(f"cat {SWITCH}/filter; echo 'prev_pid == 1' > {SWITCH}/filter; cat {SWITCH}/filter; "
              f"echo 0 > {SWITCH}/filter; cat {SWITCH}/filter") == "none\nprev_pid == 1\nnone\n"


def test_an_unknown_field_is_named_in_the_filter_and_the_error_log(sh):
    text = sh(f"echo 'bogus == 1' > {SWITCH}/filter; cat {SWITCH}/filter error_log")
    shown, log = text.split("[", 1)
    assert shown == "bogus == 1\n      ^\nparse_error: Field not found\n\n"
    assert "] event filter parse error: error: Field not found\n  Command: bogus == 1\n                 ^\n" in log
    assert "Invalid argument" in log
    assert sh("echo > error_log; cat error_log") == ""


def test_what_stands_behind_a_zero_byte_is_not_read(sh):
    text = sh(rf"printf 'bogus == 1\0tail' > {SWITCH}/filter; printf 'p:bad nosuchfn\0tail' > kprobe_events; cat error_log | tr '\0' @")
    assert "  Command: bogus == 1\n" in text and "  Command: p:bad nosuchfn\n" in text


@pytest.mark.parametrize(("text", "spaces", "error"), [
    ("prev_pid ==", 11, "Invalid value (did you forget quotes)?"),
    ('prev_pid == "a"', 13, "Expecting numeric field"),
    ("prev_comm == 1", 14, "Expecting string field"),
])
def test_what_is_wrong_with_a_filter(sh, text, spaces, error):
    shown = sh(f"echo '{text}' > {SWITCH}/filter; cat {SWITCH}/filter").splitlines()
    assert shown[0] == text
    assert shown[2] == f"parse_error: {error}"
    assert shown[1] == " " * spaces + "^"


def test_filters_choose_records(sh):
    text = sh("cd events/syscalls/sys_enter_write; echo 'count == 3 || (count > 6 && count < 8)' > filter; "
              "echo 1 > enable; echo ab; echo abcd; echo abcdef; echo 0 > enable; cat ../../../trace")
    assert [line.rpartition("count: ")[2] for line in records(text) if "sys_write" in line] == ["3)", "7)"]


def test_filters_know_strings_globs_and_the_running_task(sh):
    text = sh("cd events/sched/sched_process_exec; echo 'filename ~ \"*/tr*\" && comm != \"x\" && common_pid > 1' > filter;"
              "echo 1 > enable; /bin/true; /bin/echo; echo 0 > enable; cat ../../../trace")
    found = [line for line in records(text) if "sched_process_exec:" in line]
    assert len(found) == 1 and "filename=/bin/true" in found[0]


def test_a_subsystem_filter_goes_to_the_events_it_fits(sh):
    text = sh("echo 'pid > 1' > events/sched/filter; cat events/sched/filter events/sched/sched_wakeup/filter "
              "events/sched/sched_switch/filter; echo 0 > events/sched/filter; cat events/sched/sched_switch/filter")
    assert text.startswith("### global filter ###\n")
    assert "pid > 1\npid > 1\n^\nparse_error: Couldn't find or set field in one of a subsystem's events\n\nnone\n" in text


def test_triggers_are_listed_until_they_are_removed(sh):
    text = sh(f"cd {SWITCH}; cat trigger; echo 'traceoff:7 if prev_pid == 99999' > trigger; cat trigger enable; "
              "echo '!traceoff' > trigger; cat trigger enable")
    free = ("# Available triggers:\n"
            "# traceon traceoff snapshot stacktrace enable_event disable_event enable_hist disable_hist hist\n")
    assert text == f"{free}traceoff:count=7 if prev_pid == 99999\n0*\n{free}0\n"


def test_traceoff_stops_the_trace_once(sh):
    assert sh("echo 'traceoff:1' > events/sched/sched_process_exec/trigger; cat tracing_on; "
              "echo 1 > tracing_on; /bin/true; cat tracing_on") .splitlines()[0] == "0"


def test_a_stack_trace_comes_without_the_record(sh):
    text = sh("echo stacktrace:1 > events/sched/sched_process_exec/trigger; /bin/true; cat trace")
    assert "<stack trace>" in text and "sched_process_exec:" not in text


def test_one_event_switches_another(sh):
    """$(<file) reads without an exec, which would pull the trigger."""
    text = sh("cd events/sched; echo enable_event:sched:sched_process_exit > sched_process_exec/trigger; "
              "echo $(<sched_process_exec/trigger) $(<sched_process_exit/enable); /bin/true; "
              "echo $(<sched_process_exit/enable); grep -c sched_process_exit: ../../trace")
    lines = text.splitlines()
    assert lines[:2] == ["enable_event:sched:sched_process_exit:unlimited 0*", "1*"]
    assert int(lines[2]) > 0


def test_bad_triggers_are_refused(sh):
    for bad in ("foo", "hist:keys=pid", "traceon:x", "enable_event:no:such", "traceon whenever"):
        assert "Invalid argument" in sh(f"echo '{bad}' > {SWITCH}/trigger", 1)
    assert "File exists" in sh(f"echo traceon > {SWITCH}/trigger; echo traceon:3 > {SWITCH}/trigger", 1)
