"""`glasskernel run` from outside: a real process, real pipes, real exit statuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

GLASSKERNEL = [sys.executable, "-m", "glasskernel"]


def glasskernel(*argv, **options):
    options.setdefault("timeout", 120)
    return subprocess.run([*GLASSKERNEL, *argv], capture_output=True, **options)


def run(*argv, **options):
    return glasskernel("run", "--", *argv, **options)


def test_output_and_status_pass_through():
    done = run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_pipe_in_and_a_pipe_out():
    done = run("tr", "a-z", "A-Z", input=b"one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, b"ONE\nTWO\n")


def test_words_for_the_kernel():
    done = glasskernel("run", "--append", "preempt=full noautogroup", "--panic-on-oops", "--", "cat", "/proc/cmdline",
                       "/proc/sys/kernel/sched_autogroup_enabled")
    assert (done.returncode, done.stdout) == (0, b"preempt=full noautogroup oops=panic\n0\n")


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV"])
def test_death_by_signal_is_128_plus_its_number(name):
    done = run("sh", "-c", f"kill -{name} $$")
    assert done.returncode == 128 + getattr(signal, f"SIG{name}")


def test_missing_program_is_127():
    for program in ("no-such-program", "/no/such/program"):
        done = run(program)
        assert done.returncode == 127
        assert re.fullmatch(rf"glasskernel: {program}: cannot run: .+\n", done.stderr.decode())


def test_file_that_is_no_program_is_126(tmp_path):
    (tmp_path / "arm").write_bytes(b"\x7fELF\1\1\1" + bytes(9) + b"\2\0\x28\0" + bytes(100))
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    (tmp_path / "locked").write_text("x")
    told = {
        "arm": "Exec format error (32-bit ARM ELF; this kernel runs x86-64)",
        "text": "Exec format error (neither an ELF program nor a #! script)",
        "empty": "Exec format error (the file is empty)",
        "locked": "Permission denied",
    }
    for name, reason in told.items():
        done = glasskernel("run", "--share", f"{tmp_path}:/mnt", "--", f"/mnt/{name}")
        assert (done.returncode, done.stdout) == (126, b"")
        assert done.stderr.decode() == f"glasskernel: /mnt/{name}: cannot run: {reason}\n"


def test_environment_and_directory():
    environment = {**os.environ, "FROM_HOST": "h", "HIDDEN": "x"}
    options = ["--env", "A=1 2", "--env", "FROM_HOST", "--cwd", "/usr/bin"]
    command = 'echo "$A,$FROM_HOST,$HIDDEN"; pwd'
    done = glasskernel("run", *options, "--", "sh", "-c", command, env=environment)
    assert done.stdout == b"1 2,h,\n/usr/bin\n"


def test_directory_that_is_not_there_is_told():
    done = glasskernel("run", "--cwd", "/no/such", "--", "true")
    assert done.returncode and b"/no/such" in done.stderr and b"bug" not in done.stderr


def test_users():
    assert glasskernel("run", "--user", "1000:5", "--", "id", "-u").stdout == b"1000\n"
    assert glasskernel("run", "--user", "1000:5", "--", "id", "-g").stdout == b"5\n"
    assert glasskernel("run", "--user", "daemon", "--", "id", "-un").stdout == b"daemon\n"
    done = glasskernel("run", "--user", "nobody-here", "--", "true")
    assert done.returncode == 2 and b"nobody-here" in done.stderr


def test_shares(tmp_path):
    (tmp_path / "f").write_text("text")
    options = ["--share", f"{tmp_path}:/mnt/ro", "--share", f"{tmp_path}:/mnt/rw:rw"]
    script = "cat /mnt/ro/f; touch /mnt/ro/no; echo new > /mnt/rw/g"
    done = glasskernel("run", *options, "--", "sh", "-c", script)
    assert done.stdout == b"text" and b"Read-only" in done.stderr
    assert (tmp_path / "g").read_text() == "new\n" and not (tmp_path / "no").exists()


@pytest.fixture
def small_root(tmp_path):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox-static")
    root = tmp_path / "small"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "etc/marker").write_text("small root\n")
    return root


def test_a_directory_as_root(small_root):
    script = "cat /etc/marker; echo changed > /etc/marker; cat /etc/marker; /bin/busybox ls /home"
    done = glasskernel("run", "--root", str(small_root), "--", "/bin/sh", "-c", script)
    assert done.stdout == b"small root\nchanged\n"
    assert (small_root / "etc/marker").read_text() == "small root\n", "the host's copy stays as it was"


def test_an_archive_as_root(small_root, tmp_path):
    with tarfile.open(tmp_path / "root.tar.gz", "w:gz") as tar:
        tar.add(small_root, ".")
    archive = str(tmp_path / "root.tar.gz")
    done = glasskernel("run", "--root", archive, "--", "/bin/sh", "-c", "cat /etc/marker")
    assert (done.returncode, done.stdout) == (0, b"small root\n")


def test_report_counts(tmp_path):
    done = glasskernel("run", "--report", "--", "sh", "-c", "exit 3")
    lines = dict(line.rsplit(" ", 1) for line in done.stderr.decode().splitlines() if not line.endswith(" s"))
    assert done.returncode == 3
    assert int(lines["syscalls"]) > 5 and int(lines["syscall exit_group"]) == 1
    assert int(lines["minor-page-faults"]) > 0 and int(lines["context-switches"]) > 0


def test_strace_writes_to_stderr_or_a_file(tmp_path):
    done = glasskernel("run", "--strace", "--", "sh", "-c", "echo hi")
    assert done.stdout == b"hi\n"
    assert re.search(rb'^write\(1, "hi\\n", 3\) += 3$', done.stderr, re.M)
    log = tmp_path / "log"
    done = glasskernel("run", "--strace", "-o", str(log), "--", "sh", "-c", "echo hi")
    assert (done.stdout, done.stderr) == (b"hi\n", b"")
    assert re.search(r'^\d+ +write\(1, "hi\\n", 3\) += 3$', log.read_text(), re.M)
    assert re.search(r"^\d+ +\+\+\+ exited with 0 \+\+\+$", log.read_text(), re.M)


def test_virtual_pace_skips_idle_time():
    before = time.monotonic()
    assert run("sleep", "3600").returncode == 0
    assert time.monotonic() - before < 60


@pytest.mark.parametrize("options", [["--seed", "7"], ["--cpus", "1"], ["--memory", "64M"]])
def test_the_same_command_gives_the_same_log(tmp_path, options):
    logs = []
    for i in range(2):
        log = tmp_path / f"log{i}"
        environment = {**os.environ, "PYTHONHASHSEED": str(i + 1)}
        command = ["run", *options, "--strace", "-o", str(log), "--", "sh", "-c", "echo $$ | cat; date"]
        done = glasskernel(*command, env=environment)
        logs.append((done.stdout, log.read_text()))
    assert logs[0] == logs[1]


def test_signals_are_passed_on():
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 1; done"
    command = [*GLASSKERNEL, "run", "--pace", "realtime", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(60) == 5


def test_shell_reads_commands():
    done = glasskernel("shell", input=b"echo $((6*7))\nexit 4\n")
    assert done.returncode == 4
    assert b"42" in done.stdout
