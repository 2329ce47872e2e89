"""The cpu and cpuacct controllers: Documentation/scheduler/sched-design-CFS.txt, sched-bwc.txt, cgroup-v1/cpuacct.rst."""
import pytest

MOUNT = """
mkdir /tmp/cpu; mount -t cgroup -o cpu,cpuacct none /tmp/cpu; cd /tmp/cpu
hog() { $HOG & echo $! > $1/tasks; hogs="$hogs $!"; }
usage() { for g in $*; do echo $(<$g/cpuacct.usage); done; }
look() { sleep 0.05; a=($(usage $*)); sleep 0.4; b=($(usage $*)); for i in ${!a[@]}; do echo $(((b[i] - a[i]) * 10 / 4)); done; }
"""


@pytest.fixture
def bash(boot, build_c):
    """$HOG is an endless loop."""
    from glasskernel import Share

    binary = build_c("int main(void) { for (;;) ; }")

    def go(script, cpus=1, **options):
        kernel = boot(cpus=cpus, shares=[Share(str(binary.parent), "/programs")], **options)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOG": f"/programs/{binary.name}"}
        result = kernel.run(["/bin/bash", "-c", script], env=environment)
        assert result.status == 0, result
        return result

    return go


@pytest.fixture
def inside(bash):
    return lambda script, **options: bash(MOUNT + script + "\nkill -9 $hogs; wait 2>/dev/null; true", **options)


def shares(result):
    return [int(line) / 1e9 for line in result.stdout.split()]


def test_two_groups_share_by_cpu_shares(inside):
    """sched-design-CFS: multimedia gets twice the browser's."""
    result = inside("mkdir multimedia browser; echo 2048 > multimedia/cpu.shares; echo 1024 > browser/cpu.shares\n"
                    "hog multimedia; hog browser; hog browser; hog browser; look multimedia browser")
    assert shares(result) == pytest.approx([2 / 3, 1 / 3], abs=0.03)


def test_a_group_in_a_group_shares_what_that_gets(inside):
    result = inside("mkdir -p a/x a/y b; hog a/x; hog a/y; hog a/y; hog b; look a/x a/y a b")
    assert shares(result) == pytest.approx([0.25, 0.25, 0.5, 0.5], abs=0.03)


def test_files_have_linuxs_defaults_and_the_root_has_no_limits(inside):
    """A102"""
    result = inside("mkdir a; head a/cpu.* cpu.*; for f in cpu.shares cpu.cfs_quota_us; do echo 5000 > $f; done")
    one = ("==> {0}cpu.cfs_period_us <==\n100000\n\n==> {0}cpu.cfs_quota_us <==\n-1\n\n==> {0}cpu.shares <==\n1024\n\n"
           "==> {0}cpu.stat <==\nnr_periods 0\nnr_throttled 0\nthrottled_time 0\n")
    assert result.stdout.decode() == one.format("a/") + "\n" + one.format("")
    assert result.stderr.count(b"Invalid argument") == 2


def test_a_group_with_a_quota_is_throttled(inside):
    """A102: 20 ms of each 100."""
    result = inside("mkdir a; echo 20000 > a/cpu.cfs_quota_us; hog a; hog a; sleep 0.5; look a; cat a/cpu.stat")
    used, _, periods, _, throttled, _, time = result.stdout.split()
    assert int(used) == pytest.approx(2e8, rel=0.1)
    assert int(throttled) >= int(periods) - 1 >= 8 and int(time) > 6e8


def test_a_quota_of_two_cpus_for_four_hogs(inside):
    result = inside("mkdir a; echo 50000 > a/cpu.cfs_period_us; echo 100000 > a/cpu.cfs_quota_us\n"
                    "for i in 1 2 3 4; do hog a; done; sleep 0.3; look a; echo -1 > a/cpu.cfs_quota_us; look a", cpus=4)
    limited, free = shares(result)
    assert limited == pytest.approx(2, rel=0.06) and free == pytest.approx(4, rel=0.03)


