"""procfs: the shape is that of a real Linux (tests/data/proc), the values are those of the live objects."""

import re
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "data/proc"


def reference(name):
    return (DATA / f"{name}.txt").read_text()


def cat(run, path, **options):
    result = run(["cat", path], **options)
    assert (result.status, result.stderr) == (0, b"")
    return result.stdout.decode()


def labels(text):
    return [re.split(r":|\s", line, maxsplit=1)[0] for line in text.splitlines()]


def shape(text):
    """The text with N for each right-aligned number."""
    return re.sub(r" +\d+", " N", text)


# ---- processes ------------------------------------------------------------------------------------------------
def test_status_has_the_lines_of_linux(run):
    ours = cat(run, "/proc/self/status").splitlines()
    theirs = [line for line in reference("pid-status").splitlines() if not line.startswith("Seccomp_filters")]
    assert [line.split(":")[0] for line in ours] == [line.split(":")[0] for line in theirs]
    for mine, real in zip(ours, theirs):
        if real.endswith("kB") or real.startswith(("Sig", "Cap", "Shd", "Mems", "Umask")):
            assert len(mine.partition("/")[0]) == len(real.partition("/")[0]) or "SigQ" in real, (mine, real)
            assert mine.partition("\t")[1] == real.partition("\t")[1]
    assert "State:\tR (running)" in ours
    assert "Name:\tcat" in ours


def test_status_of_a_kernel_thread_has_no_memory(run):
    ours = cat(run, "/proc/2/status")
    theirs = [line for line in labels(reference("kthread-status")) if line != "Seccomp_filters"]
    assert labels(ours) == theirs
    assert "Name:\tkthreadd\n" in ours
    assert "PPid:\t0\n" in ours


def test_stat_has_52_fields_which_agree_with_status(run):
    result = run(["cat", "/proc/self/stat", "/proc/self/status", "/proc/self/statm"])
    lines = result.stdout.decode().splitlines()
    pid, comm, state, *rest = lines[0].split(" ")
    assert len([pid, comm, state, *rest]) == len(reference("pid-stat").split(" ")) == 52
    status = dict(line.split(":\t", 1) for line in lines[1:-1])
    assert (comm, state) == ("(cat)", "R")
    assert status["Pid"] == pid
    assert status["PPid"] == rest[0]
    size, resident, shared = (int(n) * 4 for n in lines[-1].split()[:3])
    assert abs(int(status["VmSize"].split()[0]) - size) <= 4
    assert int(rest[19]) // 1024 == size                                   # vsize
    assert abs(int(status["VmRSS"].split()[0]) - resident) <= 64
    assert int(status["RssFile"].split()[0]) + int(status["RssShmem"].split()[0]) <= shared + 64


def test_maps_has_the_columns_of_linux(run):
    ours = cat(run, "/proc/self/maps").splitlines()
    line = re.compile(r"[0-9a-f]{8,16}-[0-9a-f]{8,16} [r-][w-][x-][ps] [0-9a-f]{8} "
                      r"[0-9a-f]{2,}:[0-9a-f]{2} \d+ *(\S.*)?")
    assert all(line.fullmatch(text) for text in ours), ours
    for theirs in reference("pid-maps").splitlines():
        assert line.fullmatch(theirs)
    names = [text[73:] for text in ours]
    assert names[0] == "/usr/bin/cat"
    assert [n for n in names if n.startswith("[")] == ["[heap]", "[stack]", "[vvar]", "[vdso]", "[vsyscall]"]
    starts = [int(text.split("-")[0], 16) for text in ours]
    assert starts == sorted(starts)


def test_maps_read_in_small_pieces_is_the_same(run):
    whole = run("exec 3</proc/$$/maps; cat <&3; dd if=/proc/$$/maps bs=7 2>/dev/null").stdout.decode().splitlines()
    half = len(whole) // 2
    assert whole[:half] == whole[half:]


