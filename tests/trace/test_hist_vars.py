"""Variables and actions of histograms, synthetic events: the inter-event part of Documentation/trace/histogram.rst."""

import re

import pytest

WAKING, SWITCH = "events/sched/sched_waking", "events/sched/sched_switch"
SYNTH = "echo 'wakeup_latency u64 lat; pid_t pid; int prio' >> synthetic_events; "
TS0 = f"echo 'hist:keys=pid:ts0=common_timestamp.usecs if comm==\"sleep\"' >> {WAKING}/trigger; "
LAT = "hist:keys=next_pid:wakeup_lat=common_timestamp.usecs-$ts0"
ONE = "sleep 0.02; sleep 0.02; "


def test_wakeup_latency_as_the_documentation_has_it(sh):
    text = sh(SYNTH + TS0 + f"""
echo '{LAT}:onmatch(sched.sched_waking).wakeup_latency($wakeup_lat,next_pid,next_prio) if next_comm=="sleep"' >> {SWITCH}/trigger
echo 'hist:keys=pid,prio,lat:sort=pid,lat' >> events/synthetic/wakeup_latency/trigger
echo 1 > events/synthetic/wakeup_latency/enable; {ONE}
cat events/synthetic/wakeup_latency/hist trace {SWITCH}/trigger {WAKING}/trigger synthetic_events""")
    assert len(re.findall(r"^\{ pid: +\d+, prio: +120, lat: +\d+ \} hitcount: +1$", text, re.M)) == 2
    assert len(re.findall(r"<idle>-0 +\[\d+\] \S+ +\d+\.\d{6}: wakeup_latency: lat=\d+ pid=\d+ prio=120$", text, re.M)) == 2
    assert (f"{LAT.replace(':wake', ':vals=hitcount:wake')}:sort=hitcount:size=2048:clock=global:onmatch(sched.sched_waking)."
            "wakeup_latency($wakeup_lat,next_pid,next_prio) if next_comm==\"sleep\" [active]\n") in text
    assert 'hist:keys=pid:vals=hitcount:ts0=common_timestamp.usecs:sort=hitcount:size=2048:clock=global if comm=="sleep" [active]\n' in text
    assert text.endswith("wakeup_latency\tu64 lat; pid_t pid; int prio\n")


def test_the_trace_action_and_fields_of_the_matching_event(sh):
    """prio is no field of sched_switch: a histogram of sched_waking is made that remembers it."""
    text = sh("echo 'lat2 u64 lat; int prio; char comm[16]' >> synthetic_events; " + TS0 + f"""
echo '{LAT}:onmatch(sched.sched_waking).trace(lat2,$wakeup_lat,prio,next_comm) if next_comm=="sleep"' >> {SWITCH}/trigger
echo 1 > events/synthetic/enable; {ONE} cat trace {SWITCH}/trigger {WAKING}/trigger""")
    assert len(re.findall(r": lat2: lat=\d+ prio=120 comm=sleep$", text, re.M)) == 2
    assert ":onmatch(sched.sched_waking).trace(lat2,$wakeup_lat,prio,next_comm) if" in text
    assert 'hist:keys=pid:vals=hitcount:synthetic_prio=prio:sort=hitcount:size=2048 if comm=="sleep" [active]\n' in text


def test_the_greatest_value_is_kept_with_what_was_saved(sh):
    text = sh("T=events/syscalls/sys_enter_write; echo 'hist:keys=fd:n=count:onmax($n).save(buf,common_pid) if count < 9' > $T/trigger; "
              "for w in 1 12345 123; do echo $w > /dev/null; done; cat $T/trigger $T/hist")
    assert text.startswith("hist:keys=fd:vals=hitcount:n=count:sort=hitcount:size=2048:onmax($n).save(buf,common_pid) if count < 9 [active]\n")
    assert re.search(r"^\{ fd: +1 \} hitcount: +\d+\n\tmax: +6  buf: +\d+  common_pid: +\d+$", text, re.M)


