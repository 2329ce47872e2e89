"""execve(2): guest programs that check it from inside, and what a damaged file may and may not do."""
import pathlib
import subprocess

import pytest

from tests.exec.elf_corpus import FLAGS, write_corpus

HERE = pathlib.Path(__file__).resolve().parent
ENOENT, EIO, ENOEXEC, ENOMEM, EACCES, EINVAL, ELIBBAD = 2, 5, 8, 12, 13, 22, 80


def test_the_manual_page_of_execve(run_c):
    done = run_c(HERE / "exec_rules.c")
    assert done.stdout.count(b"PASS") > 60
    assert done.status == 0, done.stdout.decode() + done.stderr.decode()


def test_the_same_program_passes_on_the_host(build_c, tmp_path):
    """The checks themselves are right: Linux passes them."""
    done = subprocess.run([build_c(HERE / "exec_rules.c")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_argv_may_be_empty(run_c):
    """5.3: argc is 0, argv[0] is NULL and the environment follows (since 5.18 there is an empty string)."""
    source = """
    #include "check.h"
    int main(int argc, char **argv, char **envp)
    {
        char *none[] = {NULL}, *env[] = {"A=1", NULL};
        if (argc == 0)
            return argv[0] == NULL && !strcmp(envp[0], "A=1") ? 7 : 8;
        execve("/proc/self/exe", none, env);
        return 9;
    }"""
    assert run_c(source).status == 7
    assert run_c(source.replace("none, env", "NULL, env")).status == 7


def test_addresses_follow_the_seed(run_c):
    source = """
    #include "check.h"
    int main(int argc, char **argv)
    {
        printf("%p %p %p", (void *)argv, sbrk(0), (void *)main);
        return 0;
    }"""
    runs = [run_c(source, seed=seed, flags=("-O1", "-fpie", "-static-pie")).stdout for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("kind", FLAGS)
def test_a_damaged_program_fails_as_on_linux(kind, boot, build_c, tmp_path):
    """Whatever is wrong with the file: an errno of execve(2), a signal, or it runs; never an oops."""
    from glasskernel import Share

    names = write_corpus(tmp_path, build_c, [kind])
    driver = build_c(HERE / "exec_many.c")
    kernel = boot(shares=[Share(str(tmp_path), "/corpus"), Share(str(driver.parent), "/programs")])
    done = kernel.run([f"/programs/{driver.name}", "/corpus", str(len(names))])
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(names) and done.status == 0
    outcome = dict(zip(names, lines))
    assert outcome[f"{kind}, whole"] == "exit 42"
    for name, line in outcome.items():
        what, number = line.split()
        assert what != "errno" or int(number) in (ENOENT, EIO, ENOEXEC, ENOMEM, EACCES, EINVAL, ELIBBAD), name
        if ", cut at" in name and int(name.split()[-1]) < 120:
            assert line == f"errno {ENOEXEC}", name
        if any(f", byte {i} = " in name for i in range(4)):       # no ELF magic
            assert line == f"errno {ENOEXEC}", name
        if any(f", byte {i} = " in name for i in (18, 19)):       # a foreign architecture
            assert line == f"errno {ENOEXEC}", name


@pytest.mark.parametrize(("ident", "machine"), [(1, 3), (2, 183), (1, 40), (2, 243)])
def test_programs_of_other_machines_are_enoexec(ident, machine, boot, tmp_path):
    """i386, AArch64, ARM, RISC-V."""
    from glasskernel import Share

    header = b"\x7fELF" + bytes([ident, 1, 1]) + bytes(9) + bytes([2, 0, machine, 0])
    program = tmp_path / "program"
    program.write_bytes(header.ljust(400, b"\0"))
    program.chmod(0o755)
    done = boot(shares=[Share(str(tmp_path), "/share")]).run(["/share/program"])
    assert (done.status, done.exec_error) == (126, ENOEXEC)
