"""pid_namespaces(7), claim by claim."""
import re


def sh(run, script):
    done = run(script)
    assert done.status == 0, done
    return done.stdout.decode()


def test_the_first_child_is_init_and_sees_only_its_own(run):
    """unshare -p -f --mount-proc ps"""
    lines = sh(run, "unshare -p -f --mount-proc ps -ef").splitlines()
    assert len(lines) == 2 and lines[1].split()[1:3] == ["1", "0"]
    text = sh(run, "unshare -p -f --mount-proc sh -c 'echo $$; sleep 1 & ps -o pid= -o ppid= -o comm=; readlink /proc/self; ls -d /proc/[0-9]* | wc -l'")
    assert [line.split() for line in text.splitlines()[:4]] == [["1"], ["1", "0", "sh"], ["2", "1", "sleep"], ["3", "1", "ps"]]


def test_outside_it_has_a_number_too(run):
    """/proc/PID/status: NStgid, NSpid: in each namespace, from the reader's inwards."""
    text = sh(run, "unshare -p -f sh -c 'grep NSpid /proc/self/status; exec sleep 100' & sleep 0.5; P=$(pgrep -x sleep); grep NSpid /proc/$P/status; echo $P;"
                   "readlink /proc/$P/ns/pid /proc/self/ns/pid; kill -9 $P")
    lines = text.splitlines()
    assert lines[1] == f"NSpid:\t{lines[2]}\t1"
    assert lines[3] != lines[4] == "pid:[4026531836]"


def test_who_stays_outside_only_has_children_inside(run):
    """pid_for_children; a thread cannot be made then (EINVAL)."""
    text = sh(run, "python3 -uc '\nimport ctypes, os, threading\nlibc = ctypes.CDLL(None, use_errno=True)\nbefore = os.getpid()\n"
                   "print(libc.unshare(0x20000000), os.getpid() == before, os.path.lexists(\"/proc/self/ns/pid_for_children\"))\n"
                   "try:\n  os.readlink(\"/proc/self/ns/pid_for_children\")\nexcept OSError as e: print(e.errno)\n"
                   "try:\n  threading.Thread(target=print).start()\nexcept RuntimeError as e: print(e)\n"
                   "for _ in range(2):\n  if not os.fork():\n    print(os.getpid(), os.getppid(), flush=True); os._exit(0)\n  print(os.wait()[1], flush=True) if _ == 0 else None\n"
                   "'; true")
    lines = text.splitlines()
    assert lines[:3] == ["0 True True", "2", "can't start new thread"]
    assert lines[3] == "1 0" and lines[4] == "0"


def test_no_more_children_once_its_init_has_ended(run):
    """fork(2) is ENOMEM then."""
    text = sh(run, "python3 -c '\nimport ctypes, os\nctypes.CDLL(None).unshare(0x20000000)\nif not os.fork(): os._exit(0)\nos.wait()\n"
                   "try:\n  os.fork()\nexcept OSError as e: print(e.errno)'")
    assert text == "12\n"


def test_init_takes_all_with_it_and_orphans_are_its(run):
    text = sh(run, "unshare -p -f --mount-proc sh -c '(sleep 100 & sleep 100 &) ; sleep 0.1; ps -o ppid= -C sleep; exit 7'; echo $?; pgrep -c sleep; true")
    assert text.split() == ["1", "1", "7", "0"]


def test_signals_to_its_init(run):
    """From inside only what it has handlers for; from outside SIGKILL and SIGSTOP, too; si_pid is 0 then."""
    text = sh(run, "unshare -p -f --mount-proc sh -c 'kill -9 1; kill -TERM 1; (kill -9 1); echo alive; exec sleep 100' & U=$!; sleep 0.5; P=$(pgrep -x sleep);"
                   "kill -TERM $P; sleep 0.2; kill -0 $P && echo still; kill -9 $P; wait $U; pgrep -c sleep; true")
    assert text.split() == ["alive", "still", "0"]
    text = sh(run, "unshare -p -f --mount-proc python3 -c '\nimport signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nprint(1, flush=True)\n"
                   "i = signal.sigwaitinfo([signal.SIGUSR1]); print(i.si_pid)' & sleep 1; pkill -USR1 python3; wait")
    assert text.split() == ["1", "0"]


def test_kill_minus_one_stays_inside(run):
    text = sh(run, "sleep 100 & S=$!; unshare -p -f --mount-proc sh -c 'sleep 100 & trap : TERM; kill -TERM -1; wait; ps -o comm= -C sleep'; kill -0 $S && echo outside; kill $S")
    assert text.split() == ["outside"]


def test_they_nest_and_can_be_entered(run):
    """setns(2), nsenter -p: for children; NS_GET_PARENT: lsns shows what is in what."""
    text = sh(run, "unshare -p -f sh -c 'unshare -p -f sleep 100 & sleep 100' & sleep 0.7; P=$(pgrep -x sleep | tail -1); grep NSpid /proc/$P/status | wc -w;"
                   "nsenter -t $P -p sh -c 'echo $$'; lsns -n -t pid -o NPROCS | wc -l; pkill -9 sleep; true")
    words = text.split()
    assert words[0] in ("3", "4") and int(words[1]) > 1 and words[2] == "3", text


def test_a_thread_that_calls_exec_stays_init(run_c):
    """de_thread(): the number of the process is that of its namespace."""
    assert re.fullmatch(rb"1 1\n1\n", run_c(r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void *other(void *_) { execlp("sh", "sh", "-c", "echo $$", (char *)0); return 0; }
int main(void) {
    pthread_t t;
    int status;
    if (unshare(CLONE_NEWPID)) return 1;
    if (!fork()) {
        printf("%d %ld\n", getpid(), syscall(SYS_gettid));
        fflush(stdout);
        pthread_create(&t, 0, other, 0);
        pause();
    }
    wait(&status);
    return status;
}""", flags=("-pthread",)).stdout)
