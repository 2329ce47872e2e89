"""Modules of CPython's test suite, run by Debian's python3.11. What passes on the host has to pass inside."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
PYTHON = "/usr/bin/python3.11"
SUITE = pathlib.Path("/usr/lib/python3.11/test/test_os.py")        # package libpython3.11-testsuite
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
       "LC_ALL": "C.UTF-8", "TZ": "UTC"}

# MODULES: module -> patterns of names (all tests, if there are none)
ALL_OF = """
    test_os test_posix test_posixpath test_genericpath test_pathlib test_glob test_shutil test_tempfile
    test_file test_fileio test_bufio test_file_eintr test_filecmp test_fileinput test_linecache
    test_tarfile test_zipfile test_gzip test_mailbox test_dbm_dumb test_shelve test_mmap test_fcntl
    test_subprocess test_popen test_fork1 test_wait3 test_wait4 test_cmd_line test_signal test_threadsignals _test_eintr
    test_faulthandler test_thread test_threading test_threading_local test_threadedtempfile test_queue
    test_sched test_time test_timeit test_select test_selectors test_poll test_epoll test_pty test_openpty
    test_readline test_getpass test_resource test_pwd test_grp test_gc test_tracemalloc test_random
    test_socket test_socketserver test_ssl test_asyncore test_asynchat test_asyncio.test_sock_lowlevel
    test_asyncio.test_selector_events test_asyncio.test_server test_asyncio.test_streams test_asyncio.test_sendfile
    test_asyncio.test_buffered_proto test_asyncio.test_sslproto test_asyncio.test_ssl test_asyncio.test_unix_events
    test_asyncio.test_base_events test_asyncio.test_events test_asyncio.test_subprocess test_httpservers test_httplib
    test_urllib2_localnet test_wsgiref test_xmlrpc test_docxmlrpc test_ftplib test_poplib test_imaplib test_nntplib
    test_smtplib test_smtpd test_telnetlib test_timeout test_logging test_syslog
"""
MODULES: dict[str, tuple[str, ...]] = dict.fromkeys(ALL_OF.split(), ()) | {
    "test_largefile": ("LargeFileTest",),       # the others write gigabytes
    # two threads write as fast as they can for half a second of virtual time: minutes
    "test_io": ("-daemon_threads_shutdown",),
    "test_socket": ("-VSOCK",),                 # waits for ever on the host
    # their server polls without a pause: it gives the interpreter's lock back and takes it again, each time before the
    # client's CPU has its turn
    "test_ftplib": ("-TestTLS_FTPClass",),
    "test_concurrent_futures": ("ThreadPool", "FutureTests"),
    "test_multiprocessing_fork": ("TestInvalidFamily", "TestWait", "RemoteManager", "MyManager", "WithManagerTestLock",
                                  "WithManagerTestQueue", *(f"WithProcessesTest{what}." for what in (
        "Process", "Lock", "Semaphore", "Condition", "Event", "Barrier", "Value", "Array", "Queue", "SharedMemory", "Connection",
        "Listener", "ListenerClient", "PicklingConnections", "Poll"))),
}

# What differs for a good reason: a part of the test's name or message -> the reason
REASONS = {
    "IPv6": "IPv6 is missing",
    "ipv6": "IPv6 is missing",
    "is not yet valid": "the machine's clock starts before the test's certificates",
    "name lookup failure": "the host's /etc/hosts does not know the machine",
    "no non-broken extended attribute support": "tmpfs of Linux 5.3 has no user.* attributes",
    "FD limit reached": "RLIMIT_NOFILE's hard limit is Linux's 4096, the host's is higher",
    "free disk space": "wants 6 GB of disk",
    "test_disk_usage": "an empty overlay on tmpfs uses 0 blocks",
}


def read_log(path: pathlib.Path) -> tuple[dict[str, tuple[str, str]], bool]:
    """({test: (ok|skip|fail|start, why)}, did the module reach its end?)"""
    tests: dict[str, tuple[str, str]] = {}
    if not path.exists():
        return tests, False
    for line in path.read_text().splitlines():
        name, how, why = json.loads(line)
        if how == "start" or tests.get(name, ("start", ""))[0] != "fail":
            tests[name] = (how, why)
    return tests, tests.pop("", None) is not None


def on_host(module: str, timeout: float = 300) -> dict[str, tuple[str, str]]:
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory) / "log"
        process = subprocess.Popen(
            [PYTHON, str(HERE / "cpython_driver.py"), str(log), module, *MODULES[module]], env={**ENV, "TMPDIR": directory},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        return read_log(log)[0]


def inside(module: str, log: pathlib.Path) -> dict[str, object]:
    """Runs it on a fresh kernel; the log, in a shared directory, survives whoever stops us."""
    from glasskernel import Kernel, Share
    from glasskernel.tools.invariants import check_kernel

    shares = [Share(str(log.parent), "/mnt", True), Share(str(HERE), "/conformance")]
    kernel = Kernel(memory=1 << 30, shares=shares)
    kernel.run([PYTHON, "/conformance/cpython_driver.py", f"/mnt/{log.name}", module, *MODULES[module]], env=ENV)
    return {"status": 0, "oopses": len(kernel.oopses), "invariants": check_kernel(kernel)}


def differences(host: dict[str, tuple[str, str]], guest: dict[str, tuple[str, str]]) -> tuple[int, int, dict[str, int],
                                                                                             list[str]]:
    """(passed on the host, of these passed inside, {good reason: how many}, tests that differ without one)"""
    passed = [name for name, (how, _) in host.items() if how == "ok"]
    reasons: dict[str, int] = {}
    bad, good = [], 0
    for name in passed:
        how, why = guest.get(name, ("missing", ""))
        if how == "ok":
            good += 1
            continue
        reason = next((text for key, text in REASONS.items() if key in why or key in name), "")
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            bad.append(f"{name} ({how})")
    return len(passed), good, reasons, bad
