"""bash's job control on a pseudo terminal: stop, background, foreground, kill, and Ctrl-C."""

# Runs inside: types each line into an interactive bash and prints what the terminal showed until it fell silent.
TYPIST = r"""
import os, pty, select, sys
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(PS1="$ ", TERM="dumb")
    os.execvp("bash", ["bash", "--norc", "-i"])
def silence():
    out = b""
    while select.select([fd], [], [], 0.4)[0]:
        try: data = os.read(fd, 4096)
        except OSError: break
        if not data: break
        out += data
    return out
silence()
for line in sys.argv[1:]:
    os.write(fd, line.encode())
    print(silence().decode().replace("\r", "").rstrip().removesuffix("$").rstrip().removeprefix(line.rstrip()).strip())
    print("--")
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def typed(run, *lines):
    done = run(["python3", "-c", TYPIST, *lines])
    assert done.stderr == b""
    return done.stdout.decode().split("\n--\n")


def test_a_job_is_stopped_continued_and_interrupted(run):
    shown = typed(run, "sleep 100\n", "\x1a", "jobs\n", "bg\n", "jobs\n", "fg\n", "\x03", "echo $?\n", "exit 7\n")
    assert [" ".join(text.split()) for text in shown[:-1]] == [
        "", "^Z [1]+ Stopped sleep 100", "[1]+ Stopped sleep 100", "[1]+ sleep 100 &", "[1]+ Running sleep 100 &",
        "sleep 100", "^C", "130", "exit",
    ]
    assert shown[-1].strip() == "7"


def test_jobs_are_killed_in_the_background(run):
    shown = typed(run, "sleep 50 | cat &\n", "kill %1\n", "\n", "cat\n", "\x1a", "kill -9 %1\n", "\n", "exit\n")
    assert shown[2].split() == ["[1]+", "Terminated", "sleep", "50", "|", "cat"]
    assert shown[4].split() == ["^Z", "[1]+", "Stopped", "cat"]
    assert shown[6].split() == ["[1]+", "Killed", "cat"]


def test_a_reader_in_the_background_is_stopped(run):
    """SIGTTIN: a job that is not in the foreground may not read the terminal."""
    shown = typed(run, "cat &\n", "jobs\n", "kill -9 %1\n", "exit\n")
    assert shown[1].split() == ["[1]+", "Stopped", "cat"]


def test_ctrl_c_reaches_the_whole_foreground_group(run):
    shown = typed(run, "(trap 'echo got' INT; sleep 5; echo end) | cat\n", "\x03", "exit\n")
    assert "got" not in shown[0]
    assert shown[1].startswith("^C")


def test_hangup_ends_the_jobs(run):
    """When the terminal goes away its session gets SIGHUP."""
    script = (
        "import os, pty, time\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0: os.execvp('sleep', ['sleep', '1000'])\n"
        "time.sleep(0.1); os.close(fd)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert run(["python3", "-c", script]).stdout == b"-1\n"
