"""`glasskernel trace`, `report`, `diff` and `where` as a user types them."""
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, need


def glasskernel(*args, **options):
    return subprocess.run([sys.executable, "-m", "glasskernel", *args], capture_output=True, cwd=ROOT, timeout=60, **options)


def test_the_call_graph_of_a_program_goes_to_stderr(tmp_path):
    (tmp_path / "a").write_text("x")
    done = glasskernel("trace", "--share", f"{tmp_path}:/mnt:rw", "--", "mv", "/mnt/a", "/mnt/b")
    assert (done.returncode, done.stdout) == (0, b"") and (tmp_path / "b").exists()
    text = done.stderr.decode()
    assert text.startswith("# DURATION     TID      FUNCTION\n") and "\x1b" not in text
    depth = [len(line.partition("| ")[2]) - len(line.partition("| ")[2].lstrip()) for line in text.splitlines()
             if re.search(r"\| +(__x64_sys_renameat2|do_renameat2|vfs_rename)\(", line)]
    assert depth == sorted(depth) and len(set(depth)) > 1
    for name in ("__libc_start_main", "setlocale", "__x64_sys_renameat2", "do_page_fault", "hostfs_rename2"):
        assert f" {name}(" in text, name


def test_only_some_functions_with_arguments_and_events(tmp_path):
    (tmp_path / "a").write_text("x")
    done = glasskernel(
        "trace", "--share", f"{tmp_path}:/mnt:rw", "--no-functions", "--only", "do_renameat2,vfs_rename", "--args",
        "--events", "sched:sched_process_exit", "--", "mv", "/mnt/a", "/mnt/b")
    text = done.stderr.decode()
    assert re.search(r"\| +vfs_rename\(old_dir=\S+:\d+, old_dentry=a, new_dir=\S+:\d+, new_dentry=b, flags=\d\)", text)
    assert re.search(r"\| /\* sched:sched_process_exit: comm=mv pid=\d+ prio=120 \*/", text)
    assert set(re.findall(r"\| +(\w+)\(", text)) == {"do_renameat2", "vfs_rename"}


def test_depth_and_duration_leave_things_out():
    every, shallow = (glasskernel("trace", "--no-functions", *o, "--", "true").stderr.decode() for o in ((), ("--depth", "1")))
    assert len(shallow) < len(every) / 3 and "do_syscall_64();" in shallow
    slow = glasskernel("trace", "--min", "5us", "--", "true").stderr.decode()
    assert 1 < slow.count("\n") < every.count("\n") / 3


def test_tracing_changes_nothing():
    runs = [glasskernel("run", "--report", "--", "ls", "/etc"),
            glasskernel("trace", "--only", "vfs_*", "--", "sh", "-c", ":")]
    assert all(run.returncode == 0 for run in runs)
    from glasskernel import Kernel
    from glasskernel.tools.trace.recorder import Recorder, What

    clocks = []
    for traced in (False, True):
        with Kernel() as kernel:
            recorder = Recorder(kernel, What(arguments=True, events=["sched", "exceptions"]), lambda record: None) if traced else None
            assert kernel.run(["/bin/sh", "-c", "ls -l /etc | sort | head -3; sleep 0.1"]).status == 0
            clocks.append(kernel.now_ns)
            if recorder is not None:
                recorder.stop()
                assert kernel.run(["/bin/true"]).status == 0
    assert clocks[0] == clocks[1]


def test_saved_traces_are_reported_converted_and_compared(tmp_path):
    warm, cold = tmp_path / "warm.gkt", tmp_path / "cold.gkt"
    for path, command in ((cold, "cat /etc/services"), (warm, "cat /etc/services; cat /etc/services")):
        done = glasskernel("trace", "--no-functions", "--only", "ksys_read,vfs_*", "-o", str(path), "--", "sh", "-c", command)
        assert done.returncode == 0 and done.stderr.endswith(f" records in {path}\n".encode())
    report = glasskernel("report", str(cold), "--limit", "3").stdout.decode()
    assert report.startswith("# sh -c cat /etc/services: ") and "vfs_" in report and len(report.splitlines()) == 5
    same = glasskernel("diff", str(cold), str(cold))
    assert (same.returncode, same.stdout) == (0, b"The same calls in the same order.\n")
    differs = glasskernel("diff", str(cold), str(warm))
    assert differs.returncode == 1 and re.search(rb"^\+ .* ksys_read$", differs.stdout, re.MULTILINE)
    html = tmp_path / "x.html"
    assert glasskernel("report", str(cold), "-o", str(html)).returncode == 0 and "ksys_read" in html.read_text()


def test_uftrace_reads_what_is_written_for_it(tmp_path):
    need("uftrace", "uftrace")
    folder = tmp_path / "x.uftrace"
    glasskernel("trace", "-o", str(folder), "--", "/bin/ls", "/etc/apt")
    ours = tmp_path / "x.gkt"
    glasskernel("trace", "-o", str(ours), "--", "/bin/ls", "/etc/apt")
    counts = {}
    for line in glasskernel("report", str(ours)).stdout.decode().splitlines()[2:]:
        fields = line.split()
        counts[fields[5]] = counts.get(fields[5], 0) + int(fields[4])
    theirs = subprocess.run(["uftrace", "report", "--kernel-full", "-d", folder, "--no-pager"], capture_output=True, text=True).stdout
    seen = {name: int(calls) for calls, name in re.findall(r"^ .* (\d+)  (\S+)$", theirs, re.MULTILINE)}
    assert seen == counts and len(seen) > 100
    replay = subprocess.run(["uftrace", "replay", "-d", folder, "--no-pager", "-F", "ksys_getdents64@kernel"],
                            capture_output=True, text=True).stdout
    assert "iterate_dir() {" in replay


@pytest.mark.parametrize(("arguments", "complaint"), [
    (("trace", "-o", "/tmp/x.txt", "--", "true"), "the ending must say what to write"),
    (("trace", "-o", "/no/such/x.gkt", "--", "true"), "cannot be written there"),
    (("trace", "--only", "", "--", "true"), "an empty pattern matches nothing"),
    (("trace", "--min", "soon", "--", "true"), "is not a length of time"),
    (("trace", "--no-functions", "--only", "no_such_*", "--", "true"), "no kernel function matches no_such_*"),
    (("trace", "--events", "nosuch", "--", "true"), "no event matches nosuch"),
    (("report", "/etc/passwd"), "is not a Glasskernel trace"),
    (("report", "/no/such"), "No such file or directory"),
    (("where", "do_renamat2"), "did you mean do_renameat2"),
])
def test_mistakes_are_one_line(arguments, complaint):
    done = glasskernel(*arguments)
    assert done.returncode == 2 and complaint in done.stderr.decode() and done.stderr.count(b"\n") == 1


def test_where_leads_to_the_source():
    out = glasskernel("where", "do_renameat2", "--source").stdout.decode()
    path, line = re.search(r"here:  (.*):(\d+)$", out, re.MULTILINE).groups()
    assert path.endswith("glasskernel/fs/namei.py") and re.search(r"Linux: .*fs/namei\.c", out)
    with open(path) as source:
        assert source.readlines()[int(line) - 1].startswith(("def do_renameat2(", "@"))
    assert "def do_renameat2(" in out


def test_colour_only_on_a_terminal(tmp_path):
    need("script", "bsdutils")
    assert shutil.which("script")
    command = f"{sys.executable} -m glasskernel trace --depth 1 -- true"
    out = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, cwd=ROOT, env={**os.environ, "TERM": "xterm"})
    assert b"\x1b[36m" in out.stdout
