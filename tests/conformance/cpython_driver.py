"""Runs modules of CPython's own test suite and notes how each test ended. Runs on the host and inside Glasskernel.

    python3.11 cpython_driver.py LOG MODULE [PATTERN | -PATTERN]...

Runs tests whose name has one of the patterns, all if there are none, but none that has a -PATTERN.

One line of JSON per test: ["name", "ok" | "skip" | "fail", why]; before each test ["name", "start", ""]. The log is
opened and closed for each line: tests close descriptors, fork and kill each other.
"""
import json
import os
import sys
import tempfile
import unittest

from test import support

log, module, patterns = sys.argv[1], sys.argv[2], sys.argv[3:]
runner = os.getpid()


def note(name, how, why=""):
    if os.getpid() == runner:        # a child that lost its way must not speak for its parent
        with open(log, "a") as stream:
            stream.write(json.dumps([name, how, why]) + "\n")


class Notes(unittest.TestResult):
    worst = {}  # noqa: RUF012

    def add(self, test, how, why=""):
        name = test.id().removeprefix("test.").removeprefix(module + ".")
        if self.worst.get(name) != "fail":
            self.worst[name] = how
        note(name, how, why)

    def startTest(self, test):
        super().startTest(test)
        self.add(test, "start")

    def addSuccess(self, test):
        self.add(test, "ok")

    def addError(self, test, err):
        self.add(test, "fail", self._exc_info_to_string(err, test)[-3000:])

    addFailure = addError

    def addSkip(self, test, reason):
        self.add(test, "skip", reason)

    def addExpectedFailure(self, test, err):
        self.add(test, "ok")

    def addUnexpectedSuccess(self, test):
        self.add(test, "fail", "unexpected success")

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.add(test, "fail", f"{subtest}\n{self._exc_info_to_string(err, test)}"[-3000:])


os.chdir(tempfile.mkdtemp())
support.use_resources = ["cpu", "largefile", "subprocess", "walltime"]
if module in ("test_socketserver", "test_timeout"):      # which talk mostly to themselves, but want this
    support.use_resources.append("network")
support.verbose = 0
loader = unittest.TestLoader()
wanted = [pattern for pattern in patterns if not pattern.startswith("-")]
unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("-")]
if wanted:
    loader.testNamePatterns = [f"*{pattern}*" for pattern in wanted]


def without(tests):
    """The same tree of suites, which may have fixtures of their own, without the unwanted."""
    for position, test in enumerate(tests._tests):
        if isinstance(test, unittest.TestSuite):
            without(test)
        elif any(pattern in test.id() for pattern in unwanted):
            tests._tests[position] = unittest.TestSuite()
    return tests


suite = without(loader.loadTestsFromName(f"test.{module}"))
suite.run(Notes())
note("", "end")
os._exit(0)                          # no thread that a failed test left behind may hold us
