"""cgroup2: one hierarchy, whose groups choose the controllers of those below them (cgroup-v2.rst)."""

HEAD = """
    exec 2>&1
    mount -t cgroup2 none /sys/fs/cgroup; cd /sys/fs/cgroup
    try() { local what=$1; shift; "$@" 2>&1 | sed "s/.*: //;s/^/$what: /"; }
    put() { echo "$1" > $2; }
"""


def inside(run, script):
    result = run(["/bin/bash", "-c", HEAD + script])
    assert result.status == 0, result
    return result.stdout.decode().splitlines()


def test_files_of_the_root_and_of_a_group(run):
    out = inside(run, """
        ls | xargs; mkdir a; ls a | xargs; cat a/cgroup.type a/cgroup.controllers a/cgroup.subtree_control a/cgroup.procs
        cat a/cgroup.events a/cgroup.max.depth a/cgroup.max.descendants; stat -c '%a %n' a/cgroup.*; grep cgroup2 /proc/filesystems
        grep -w cgroup2 /proc/self/mountinfo | cut -d' ' -f4,5,9-; stat -f -c %t .""")
    names = "cgroup.controllers cgroup.max.depth cgroup.max.descendants cgroup.procs cgroup.stat cgroup.subtree_control cgroup.threads"
    assert out[0] == names
    assert sorted(out[1].split()) == sorted([*names.split(), "cgroup.events", "cgroup.type"])
    assert out[2:6] == ["domain", "populated 0", "max", "max"]
    assert "644 a/cgroup.procs" in out and "444 a/cgroup.controllers" in out
    assert out[-3:] == ["nodev\tcgroup2", "/ /sys/fs/cgroup none rw", "63677270"]


def test_a_controller_that_is_turned_on_counts_the_tasks_that_are_there(run):
    out = inside(run, """
        mkdir a; sleep 100 & put $! a/cgroup.procs; cat /proc/$!/cgroup; ls a/pids.current 2>&1 | sed 's/.*: //'
        put +pids cgroup.subtree_control; cat cgroup.subtree_control a/cgroup.controllers a/pids.current a/pids.max
        put 1 a/pids.max; try fork bash -c 'echo $$ > a/cgroup.procs; cat a/pids.current; /bin/true; /bin/true' | tail -1
        put -pids cgroup.subtree_control; ls a/pids.current 2>&1 | sed 's/.*: //'; put +pids cgroup.subtree_control; cat a/pids.current a/pids.max
        kill $!""")
    assert out == ["0::/a", "No such file or directory", "pids", "pids", "1", "max", "fork: Resource temporarily unavailable",
                   "No such file or directory", "1", "max"]


def test_controllers_go_down_level_by_level(run):
    out = inside(run, """
        mkdir -p a/b; try low put +pids a/cgroup.subtree_control; try unknown put +x cgroup.subtree_control; try sign put pids cgroup.subtree_control
        put +pids cgroup.subtree_control; put +pids a/cgroup.subtree_control; ls a/b/pids.max; try used put -pids cgroup.subtree_control
        put -pids a/cgroup.subtree_control; put -pids cgroup.subtree_control; cat cgroup.subtree_control; ls a""")
    assert out[:5] == ["low: No such file or directory", "unknown: Invalid argument", "sign: Invalid argument", "a/b/pids.max",
                       "used: Device or resource busy"]
    assert not [name for name in out if name.startswith("pids.") or name == "pids"]


def test_a_hierarchy_of_version_1_takes_a_controller_away(run):
    out = inside(run, """
        grep -w pids cgroup.controllers | grep -o pids; mkdir /p; mount -t cgroup -o pids none /p; grep -c pids cgroup.controllers; cat /proc/self/cgroup
        mkdir /p/x; echo $$ > /p/x/tasks; mkdir y; put $$ y/cgroup.procs; cat /proc/self/cgroup
        echo $$ > /p/tasks; rmdir /p/x; umount /p; sleep 0.1; grep -wo pids cgroup.controllers; try pid1 cat /proc/1/cgroup""")
    assert out == ["pids", "0", "1:pids:/", "0::/", "1:pids:/x", "0::/y", "pids", "pid1: 0::/"]


def test_limits_of_depth_and_number(run):
    out = inside(run, """
        put 1 cgroup.max.depth; mkdir a; try depth mkdir a/b; put max cgroup.max.depth; mkdir a/b; put 3 cgroup.max.descendants; mkdir a/c
        try number mkdir d; try negative put -1 cgroup.max.depth; try word put x cgroup.max.depth; cat cgroup.stat; rmdir a/b; mkdir d; cat cgroup.max.descendants""")
    assert out == ["depth: Resource temporarily unavailable", "number: Resource temporarily unavailable",
                   "negative: Numerical result out of range", "word: Invalid argument", "nr_descendants 3",
                   "nr_dying_descendants 0", "3"]


def test_moving_asks_the_group_above_both(run):
    """cgroup-v2.rst, Delegation Containment: who owns a part of the tree moves processes inside it, and none into it."""
    out = inside(run, """
        mkdir -p u/a u/b; chown -R 1000 u; sleep 100 & put $! u/a/cgroup.procs
        as() { setpriv --reuid=1000 --clear-groups bash -c "$1" 2>&1 | sed 's/.*: //'; }
        as "echo $! > u/b/cgroup.procs"; cat /proc/$!/cgroup; as "echo \\$\\$ > u/a/cgroup.procs"; as "mkdir u/c && stat -c %u u/c u/c/cgroup.procs"
        cat u/cgroup.events u/a/cgroup.events; try threads put $$ u/b/cgroup.threads; try type put threaded u/b/cgroup.type; kill $!""")
    assert out == ["0::/u/b", "Permission denied", "1000", "1000", "populated 1", "populated 0", "threads: Operation not supported",
                   "type: Operation not supported"]