def test_smaps_adds_up_to_rss(run):
    result = run("cat /proc/self/smaps; echo ===; cat /proc/self/smaps_rollup")
    smaps, rollup = result.stdout.decode().split("===\n")
    real = reference("pid-smaps").splitlines()[1:23]
    newer = ("FilePmdMapped", "ProtectionKey")
    assert labels(smaps)[1:22] == [*[x for x in labels("\n".join(real)) if x not in newer][:20], "VmFlags"]
    assert [len(line) for line in smaps.splitlines()[1:4]] == [len(line) for line in real[:3]]
    total = sum(int(n) for n in re.findall(r"^Rss: +(\d+) kB", smaps, re.M))
    rolled = int(re.search(r"^Rss: +(\d+) kB", rollup, re.M)[1])
    assert abs(total - rolled) <= 64            # two processes
    assert labels(rollup)[1:] == [x for x in labels(reference("pid-smaps_rollup"))[1:] if x not in newer]


def test_limits_is_byte_for_byte_linux_but_for_the_machine_size(run):
    def known(text):
        return re.sub(r"(?m)^(Max (?:processes|pending signals) +)\S+ +\S+ +", r"\1", text)

    assert known(cat(run, "/proc/self/limits")) == known(reference("pid-limits"))


def test_cmdline_environ_and_comm(run):
    result = run(["sh", "-c", "cat /proc/self/cmdline; echo; cat /proc/self/environ; echo; cat /proc/self/comm"],
                 env={"COLOUR": "red"})
    command, environ, comm = result.stdout.split(b"\n")[:3]
    assert command == b"cat\0/proc/self/cmdline\0"
    assert b"COLOUR=red\0" in environ
    assert comm == b"cat"


def test_links_lead_to_the_objects(run):
    result = run("cd /usr; cd /proc; readlink self/exe self/root self thread-self; cd /usr; readlink /proc/self/cwd")
    exe, root, me, thread, cwd = result.stdout.decode().split()
    assert (cwd, exe, root) == ("/usr", "/usr/bin/readlink", "/")
    assert thread == f"{me}/task/{me}"


def test_fd_shows_and_opens_what_is_open(run):
    result = run("exec 5>/tmp/x; echo one >&5; echo two > /proc/$$/fd/5; cat /tmp/x; readlink /proc/$$/fd/5; "
                 "rm /tmp/x; readlink /proc/$$/fd/5; cat /proc/$$/fdinfo/5; cat < /proc/self/fd/0", stdin=b"input")
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == ["two", "/tmp/x"] or lines[:3] == ["two", "/tmp/x", "/tmp/x (deleted)"]
    assert "/tmp/x (deleted)" in lines
    assert [line.split(":")[0] for line in lines if ":\t" in line][:3] == ["pos", "flags", "mnt_id"]
    assert lines[-1] == "input"


def test_threads_share_tgid_and_are_listed(run_c):
    """A063: several entries in /proc/PID/task with the same tgid."""
    source = r"""
    #include <pthread.h>
    #include <stdio.h>
    #include <dirent.h>
    #include <unistd.h>
    static int ready[2];
    static void *wait_forever(void *a) { write(ready[1], "x", 1); pause(); return a; }
    int main(void) {
        pthread_t t[3]; char c; char path[64], line[200];
        pipe(ready);
        for (int i = 0; i < 3; i++) { pthread_create(&t[i], 0, wait_forever, 0); read(ready[0], &c, 1); }
        DIR *d = opendir("/proc/self/task");
        for (struct dirent *e; (e = readdir(d)); ) {
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
            FILE *f = fopen(path, "r");
            while (fgets(line, sizeof line, f))
                if (line[0] == 'T' && line[1] == 'g' || line[0] == 'T' && line[1] == 'h') fputs(line, stdout);
            fclose(f);
        }
        return 0;
    }"""
    lines = run_c(source).stdout.decode().splitlines()
    assert len({line for line in lines if line.startswith("Tgid")}) == 1
    assert [line for line in lines if line.startswith("Threads")] == ["Threads:\t4"] * 4


def test_a_process_that_ended_is_gone(run):
    result = run("sleep 100 & p=$!; kill -9 $p; wait $p; ls -d /proc/$p; cat /proc/$p/stat; "
                 "ls /proc | grep -c \"^$p$\"")
    assert result.stdout.decode().split() == ["0"]