def test_a_change_is_noticed_and_strings_are_saved(sh):
    text = sh(f"echo 'hist:keys=prev_state:n=next_prio:onchange($n).save(next_comm)' > {SWITCH}/trigger; {ONE} cat {SWITCH}/hist")
    assert re.search(r"^\{ prev_state: +\d+ \} hitcount: +\d+\n\tchanged: +120  next_comm: \w\S* +$", text, re.M)


def test_a_snapshot_is_taken_at_the_greatest_value(sh):
    text = sh("T=events/syscalls/sys_enter_write; echo 1 > $T/enable; echo 'hist:keys=fd:n=count:onmax($n).snapshot() if count < 400' > $T/trigger; "
              "for w in 1 12345 123; do echo $w > /dev/null; done; echo 0 > $T/enable; cat $T/hist; grep -c sys_write snapshot")
    assert re.search(r"^Snapshot taken \(see tracing/snapshot\)\.  Details:\n"
                     r"\ttriggering value \{ onmax\(\$n\) \}: +\d+\ttriggered by event with key: \{ fd: +\d+ \}\n\nTotals:", text, re.M)
    assert int(text.split()[-1]) > 0


def test_expressions(sh):
    """What follows an operator is read first; a variable that an expression reads must be set again."""
    text = sh("cd events/syscalls; echo 'hist:keys=common_pid:a=count,b=fd+count' > sys_enter_write/trigger; "
              "echo 'hist:keys=common_pid:vals=$b:d=$a-ret:e=-($b):onmax($d).save(ret)' > sys_exit_write/trigger; cat sys_exit_write/trigger; "
              "echo 123 > /dev/null; cat sys_exit_write/hist")
    assert text.startswith("hist:keys=common_pid:vals=hitcount,$b:d=$a-ret,e=-($b):sort=hitcount:size=2048:onmax($d).save(ret) [active]\n")
    assert re.search(r"hitcount: +\d+  b: +\d+\n\tmax: +0  ret: +0$", text, re.M)


@pytest.mark.parametrize("trigger, why, where", [
    ("hist:keys=next_pid:l=common_timestamp-$nobody", "Couldn't find variable", "$nobody"),
    ("hist:keys=next_pid:l=common_timestamp.usecs-$ts1", "Time units in expression don't match", "common_timestamp.usecs-$ts1"),
    ("hist:keys=next_pid:a=next_prio,a=prev_prio", "Variable already defined", "a="),
    ("hist:keys=$ts1", "Using variable references in keys not supported", "$ts1"),
    ("hist:keys=next_pid:onmax($x).save(next_comm)", "Couldn't find onmax or onchange variable", "$x"),
    ("hist:keys=next_pid:x=next_prio:onmax(x).save(next_comm)", "Not an onmax or onchange variable", "x"),
    ("hist:keys=next_pid:x=next_prio:onmax($x)", "No action following handler", ""),
    ("hist:keys=next_pid:x=next_prio:onmax($x).save()", "No params found for save()", "save"),
    ("hist:keys=next_pid:onmatch(sched.nothing).trace(w,next_pid)", "Invalid subsystem or event name", "sched.nothing"),
    ("hist:keys=next_pid:onmatch(sched.sched_waking).nobody(next_pid)", "Couldn't find synthetic event", "nobody"),
    ("hist:keys=next_pid:onmatch(sched.sched_waking).w(next_pid)", "Param count doesn't match synthetic event field count", "w("),
    ("hist:keys=next_pid:onmatch(sched.sched_waking).w(next_comm,next_pid)", "Param type doesn't match synthetic event field type", "next_comm"),
    ("hist:keys=next_pid:onmatch(sched.sched_waking).save(next_pid)", "Handler doesn't support action", "save"),
    ("hist:keys=next_pid:l=next_pid+next_pid+next_pid+next_pid+next_pid", "Too many subexpressions (3 max)", "next_pid"),
])
def test_bad_ones_are_refused_and_logged(sh, trigger, why, where):
    text = sh(f"echo 'w pid_t a; pid_t b' >> synthetic_events; echo 'hist:keys=pid:ts1=common_timestamp' >> {WAKING}/trigger; "
              f"echo '{trigger}' > {SWITCH}/trigger; cat error_log {SWITCH}/trigger synthetic_events; echo > synthetic_events || echo busy")
    assert f"hist:sched:sched_switch: error: {why}\n  Command: {trigger}\n" in text
    assert "Invalid argument" in text and "busy" not in text
    caret = text.split(f"Command: {trigger}\n")[1].split("\n")[0].index("^") - len("  Command: ")
    assert trigger[caret:].startswith(where)


