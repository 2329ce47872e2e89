"""What uftrace replay prints, and the shell that the labs are typed into."""
from __future__ import annotations

import re
from collections import Counter

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", "TERM": "xterm"}
HEADER = "# DURATION     TID     FUNCTION\n"
LINE = re.compile(r"^ *(?:(?P<time>\d+\.\d+) (?P<unit>[num]?s))? +\[ *(?P<tid>\d+)\] \| (?P<indent> *)"
                  r"(?:(?P<name>[\w.@<>~:]+)\(\)(?P<kind>;| \{)|\} /\* (?P<end>[\w.@<>~:]+) \*/|/\* (?P<comment>.*) \*/)$")


class Shell:
    """bash in the home directory of a machine, as root."""

    def __init__(self, kernel, directory="/root"):
        self.kernel = kernel
        self.directory = directory

    def __call__(self, script, status=0):
        done = self.kernel.run(["/bin/bash", "-c", script], env=ENVIRONMENT, cwd=self.directory)
        assert done.status == status, (script, done)
        return done.stdout.decode(errors="replace")

    def write(self, path, text):
        done = self.kernel.run(["/usr/bin/tee", path], stdin=text.encode(), cwd=self.directory)
        assert done.status == 0, done


def lines(replay):
    """The lines of a replay, parsed; what is none of them is an error."""
    assert replay.startswith("# DURATION"), replay[:200]
    found = []
    for line in replay.splitlines()[1:]:
        if line:
            match = LINE.match(line)
            assert match, line
            found.append(match)
    return found


def paths(replay):
    """Each call with its callers, outermost first, in order. Checks that what begins also ends, properly nested."""
    stacks, found = {}, []
    for line in lines(replay):
        stack = stacks.setdefault(line["tid"], [])
        if line["comment"]:
            continue
        depth = len(line["indent"]) // 2
        if line["name"]:
            assert depth == len(stack), line[0]
            stack.append(line["name"])
            found.append(tuple(stack))
            if line["kind"] == ";":
                stack.pop()
        else:
            assert stack and stack.pop() == line["end"] and depth == len(stack), line[0]
    return found


def nested(calls, *names):
    """Whether some call has these functions on its way, in this order, perhaps with others between."""
    for path in calls:
        if path[-1] == names[-1]:
            rest = iter(path)
            if all(name in rest for name in names):
                return True
    return False


def directly(calls, *names):
    """Whether these functions called one another with nothing between."""
    return any(path[-len(names):] == names for path in calls)


def counts(calls):
    return Counter(path[-1] for path in calls)


KERNEL_ENTRY = re.compile(r"__x64_sys_\w+|do_page_fault|smp_\w+_interrupt|do_IRQ|exit_to_usermode_loop|do_syscall_64|schedule_tail|"
                          r"__ia32_\w+|syscall_slow_exit_work|__do_sys_\w+|rcu_\w+|do_exit|schedule")
