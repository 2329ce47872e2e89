"""The house rules: import layers and the coverage table, and that their checks can fail."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def script(name, *args):
    # A process of its own: scripts/coverage.py must not shadow the package `coverage` here.
    command = [sys.executable, ROOT / "scripts" / name, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_imports_keep_to_their_layers():
    done = script("check_layers.py")
    assert done.returncode == 0, done.stderr


def test_coverage_table_tells_the_truth():
    done = script("coverage.py", "--check")
    assert done.returncode == 0, done.stderr


def test_coverage_table_has_every_system_and_lab():
    rows = tomllib.loads((ROOT / "docs/coverage.toml").read_text())
    assert list(rows) == [f"A{n:03}" for n in range(1, 312)] + [f"B{n:02}" for n in range(1, 93)]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"lib/a.py": "from glasskernel.fs import b", "fs/b.py": ""}, "'library' is below 'file systems'"),
        (
            {"fs/a.py": "import glasskernel.fs.exec", "fs/exec.py": ""},
            "'file systems' is below 'process life'",
        ),
        ({"net/a.py": "import glasskernel.ipc.b", "ipc/b.py": ""}, "keeps its parts independent"),
        ({"mm/a.py": "from . import b", "mm/b.py": "def f():\n    from . import a"}, "import cycle: mm."),
        ({"mm/a.py": "import ctypes"}, "glasskernel.mm.a imports ctypes: only machine may"),
        ({"fs/a.py": "import unicorn.x86_const"}, "glasskernel.fs.a imports unicorn: only machine may"),
        ({"newcomer.py": ""}, "glasskernel.newcomer is in no layer"),
        ({"kernel/new/a.py": ""}, "glasskernel.kernel.new.a is in no layer"),
    ],
)
def test_layer_check_complains(tmp_path, files, complaint):
    done = check_layers_of(tmp_path, files)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_layer_check_sees_folders_without_init(tmp_path):
    (tmp_path / "glasskernel/lost").mkdir(parents=True)
    (tmp_path / "glasskernel/lost/a.py").touch()
    done = check_layers_of(tmp_path, {"lib/a.py": ""})
    assert "glasskernel/lost/a.py cannot be seen" in done.stderr


def test_layer_check_accepts_imports_downwards_and_for_types(tmp_path):
    files = {
        "fs/a.py": "import glasskernel.lib.b",
        "lib/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from glasskernel.fs import a",
        "machine/cpu.py": "import ctypes, unicorn",
        "kernel/fork.py": "import glasskernel.fs.a",
    }
    done = check_layers_of(tmp_path, files)
    assert (done.returncode, done.stderr) == (0, "")


def check_layers_of(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / "glasskernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        for folder in path.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder / "__init__.py").touch()
    return script("check_layers.py", "--root", str(tmp_path))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('status = "works"\ntests = []\nnote = ""', "A001: works, but names no test"),
        ('status = "works"\ntests = ["tests/test_x.py::test_b"]\nnote = ""', "A001: no such test"),
        ('status = "works"\ntests = ["tests/test_y.py::test_a"]\nnote = ""', "A001: no such test"),
        ('status = "partial"\ntests = []\nnote = " "', "A001: partial, but no note"),
        ('status = "nearly"\ntests = []\nnote = ""', "A001: unknown status 'nearly'"),
        ('status = "works"\ntests = ["tests/test_x.py::test_a[1]"]\nnote = ""', "A002: missing"),
    ],
)
def test_coverage_check_complains(tmp_path, row, complaint):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_x.py").write_text("def test_a(): pass\n")
    table = tmp_path / "coverage.toml"
    table.write_text(f'[A001]\ntitle = "t"\ngroup = "g"\n{row}\n')
    done = script("coverage.py", "--check", "--file", str(table), "--root", str(tmp_path))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert ("A001" in done.stderr) == ("A001" in complaint)


def test_every_system_call_is_known_before_its_file_is_imported():
    """A call of a file that neither the boot imports nor ON_DEMAND names would be ENOSYS until something imports it."""
    done = subprocess.run([sys.executable, "-c", """
import glasskernel.init.main
from glasskernel.lib.syscalls import DECLARED
known = {name: call if isinstance(call, str) else call.function.__module__ for name, call in DECLARED.items()}
from glasskernel.kernel.kallsyms import kallsyms_table
kallsyms_table()
assert known == {name: call.function.__module__ for name, call in DECLARED.items()}
"""], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