def test_what_is_used_stays(sh):
    text = sh(SYNTH + TS0 + f"""
echo '{LAT}:onmatch(sched.sched_waking).wakeup_latency($wakeup_lat,next_pid,next_prio)' >> {SWITCH}/trigger
echo '!hist:keys=pid:ts0=common_timestamp.usecs if comm=="sleep"' >> {WAKING}/trigger || echo A
echo '!wakeup_latency' >> synthetic_events || echo B
echo '!{LAT}:onmatch(sched.sched_waking).wakeup_latency($wakeup_lat,next_pid,next_prio)' >> {SWITCH}/trigger
echo '!hist:keys=pid:ts0=common_timestamp.usecs if comm=="sleep"' >> {WAKING}/trigger
echo '!wakeup_latency' >> synthetic_events; cat synthetic_events; cat {WAKING}/enable {SWITCH}/enable""")
    assert "A\nB\n0\n0\n" in text and text.count("Device or resource busy") == 2


@pytest.mark.parametrize("line, status", [
    ("x", 1), ("x u64", 1), ("x nonsense y", 1), ("x char c[64]", 1), ("1x u64 a", 1), ("!nobody", 1), ("x u64 a; int", 1),
    ("x u64 a; unsigned int b; char c[16]; long d", 0)])
def test_definitions_of_synthetic_events(sh, line, status):
    text = sh(f"echo '{line}' >> synthetic_events; s=$?; cat synthetic_events events/synthetic/x/format 2>/dev/null; exit $s", status)
    if status:
        assert not text.startswith("x")
        return
    assert text.startswith("x\tu64 a; unsigned int b; char[16] c; long d\nname: x\n")
    assert "\tfield:char[16] c;\toffset:24;\tsize:32;\tsigned:1;\n" in text and "\tfield:long d;\toffset:56;\tsize:8;\tsigned:1;\n" in text
    assert text.endswith('print fmt: "a=%llu, b=%u, c=%s, d=%ld", REC->a, REC->b, REC->c, REC->d\n')


def test_an_instance_that_goes_lets_synthetic_events_go(sh):
    text = sh(SYNTH + f"""mkdir instances/i; cd instances/i
{TS0} echo '{LAT}:onmatch(sched.sched_waking).wakeup_latency($wakeup_lat,next_pid,next_prio)' >> {SWITCH}/trigger || cat ../../error_log
cd ../..; echo '!wakeup_latency' >> synthetic_events || echo still; rmdir instances/i; echo '!wakeup_latency' >> synthetic_events && echo gone""")
    assert text.startswith("still\ngone\n")


def test_events_share_a_histogram_by_its_name(sh):
    """histogram.rst 2.2: named triggers."""
    text = sh("cd events/syscalls; echo 'hist:name=foo:keys=common_pid.execname' > sys_enter_write/trigger; cat sys_enter_write/trigger;"
              "echo 'hist:name=foo:keys=common_pid.execname' > sys_enter_dup2/trigger; echo 'hist:name=foo:keys=fd' > sys_enter_close/trigger;"
              "echo x > /dev/null; echo 'hist:name=foo:keys=common_pid.execname:pause' >> sys_enter_dup2/trigger;"
              "cat sys_enter_write/hist; cmp sys_enter_write/hist sys_enter_dup2/hist && cat sys_enter_*/trigger | grep -v '#'; cat ../../error_log")
    assert text.startswith("hist:foo:keys=common_pid.execname:vals=hitcount:sort=hitcount:size=2048 [active]\n")
    assert text.count("hist:foo:keys=common_pid.execname:vals=hitcount:sort=hitcount:size=2048 [paused]\n") == 3
    assert "Invalid argument" in text and "Named hist trigger doesn't match existing named trigger" in text
    assert re.search(r"^\{ common_pid: bash +\[ +\d+\] \} hitcount: +\d\d?$", text, re.M)