def test_a_zombie_shows_z_and_no_memory(run_c):
    source = r"""
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    int main(void) {
        int p[2]; char c; pipe(p);
        int pid = fork();
        if (!pid) _exit(0);
        close(p[1]); read(p[0], &c, 1); usleep(1000);
        char command[100];
        sprintf(command, "cat /proc/%d/stat; cat /proc/%d/cmdline | wc -c; readlink /proc/%d/exe", pid, pid, pid);
        system(command);
    }"""
    stat, size = run_c(source).stdout.decode().splitlines()
    assert stat.split(") ")[1].startswith("Z")
    assert stat.split()[22:24] == ["0", "0"]
    assert size == "0"


def test_sleepers_tell_where_they_sleep(run):
    result = run("sleep 100 & sleep 1; cd /proc/$!; cat wchan; echo; cat stack; cut -d' ' -f35 stat; kill $!")
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "do_nanosleep"
    assert re.fullmatch(r"\[<0>\] do_nanosleep\+0x[0-9a-f]+/0x[0-9a-f]+", lines[1])
    assert any("do_syscall_64" in line for line in lines)
    assert lines[-1] == "1"


def test_mountinfo_and_mounts(run):
    result = run("cat /proc/self/mountinfo; echo ===; cat /proc/mounts")
    info, mounts = result.stdout.decode().split("===\n")
    line = re.compile(r"\d+ \d+ \d+:\d+ /\S* /\S* (rw|ro)\S*( shared:\d+)? - \S+ \S+ (rw|ro)\S*")
    assert all(line.fullmatch(text) for text in info.splitlines()), info
    assert all(line.fullmatch(text) for text in reference("pid-mountinfo").splitlines())
    assert [text.split()[4] for text in info.splitlines()] == [text.split()[1] for text in mounts.splitlines()]
    assert all(text.endswith(" 0 0") for text in mounts.splitlines())
    assert "/lower" not in mounts.replace("lowerdir=/lower", "")


# ---- who may look ---------------------------------------------------------------------------------------------
def test_another_user_may_see_the_command_but_not_the_memory(run):
    result = run("cat /proc/1/comm; for f in environ mem io stack auxv syscall; do "
                 "cat /proc/$PPID/$f >/dev/null 2>&1 && echo may $f; done; ls /proc/1/fd; readlink /proc/1/cwd",
                 uid=1000, gid=1000, cwd="/")
    assert result.stdout.decode().split() == ["init"]


def test_hidepid_hides_other_processes(boot):
    kernel = boot()
    assert kernel.run(["mount", "-o", "remount,hidepid=2", "/proc"]).status == 0
    seen = kernel.run(["ls", "/proc"], uid=1000, gid=1000, cwd="/").stdout.decode().split()
    assert "1" not in seen and "self" in seen
    assert kernel.run(["cat", "/proc/1/comm"], uid=1000, gid=1000, cwd="/").status == 1
    assert kernel.run(["cat", "/proc/1/comm"]).stdout == b"init\n"


# ---- the machine ----------------------------------------------------------------------------------------------
def test_meminfo_has_the_lines_of_linux_and_adds_up(boot):
    kernel = boot(memory=256 << 20)
    ours = kernel.run(["cat", "/proc/meminfo"]).stdout.decode()
    theirs = [line for line in reference("meminfo").splitlines() if not line.startswith("File")]
    assert labels(ours) == labels("\n".join(theirs))
    for mine, real in zip(ours.splitlines(), theirs):
        assert len(mine) == len(real), (mine, real)
    value = {label: int(line.split()[1]) for label, line in zip(labels(ours), ours.splitlines())}
    assert value["MemTotal"] == kernel.mem.totalram_pages * 4
    assert value["MemFree"] < value["MemAvailable"] + 16384 < value["MemTotal"] + 16384
    assert value["Cached"] == kernel.mem.vm_stat[2] * 4 or value["Cached"] > 0


def test_cpuinfo_has_a_paragraph_a_cpu(run):
    paragraphs = cat(run, "/proc/cpuinfo", cpus=3).strip().split("\n\n")
    assert [p.splitlines()[0] for p in paragraphs] == ["processor\t: 0", "processor\t: 1", "processor\t: 2"]
    theirs = labels(reference("cpuinfo").split("\n\n")[0])
    mine = labels(paragraphs[0])
    assert [label for label in mine if label in theirs] == mine            # the same order; no label of our own
    assert set(theirs) - set(mine) == {"microcode", "TLB"}                 # AMD's


