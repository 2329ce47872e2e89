"""What of a host directory the guest may see.

Linux: nothing like it. A policy is a tree of rules: a directory made here shows exactly the names of its
    rule, a
directory of the host shows what `Policy.visible` lets through.
The default root is made of the host's system directories only. It never shows home directories, /root, /tmp,
/run, /var/log, the host's /proc, /sys and /dev, nor anything that not every user of the host may read.
Invariants: the decision about a name depends on its path and mode only, never on who runs Glasskernel.
"""
from __future__ import annotations

import stat
from collections.abc import Callable

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace


@slotted(frozen=True)
class Rule:
    """One directory of a policy.

    made: 0, or the mode of a directory that exists whether or not the host has one; only `names` are in it.
    names: rules of its entries. Entries without one follow the policy's `visible`, unless `made`.
    """

    made: int = 0
    names: dict[bytes, Rule] = field(default_factory=dict)


HOST = Rule()                              # the host's own, filtered by Policy.visible


@slotted(frozen=True)
class Policy:
    """root: the rule of the shared directory. visible(name, mode): may a host entry be seen?"""

    root: Rule
    visible: Callable[[bytes, int], bool]


@notrace
def _everything(_name: bytes, _mode: int) -> bool:
    return True


_SECRET_NAMES = frozenset((b".netrc", b".git-credentials", b".pgpass", b"shadow", b"gshadow", b"shadow-", b"gshadow-",
                           b"machine-id"))
_SECRET_ENDS = (b".key", b"_key", b".p12", b".pfx", b".keytab", b".kdbx", b".jks")


@notrace
def world_readable(name: bytes, mode: int) -> bool:
    """True for what every user of the host may read anyway, private keys that someone left readable excepted."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        return mode & 0o5 == 0o5 and name not in _SECRET_NAMES
    if kind == stat.S_IFREG:
        return bool(mode & 0o4) and name not in _SECRET_NAMES and not name.endswith(_SECRET_ENDS)
    return kind == stat.S_IFLNK


@notrace
def _directory(mode: int = 0o755, names: dict[bytes, Rule] | None = None) -> Rule:
    return Rule(stat.S_IFDIR | mode, names or {})


EVERYTHING = Policy(HOST, _everything)     # for what the user shares by name: --share, --root DIR

SYSTEM_ROOT = Policy(
    _directory(0o755, {
        b"bin": HOST,
        b"dev": _directory(),
        b"etc": HOST,
        b"home": _directory(),
        b"lib": HOST,
        b"lib32": HOST,
        b"lib64": HOST,
        b"libx32": HOST,
        b"media": _directory(),
        b"mnt": _directory(),
        b"opt": HOST,
        b"proc": _directory(0o555),
        b"root": _directory(0o700),
        b"run": _directory(),
        b"sbin": HOST,
        b"srv": _directory(),
        b"sys": _directory(0o555),
        b"tmp": _directory(0o1777),
        b"usr": HOST,
        b"var": _directory(0o755, {
            b"cache": _directory(),
            b"lib": _directory(0o755, {b"dpkg": HOST}),
            b"log": _directory(),
            b"spool": _directory(),
            b"tmp": _directory(0o1777),
        }),
    }),
    world_readable,
)