def test_a_child_may_not_have_more_than_its_parent(inside):
    result = inside("mkdir -p a/b; echo 50000 > a/cpu.cfs_quota_us; echo 60000 > a/b/cpu.cfs_quota_us; cat a/b/cpu.cfs_quota_us\n"
                    "echo 40000 > a/b/cpu.cfs_quota_us; cat a/b/cpu.cfs_quota_us; echo 30000 > a/cpu.cfs_quota_us\n"
                    "echo 999 > a/cpu.cfs_period_us; echo 2000000 > a/cpu.cfs_period_us")
    assert result.stdout == b"-1\n40000\n" and result.stderr.count(b"Invalid argument") == 4


def test_children_are_born_into_their_parents_group(inside):
    result = inside("mkdir a; (echo 0 > a/tasks; sh -c 'cat /proc/self/cgroup; wc -l < a/tasks'; cat /proc/self/cgroup)")
    assert result.stdout.split() == [b"1:cpu,cpuacct:/a", b"3", b"1:cpu,cpuacct:/a"]


def test_real_time_tasks_stay_in_the_root_group(inside):
    result = inside("mkdir a; sleep 5 & chrt -f -p 5 $!; echo $! > a/tasks; kill $!")
    assert b"Invalid argument" in result.stderr


def test_cpuacct_tells_user_from_system_time_and_cpu_from_cpu(inside):
    result = inside("mkdir a; hog a; sleep 0.5; kill -9 $hogs; wait 2>/dev/null\n"
                    "(echo 0 > a/tasks; taskset 2 dd if=/dev/zero of=/dev/null bs=64k count=3000 2>/dev/null)\n"
                    "for f in usage usage_user usage_sys usage_percpu stat usage_all; do cat a/cpuacct.$f; done\n"
                    "echo 0 > a/cpuacct.usage; cat a/cpuacct.usage; echo 1 > a/cpuacct.usage", cpus=2)
    lines = result.stdout.decode().splitlines()
    usage, user, system = (int(line) for line in lines[:3])
    assert usage == user + system == sum(int(x) for x in lines[3].split()) and user > 4e8 and system > 1e7
    assert lines[4:6] == [f"user {user // 10_000_000}", f"system {system // 10_000_000}"]
    assert lines[6] == "cpu user system" and sum(int(x) for x in " ".join(lines[7:9]).split()) == usage + 1
    assert lines[9] == "0" and b"Invalid argument" in result.stderr


def test_a_cgroup_goes_before_a_session(inside):
    """sched(7): autogroups are for tasks in the root group of the cpu controller."""
    result = inside("mkdir a; hog a; setsid sh -c 'echo $$ > /tmp/pid; exec $HOG' & sleep 0.1; echo $(cat /tmp/pid) > a/tasks\n"
                    "setsid sh -c 'echo $$ > /tmp/other; exec $HOG' & look a; kill -9 $(cat /tmp/pid /tmp/other)",
                    cmdline="oops=panic autogroup")
    assert shares(result) == pytest.approx([0.5], abs=0.04)


def test_groups_can_be_removed_while_zombies_are_left(inside):
    result = inside("mkdir a; (sh -c 'echo 0 > a/tasks; exit 0' & sleep 0.1; exec sleep 0.2) & sleep 0.15; rmdir a && ls -d a; wait; sleep 0.1; echo $?")
    assert b"No such file" in result.stderr and result.stdout == b"0\n"


