"""Stressors of stress-ng: a few operations each, verified, on a fresh kernel."""
from __future__ import annotations

import shutil

PROGRAM = shutil.which("stress-ng", path="/usr/bin")

# Not here: what ends only when its time is over (sem, vforkmany, fpunch, stack, yield, mcontend, pipeherd, and sockdiag,
# which counts the host's AF_UNIX sockets), and lease, shm-sysv and inode-flags, which wait for what is missing.
# As many operations as keep one run near a second of the host; the default is 20.
PLAIN = """
    access alarm affinity brk bigheap cap chmod chown clock close context copy-file daemon dentry dir dirdeep dnotify dup
    enosys env eventfd exec exit-group fallocate fault fcntl fiemap fifo file-ioctl filename flock fork fsize fstat full
    futex get getdent getrandom handle hrtimers inotify io kcmp kill klog locka lockf lockofd malloc membarrier mincore
    mknod mlock mmapaddr mmapmany mprotect msync munmap mutex nanosleep nice null open pagemove personality pidfd
    pipe poll prctl procfs pthread ramfs readahead remap rename resched revio ring-pipe rlimit rmap schedpolicy seal
    seek sendfile session set sigabrt sigchld sigfd sigfpe signal signest sigpending sigpipe sigq sigrt sigsegv
    sigsuspend sigtrap sleep spawn splice switch sysbadaddr sysinfo tee timer timerfd touch unshare urandom utime vfork
    vm vm-rw vm-splice wait zero zombie epoll ptrace sem-sysv ioprio
    sock sockfd sockpair sockabuse sockmany udp udp-flood dccp sctp rawsock rawudp rawpkt ping-sock icmp-flood
    netdev netlink-proc netlink-task af-alg
"""
STRESSORS: dict[str, tuple[str, ...]] = dict.fromkeys(PLAIN.split(), ()) | {
    "chdir": ("--chdir-dirs", "64"), "clone": ("--clone-max", "20"), "forkheavy": ("--forkheavy-procs", "20"),
    "iomix": ("--iomix-bytes", "1M"), "itimer": (), "madvise": (), "mmapfixed": (), "mmapfork": (), "shm": (),
    "memfd": ("--memfd-bytes", "4M", "--memfd-fds", "8"), "msyncmany": (), "mremap": ("--mremap-bytes", "1M"),
    "link": (), "symlink": (), "pty": ("--pty-max", "16"), "resources": (), "vdso": (), "vm-addr": (), "loadavg": (),
}
OPS = {"link": 1, "symlink": 1, "mmapfork": 1, "mmapfixed": 5, "mremap": 2, "loadavg": 5, "itimer": 5, "msyncmany": 2,
       "resources": 2, "madvise": 5, "vm-addr": 5, "pty": 2, "memfd": 2, "chdir": 2, "clone": 40}

# Exit codes of stress-ng: 0 fine, 2 failed, 3 no resources, 4 not implemented.
REASONS = {
    "netlink-proc": "the process connector is missing", "netlink-task": "taskstats is missing",
}


def command(name: str) -> list[str]:
    """--sequential and one worker; -t is virtual time inside and real time on the host."""
    ops = str(OPS.get(name, 20))
    return [PROGRAM or "stress-ng", f"--{name}", "1", f"--{name}-ops", ops, *STRESSORS[name],
            "--verify", "--no-rand-seed", "-t", "5"]


def inside(name: str) -> dict[str, object]:
    from glasskernel import Kernel
    from glasskernel.tools.invariants import check_kernel
    from tests.conformance.cpython import ENV

    kernel = Kernel(memory=512 << 20)
    result = kernel.run(command(name), env=ENV, cwd="/tmp")
    why = [line for line in (result.stdout + result.stderr).decode(errors="replace").splitlines()
           if "fail:" in line or "error:" in line or "warn:" in line]
    return {"status": result.status, "why": why[0].split("] ", 1)[-1] if why and result.status else "",
            "oopses": len(kernel.oopses), "invariants": check_kernel(kernel)}
