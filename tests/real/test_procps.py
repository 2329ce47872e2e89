"""ps, top, free, uptime, pgrep, pkill, vmstat, w, pidof: their numbers are true and add up."""
import re

import pytest

from tests.conftest import need


@pytest.fixture(autouse=True)
def procps():
    need("ps", "procps")


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def test_ps_aux_lists_every_process_with_its_columns(run):
    """B034, B450: USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND."""
    lines = text(run("sleep 100 & ps aux; kill $!")).splitlines()
    assert lines[0].split() == ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]
    rows = {line.split(None, 10)[10]: line.split(None, 10) for line in lines[1:]}
    assert rows["sleep 100"][7][0] == "S" and int(rows["sleep 100"][4]) > int(rows["sleep 100"][5]) > 0
    assert rows["ps aux"][7][0] == "R"
    assert rows["[kthreadd]"][1] == "2" and rows["[kthreadd]"][4:6] == ["0", "0"]


def test_ps_fax_draws_the_tree(run):
    """B036."""
    out = text(run(["/bin/bash", "-c", "(sleep 100 & sleep 101 & wait) & sleep 0.1; ps fax; kill $!; pkill sleep"]))
    assert re.search(r"\\_ /bin/bash -c", out)
    assert re.search(r"  \\_ sleep 100\n.*  \\_ sleep 101\n", out)


def test_ps_shows_kernel_threads_as_children_of_pid_2(boot):
    """B363, B364, A088: one ksoftirqd and two kworkers a CPU, PPID 2."""
    lines = text(boot(cpus=3).run(["ps", "-ef"])).splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    kernel = [line.split(None, 7) for line in lines if line.endswith("]")]
    names = {row[7]: row[2] for row in kernel}
    assert names.pop("[kthreadd]") == "0"
    assert names.pop("[init]", "0") == "0"
    assert set(names.values()) == {"2"}
    assert sorted(n for n in names if n.startswith("[ksoftirqd/")) == [f"[ksoftirqd/{n}]" for n in range(3)]
    for cpu in range(3):
        assert any(n.startswith(f"[kworker/{cpu}:0-") or n == f"[kworker/{cpu}:0]" for n in names), names
        assert any(n.startswith(f"[kworker/{cpu}:0H") for n in names)
    assert any(n.startswith("[kworker/u6:0") for n in names)


def test_ps_formats_and_sorts(run):
    """B081, B131, B419, B421: -eo pid,comm,vsz,rss; --sort rss; pmem."""
    lines = text(run("ps -eo pid,comm,vsz,rss --sort rss")).splitlines()
    assert lines[0].split() == ["PID", "COMMAND", "VSZ", "RSS"]
    resident = [int(line.split()[-1]) for line in lines[1:]]
    assert resident == sorted(resident) and resident[-1] > 0
    assert text(run("ps -eo pid,comm,vsz,rss | head -2")).splitlines()[1].split()[0] == "1"
    assert text(run("ps -eo pmem,rss,vsz,comm")).splitlines()[0].split() == ["%MEM", "RSS", "VSZ", "COMMAND"]
    assert text(run("ps -o pid= -p $$; echo $$")).split()[0] == text(run("ps -o pid= -p $$; echo $$")).split()[1]


def test_ps_vsz_and_rss_agree_with_maps_and_smaps(run):
    """A167: VSZ is the sum of the areas, RSS what is mapped of them."""
    script = """
        sleep 100 & p=$!; sleep 0.1; ps -o vsz=,rss= -p $p
        gawk -F'[- ]' '!/vsyscall/ {s += strtonum("0x" $2) - strtonum("0x" $1)} END {print s / 1024}' /proc/$p/maps
        gawk '/^Rss:/ {s += $2} END {print s}' /proc/$p/smaps; gawk '/^Vm(Size|RSS)/ {print $2}' /proc/$p/status; kill $p"""
    vsz, rss, area, mapped, size, resident = map(float, text(run(["/bin/bash", "-c", script])).split())
    assert vsz == area == size
    assert rss == mapped == resident


