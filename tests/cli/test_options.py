"""The command line's own work: options, messages, exit statuses. No kernel is started here."""

import io
import subprocess
import sys
import tarfile

import pytest

from glasskernel.cli import main as cli_main
from glasskernel.cli import run as cli_run


@pytest.fixture
def command_line(capsys):
    """Runs one command line; returns (status, stdout, stderr)."""

    def run(*argv):
        status = cli_main.dispatch(list(argv))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def understood(monkeypatch, command_line):
    """What reaches run_command() of a command line that is right."""
    seen = {}

    def record(candidates, **options):
        seen.update(options, candidates=candidates)
        return 0

    monkeypatch.setattr(cli_run, "run_command", record)

    def run(*argv):
        seen.clear()
        status, _, err = command_line("run", *argv)
        assert (status, err) == (0, "")
        return seen

    return run


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--cpus", "0"], "--cpus"),
        (["--cpus", "many"], "--cpus"),
        (["--memory", "3X"], "'3X' is not a size"),
        (["--memory", "1M"], "between 32M and"),
        (["--memory", "-5"], "not a size"),
        (["--memory", ""], "not a size"),
        (["--share", "/usr"], "write HOST:GUEST"),
        (["--share", ":/usr"], "write HOST:GUEST"),
        (["--share", "/nowhere:/x"], "no such file or directory on the host: /nowhere"),
        (["--share", "/etc/passwd:/x"], "/etc/passwd is not a directory"),
        (["--share", "/usr:x:rw"], "must start with /"),
        (["--root", "/nowhere"], "No such file"),
        (["--root", "/etc/passwd"], "neither a directory nor a tar archive"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(1 << 64)], "--seed"),
        (["--pace", "fast"], "--pace"),
        (["--env", "=x"], "NAME=VALUE"),
        (["--cwd", "tmp"], "starts with /"),
        (["--user", "a b"], "UID, UID:GID or a user name"),
        (["--user", "4294967295"], "ids end at"),
        (["--user", "0:root"], "UID, UID:GID"),
        (["-o", "log"], "--strace"),
        (["--strace", "-o", "/nowhere/log"], "No such file"),
        (["--append", "a\nb"], "one line of text"),
        (["--append", "x" * 2048], "longer than 2047 bytes"),
        (["--disk", "/tmp/mistyped-name.img"], "no such file on the host (/tmp/mistyped-name.img,size=1G makes it)"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_bad_value_is_one_clear_line_and_status_2(command_line, argv, told):
    status, out, err = command_line("run", *argv, "--", "true")
    assert (status, out) == (2, "")
    assert err.startswith("glasskernel: ") and err.count("\n") == 1
    assert told in err


@pytest.mark.parametrize("argv", [[], ["run"], ["nonsense"], ["--nonsense"], ["shell", "extra"]])
def test_a_command_line_without_sense_has_status_2(command_line, argv):
    status, out, err = command_line(*argv)
    assert (status, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("1.5g", 3 << 29), ("65536k", 64 << 20), ("67108864", 64 << 20), ("1GiB", 1 << 30)],
)
def test_sizes(understood, text, size):
    assert understood("--memory", text, "--", "true")["memory"] == size


def test_defaults_are_those_of_the_design(understood):
    options = understood("true")
    assert (options["cpus"], options["memory"]) == (4, 512 << 20)
    assert (options["pace"], options["seed"]) == ("virtual", 0)
    assert options["root"] is None and not options["shares"]


def test_everything_behind_the_command_belongs_to_it(understood):
    assert understood("--cpus", "2", "ls", "--cpus", "-o")["candidates"] == [["ls", "--cpus", "-o"]]
    assert understood("--", "ls", "--", "-l")["candidates"] == [["ls", "--", "-l"]]
    assert understood("--", "--version")["candidates"] == [["--version"]]


def test_shares(understood, tmp_path):
    odd = tmp_path / "a:b"
    odd.mkdir()
    shares = understood("--share", f"{tmp_path}:/x", "--share", f"{odd}:/y/../z:rw", "true")["shares"]
    assert list(shares) == [(str(tmp_path), "/x", False), (str(odd), "/z", True)]


def test_environment_holds_nothing_of_the_host_unasked(understood, monkeypatch):
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("WANTED", "w")
    monkeypatch.delenv("ABSENT", raising=False)
    asked = ["WANTED", "A=b=c", "ABSENT"]
    env = cli_run.environment(understood(*(f"--env={setting}" for setting in asked), "true")["env"])
    assert env["WANTED"] == "w" and env["A"] == "b=c"
    assert "SECRET" not in env and "ABSENT" not in env
    assert env["PATH"]


def test_users(understood):
    assert understood("--user", "1000", "true")["user"] == (1000, None)
    assert understood("--user", "0:5", "true")["user"] == (0, 5)
    assert understood("--user", "www-data", "true")["user"] == ("www-data", None)


def test_root_may_be_a_tar_archive(understood, tmp_path):
    for name, mode in (("r.tar", "w"), ("r.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            tar.addfile(tarfile.TarInfo("bin/x"), io.BytesIO())
        assert understood("--root", str(tmp_path / name), "true")["root"] == str(tmp_path / name)


def test_ext4_image_is_recognised(command_line, tmp_path):
    image = bytearray(4096)
    image[1080:1082] = b"\x53\xef"
    (tmp_path / "disk.img").write_bytes(image)
    status, _, err = command_line("run", "--root", str(tmp_path / "disk.img"), "true")
    assert status == 2 and "ext4" in err


def test_a_bug_shows_no_traceback_unless_asked(command_line, monkeypatch):
    def broken(*args, **options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli_run, "run_command", broken)
    monkeypatch.delenv("GLASSKERNEL_TRACEBACK", raising=False)
    status, _, err = command_line("run", "true")
    assert status == 125
    assert "this is a bug in Glasskernel: ZeroDivisionError" in err and "Traceback" not in err
    assert "GLASSKERNEL_TRACEBACK=1" in err
    monkeypatch.setenv("GLASSKERNEL_TRACEBACK", "1")
    assert "Traceback" in command_line("run", "true")[2]


def test_version_and_help_start_quickly():
    code = "import sys; from glasskernel.cli.main import dispatch; dispatch(['run', '--help'])\n"
    code += "print(*[m for m in ('rich', 'unicorn', 'greenlet', 'glasskernel.init') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