def test_the_files_of_cgroup2(bash):
    """cgroup-v2.rst, "CPU Interface Files"."""
    script = """
        mkdir /tmp/two; mount -t cgroup2 none /tmp/two; cd /tmp/two; echo +cpu > cgroup.subtree_control; mkdir a b; ls a | grep ^cpu
        cat a/cpu.weight a/cpu.weight.nice a/cpu.max; echo 200 > a/cpu.weight; cat a/cpu.weight.nice; echo 5 > b/cpu.weight.nice
        cat b/cpu.weight; echo 100 > b/cpu.weight
        echo 10001 > a/cpu.weight; echo 20 > a/cpu.weight.nice; echo soon > a/cpu.max
        for g in a b; do $HOG & echo $! > $g/cgroup.procs; done; sleep 0.6; head -3 a/cpu.stat b/cpu.stat
        echo 20000 > a/cpu.max; cat a/cpu.max; sleep 0.6; tail -3 a/cpu.stat; echo "max 50000" > a/cpu.max; cat a/cpu.max
        kill -9 $(jobs -p); wait; rmdir a b"""
    result = bash(script)
    lines = result.stdout.decode().splitlines()
    assert result.status == 0 and lines[:4] == ["cpu.max", "cpu.stat", "cpu.weight", "cpu.weight.nice"], result
    assert lines[4:9] == ["100", "0", "max 100000", "-3", "33"]
    a, b = ([int(line.split()[1]) for line in part] for part in (lines[10:13], lines[15:18]))
    assert a[0] == pytest.approx(a[1] + a[2], abs=1) and a[0] / b[0] == pytest.approx(2, rel=0.08)
    assert lines[18] == "20000 100000" and lines[22] == "max 50000"
    assert 4 <= int(lines[20].split()[1]) <= int(lines[19].split()[1]) and int(lines[21].split()[1]) > 100_000
    errors = result.stderr.decode()
    assert errors.count("Numerical result out of range") == 2 and errors.count("Invalid argument") == 1


def test_in_cgroup2_a_child_may_be_given_more_than_its_parent_has(bash):
    script = """
        mkdir /tmp/two; mount -t cgroup2 none /tmp/two; cd /tmp/two; echo +cpu > cgroup.subtree_control; mkdir a
        echo +cpu > a/cgroup.subtree_control; mkdir a/b; echo 20000 > a/cpu.max; echo 50000 > a/b/cpu.max; cat a/b/cpu.max
        echo $$ > a/b/cgroup.procs; timeout 0.5 $HOG; head -1 a/cpu.stat"""
    result = bash(script)
    quota, period, _, usage = result.stdout.split()
    assert (quota, period) == (b"50000", b"100000") and int(usage) < 150_000, result


def test_the_tools_of_libcgroup(inside):
    """cgcreate, cgset, cgclassify, cgget, cgdelete (Debian: cgroup-tools)."""
    result = inside("""
        cgcreate -g cpu,cpuacct:/a/b; cgset -r cpu.shares=512 a; cgset -r cpu.cfs_quota_us=30000 a; cgget -r cpu.shares a; lscgroup
        $HOG & hogs=$!; cgclassify -g cpu:a/b $hogs; cat /proc/$hogs/cgroup; sleep 0.5
        cgget -nv -r cpuacct.usage a; kill -9 $hogs; cgdelete -r -g cpu:/a; lscgroup""")
    lines = result.stdout.decode().splitlines()
    assert lines[:3] == ["a:", "cpu.shares: 512", ""]
    assert [line for line in lines[3:] if line] == [
        "cpu,cpuacct:/", "cpu,cpuacct:/a", "cpu,cpuacct:/a/b", "1:cpu,cpuacct:/a/b", lines[7], "cpu,cpuacct:/"], result
    assert 1.2e8 < int(lines[7]) < 2.3e8


def test_two_users_get_half_each(inside):
    """A097: fair between users: each has a group, as pam_cgroup and cgrulesengd set it up."""
    result = inside("""
        as() { (echo 0 > $1/tasks; exec setpriv --reuid $2 --clear-groups $HOG) & hogs="$hogs $!"; }
        mkdir u1000 u1001; as u1000 1000; as u1001 1001; as u1001 1001; as u1001 1001; sleep 0.2; look u1000 u1001""")
    assert shares(result) == pytest.approx([0.5, 0.5], abs=0.04)