def test_top_prints_a_sane_screen(run):
    """B017: top -b -n 1: header, tasks, CPU states, memory, and a table."""
    out = text(run(["/bin/bash", "-c", "while :; do :; done & sleep 0.3; top -b -n 1; kill $!"]))
    lines = out.splitlines()
    assert re.match(r"top - \d\d:\d\d:\d\d up +(\d+ min|\d+:\d\d),  \d users?,  load average: \d+\.\d\d, \d+\.\d\d, \d+\.\d\d$", lines[0])
    total, running, sleeping, stopped, zombie = map(int, re.findall(r"\d+", lines[1]))
    assert total == running + sleeping + stopped + zombie and running >= 2
    states = [float(n) for n in re.findall(r"[\d.]+", lines[2])]
    assert abs(sum(states) - 100) < 0.6
    total, free, used, cache = (float(n) for n in re.findall(r"[\d.]+", lines[3]))
    available = float(re.findall(r"[\d.]+", lines[4])[-1])
    assert free < total and cache > 0
    assert abs(total - used - available) < 0.2
    assert lines[6].split() == ["PID", "USER", "PR", "NI", "VIRT", "RES", "SHR", "S", "%CPU", "%MEM", "TIME+", "COMMAND"]
    hog = next(line.split() for line in lines[7:] if line.split()[7] == "R" and line.endswith("bash"))
    assert float(hog[8]) > 50
    assert len(lines) - 7 == sum(map(int, re.findall(r"\d+", lines[1])[:1]))


def test_top_shows_the_priority_as_twenty_plus_nice(run):
    """A086."""
    out = text(run("nice -n 7 sleep 9 & a=$!; nice -n -4 sleep 8 & sleep 0.1; top -b -n 1; kill $! $a"))
    rows = [line.split() for line in out.splitlines()]
    found = {tuple(row[2:4]) for row in rows if row and row[-1] == "sleep"}
    assert {("27", "7"), ("16", "-4")} <= found


def test_free_adds_up_to_meminfo(run):
    """B052, B416, A210: used + available = total; buff/cache = Buffers + Cached + SReclaimable."""
    out = text(run("free; cat /proc/meminfo"))
    lines = out.splitlines()
    assert lines[0].split() == ["total", "used", "free", "shared", "buff/cache", "available"]
    total, used, free, shared, cache, available = map(int, lines[1].split()[1:])
    info = {k: int(v) for k, v in re.findall(r"^(\S+): +(\d+)", out, re.MULTILINE)}
    assert total == info["MemTotal"]
    assert used + available == total
    assert abs(free - info["MemFree"]) < 2000
    assert abs(cache - info["Buffers"] - info["Cached"] - info["SReclaimable"]) < 2000
    assert abs(shared - info["Shmem"]) < 100
    assert lines[2].split() == ["Swap:", "0", "0", "0"]
    assert text(run("free -m; free -h")).count("Mem:") == 2


def test_uptime_and_loadavg_agree(run):
    """B054."""
    up, loads = text(run("uptime; cat /proc/loadavg")).splitlines()
    assert re.search(r"load average: (.*), (.*), (.*)$", up).groups() == tuple(loads.split()[:3])
    assert re.fullmatch(r"\d+/\d+", loads.split()[3])
    first, second = text(run("cut -d' ' -f1 /proc/uptime; sleep 100; cut -d' ' -f1 /proc/uptime")).split()
    assert 99.9 < float(second) - float(first) < 100.5


def test_pgrep_pkill_and_pidof_find_by_name(run):
    script = """
        sleep 100 & a=$!; sleep 200 & b=$!; sleep 0.1; [ "$(pgrep sleep | xargs)" = "$a $b" ] && echo pgrep
        pgrep -f '^sleep 2' | grep -qx $b && echo full; [ $(pidof sleep | wc -w) = 2 ] && echo pidof; pgrep -c sleep
        pkill -f '^sleep 1'; wait $a; echo $?; pkill -0 -P $$ sleep && echo child; pkill sleep; wait $b; echo $?; pgrep sleep; echo $?"""
    assert text(run(["/bin/bash", "-c", script])).split() == ["pgrep", "full", "pidof", "2", "143", "child", "143", "1"]


def test_vmstat_slabtop_pmap_and_pwdx_read_their_files(run):
    out = text(run("vmstat; vmstat -s | head -3; pmap $$ | tail -1; pwdx $$; tload -V; ps -p 1 -o comm="))
    assert "procs" in out.splitlines()[0] and "swpd" in out.splitlines()[1]
    assert re.search(r"\d+ K total memory", out) and re.search(r"total +\d+K", out) and ": /root" in out
    assert len(out.splitlines()[2].split()) == len(out.splitlines()[1].split())


def test_w_and_who_print_no_users(run):
    assert text(run("w")).splitlines()[1].split()[:2] == ["USER", "TTY"]
    assert text(run("who; users")).strip() == ""


def test_kill_lists_every_signal(agree):
    agree("kill -l; /bin/kill -L; kill -l 64; kill -s SIGCHILD 1; echo $?", stderr=False)


def test_pstree_and_fuser_walk_proc(run):
    need("pstree", "psmisc")
    out = text(run(["/bin/bash", "-c", "sleep 9 & sleep 0.1; pstree -A $$; kill $!"]))
    assert out.startswith("bash-+-pstree") and "`-sleep" in out