def test_cpuinfo_says_what_cpuid_says(run_c):
    source = r"""
    #include <cpuid.h>
    #include <stdio.h>
    #include <string.h>
    int main(void) {
        unsigned a, b, c, d, name[13] = {0};
        __cpuid(1, a, b, c, d);
        printf("%u %u %u\n", (a >> 8 & 15) + (a >> 20 & 255), (a >> 4 & 15) | (a >> 12 & 240), a & 15);
        printf("%d %d %d ", !!(d & bit_SSE2), !!(c & bit_SSE4_2), !!(c & bit_POPCNT));
        printf("%d %d\n", !!(c & bit_AVX), !!(c & bit_RDRND));
        for (int i = 0; i < 3; i++) {
            __cpuid(0x80000002 + i, a, b, c, d);
            unsigned v[4] = {a, b, c, d};
            memcpy(name + 4 * i, v, 16);
        }
        puts((char *)name);
        __cpuid(0, a, b, c, d); unsigned v[4] = {b, d, c, 0}; printf("%s %u\n", (char *)v, a);
    }"""
    numbers, flags, name, vendor = run_c(source).stdout.decode().splitlines()
    from glasskernel.fs.proc import cpuinfo
    assert numbers == f"{cpuinfo.CPU_FAMILY} {cpuinfo.CPU_MODEL} {cpuinfo.CPU_STEPPING}"
    known = cpuinfo.CPU_FLAGS.decode().split()
    assert flags == " ".join(str(int(f in known)) for f in ("sse2", "sse4_2", "popcnt", "avx", "rdrand"))
    assert name == cpuinfo.CPU_MODEL_NAME.decode()
    assert vendor == f"{cpuinfo.CPU_VENDOR.decode()} {cpuinfo.CPUID_LEVEL}"


def test_interrupts_and_softirqs_have_a_column_a_cpu(run):
    ours = cat(run, "/proc/interrupts").splitlines()
    theirs = reference("interrupts").splitlines()
    assert ours[0] == theirs[0]
    rows = {line.split(":")[0]: line for line in theirs}
    for line in ours[1:]:
        label = line.split(":")[0]
        if label in rows and not label.strip().isdigit():
            assert shape(line) == shape(rows[label])
    soft = cat(run, "/proc/softirqs").splitlines()
    assert [line[:24] for line in soft[:1]] == [line[:24] for line in reference("softirqs").splitlines()[:1]]
    assert [shape(line) for line in soft] == [shape(line) for line in reference("softirqs").splitlines()]


def test_local_timer_interrupts_grow_with_time(run):
    text = run("grep LOC /proc/interrupts; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; grep LOC /proc/interrupts")
    first, second = (sum(int(n) for n in line.split()[1:5]) for line in text.stdout.decode().splitlines())
    assert second > first


def test_stat_counts_forks_and_switches(run):
    result = run("cat /proc/stat; sleep 0.1; true & wait; /bin/true; cat /proc/stat")
    text = result.stdout.decode()
    lines = text.splitlines()
    half = len(lines) // 2
    assert [line.split()[0] for line in lines[:half]] == [line.split()[0] for line in reference("stat").splitlines()]
    before = dict(line.split(" ", 1) for line in lines[:half])
    after = dict(line.split(" ", 1) for line in lines[half:])
    assert int(after["processes"]) >= int(before["processes"]) + 3
    assert int(after["ctxt"]) > int(before["ctxt"])
    assert sum(map(int, after["cpu"].split())) > sum(map(int, before["cpu"].split()))


def test_uptime_and_loadavg_have_linux_form(run):
    up = cat(run, "/proc/uptime")
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d\n", up) and re.fullmatch(r"\d+\.\d\d \d+\.\d\d\n", reference("uptime"))
    load = cat(run, "/proc/loadavg")
    assert re.fullmatch(r"(\d+\.\d\d ){3}\d+/\d+ \d+\n", load)
    later = run("sleep 100; cat /proc/uptime").stdout.decode()
    assert float(later.split()[0]) >= 100
    assert float(later.split()[1]) > 300                                  # four CPUs idled


