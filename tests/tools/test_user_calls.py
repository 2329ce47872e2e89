"""Calls of user functions as the CPU sees them, against what the C source says."""
import pytest

from glasskernel import Share
from glasskernel.tools.user_calls import UserCalls

SOURCE = r"""
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#define F __attribute__((noinline))
static jmp_buf away;
volatile int sink;
F int leaf(int n) { return sink += n; }
F int factorial(int n) { return n < 2 ? leaf(1) : n * factorial(n - 1); }
F void deep(int n) { if (n == 0) longjmp(away, 1); deep(n - 1); sink++; }
F int compare(const void *a, const void *b) { return *(int *)a - *(int *)b; }
F void handler(int signo) { leaf(signo); }
F void *thread(void *arg) { leaf(7); return arg; }
F int tail(int n) { return leaf(n); }
F int last(void) { return leaf(99); }
int main(int argc, char **argv)
{
    int numbers[2] = {2, 1};
    pthread_t id;
    factorial(3);
    if (!setjmp(away))
        deep(2);
    qsort(numbers, 2, sizeof numbers[0], compare);
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    tail(4);
    pthread_create(&id, NULL, thread, NULL);
    pthread_join(id, NULL);
    if (fork() == 0)
        _exit(last() & 0);
    wait(NULL);
    sink = strlen(argv[0]);
    return 0;
}
"""
OURS = {"main", "leaf", "factorial", "deep", "compare", "handler", "thread", "tail", "last", "strlen"}
TREE = """main
  factorial
    factorial
      factorial
        leaf
  deep
    deep
      deep
  compare
  handler
    leaf
  tail
    leaf
  strlen
"""


class Log:
    """The calls of each task, indented."""

    def __init__(self):
        self.lines, self.depth, self.times, self.order = {}, {}, [], []

    def entry(self, task, now_ns, function):
        depth = self.depth[task.pid] = self.depth.get(task.pid, 0) + 1
        if task.pid not in self.lines:
            self.order.append(task.pid)
        self.lines[task.pid] = self.lines.get(task.pid, "") + "  " * (depth - 1) + function.name + "\n"
        self.times.append((task.pid, now_ns))

    def leave(self, task, now_ns, function):
        self.depth[task.pid] -= 1
        self.times.append((task.pid, now_ns))


@pytest.mark.parametrize("flags", [("-O1", "-pthread"), ("-O1", "-pthread", "-static"), ("-O1", "-pthread", "-no-pie")],
                         ids=["pie", "static", "exec"])
def test_calls_are_those_of_the_source(boot, build_c, flags):
    binary = build_c(SOURCE, *flags, "-fno-optimize-sibling-calls", "-fno-builtin")
    clocks = []
    for traced in (True, False):
        kernel = boot(shares=[Share(str(binary.parent), "/programs")])
        log = Log()
        calls = UserCalls(kernel, log.entry, log.leave, lambda f: f.name in OURS) if traced else None
        assert kernel.run([f"/programs/{binary.name}"]).status == 0
        clocks.append(kernel.now_ns)
        if calls is not None:
            calls.stop()
            program, thread, child = log.order
            assert log.lines[program][log.lines[program].index("main"):] == TREE           # libc calls strlen earlier
            assert log.lines[thread] == "thread\n  leaf\n"
            assert log.lines[child] == "last\n  leaf\n"
            assert not any(log.depth.values())
            for task in log.order:
                times = [ns for pid, ns in log.times if pid == task]
                assert times == sorted(times) and times[0] > 0
    assert clocks[0] == clocks[1]