def test_buddyinfo_counts_free_blocks(boot):
    kernel = boot()
    text = kernel.run(["cat", "/proc/buddyinfo"]).stdout.decode()
    form = re.compile(r"Node 0, zone {1,6}(DMA|DMA32|Normal) ( *\d+ ){11}")
    for line in [*text.splitlines(), *reference("buddyinfo").splitlines()]:
        assert form.fullmatch(line) and len(line) == 22 + 11 * 7
    free = sum(int(n) << order for line in text.splitlines() for order, n in enumerate(line.split()[4:]))
    now = sum(zone.nr_free for zone in kernel.mem.zones)
    assert abs(free - now) < 2000


def test_zoneinfo_has_the_sections_of_linux(run):
    ours = cat(run, "/proc/zoneinfo")
    theirs = reference("zoneinfo")
    zones = re.findall(r"^Node 0, zone +(\w+)$", ours, re.M)
    assert zones == re.findall(r"^Node 0, zone +(\w+)$", theirs, re.M)
    for word in ("pages free", "min", "low", "high", "spanned", "present", "managed"):
        assert len(re.findall(rf"^ +{word} +\d+$", ours, re.M)) == len(zones)
    assert "  start_pfn:           4096\n" in ours


def test_version_cmdline_and_devices(run):
    result = run("cat /proc/version /proc/cmdline; uname -r; cat /proc/devices /proc/filesystems",
                 cmdline="quiet color=red")
    lines = result.stdout.decode().splitlines()
    assert lines[0].startswith("Linux version 5.3.0-glasskernel (")
    assert lines[1] == "quiet color=red"
    assert lines[0].split()[2] == lines[2]
    assert "  1 mem" in lines and "136 pts" in lines and "Character devices:" in lines
    assert "nodev\tproc" in lines and "nodev\ttmpfs" in lines


# ---- /proc/sys ------------------------------------------------------------------------------------------------
def test_a_variable_takes_effect_when_it_is_written(run):
    result = run("echo guest > /proc/sys/kernel/hostname; uname -n; echo 2000 > /proc/sys/kernel/ns_last_pid; "
                 "sh -c 'echo $$'; cat /proc/sys/kernel/pid_max; cat /proc/sys/kernel/ostype")
    assert result.stdout.decode().split() == ["guest", "2001", "32768", "Linux"]


@pytest.mark.parametrize(("path", "value"), [
    ("kernel/pid_max", "5"), ("vm/overcommit_memory", "9"), ("kernel/sched_latency_ns", "1"), ("fs/nr_open", "no"),
])
def test_bad_values_are_einval(run, path, value):
    result = run(["bash", "-c", f"cd /proc/sys; cat {path}; echo {value} > {path}; cat {path}"])
    assert b"Invalid argument" in result.stderr
    before, after = result.stdout.split()
    assert before == after


def test_only_root_may_write(run):
    result = run(["bash", "-c", "echo x > /proc/sys/kernel/hostname"], uid=1000, gid=1000, cwd="/")
    assert b"Permission denied" in result.stderr


def test_lowering_pid_max_makes_fork_fail_with_eagain(run_c):
    source = r"""
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(void) {
        int fd = open("/proc/sys/kernel/pid_max", O_WRONLY), n = 0;
        write(fd, "310\n", 4);
        int p;
        while ((p = fork()) > 0) n++;
        if (!p) pause();
        if (errno != EAGAIN) return 0;
        printf("%d\n", n > 200);
        return 0;
    }"""
    assert run_c(source).stdout == b"1\n"


def test_uuids(run):
    text = run("cd /proc/sys/kernel/random; cat boot_id boot_id uuid uuid").stdout.decode().split()
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", t) for t in text)
    assert text[0] == text[1] and text[2] != text[3]


def test_namespaces_are_told_apart_by_their_files(run):
    """A090: unshare makes a new mount namespace, the rest is shared."""
    result = run("cd /proc/self/ns; stat -Lc %i mnt uts pid pid_for_children; readlink mnt; stat -fLc %t net; "
                 "unshare -m sh -c 'stat -Lc %i /proc/self/ns/mnt /proc/self/ns/uts'")
    mnt, uts, pid, pid_for_children, link, magic, inner_mnt, inner_uts = result.stdout.decode().split()
    assert link == f"mnt:[{mnt}]"
    assert (inner_uts, pid_for_children, magic) == (uts, pid, "6e736673")
    assert inner_mnt != mnt
