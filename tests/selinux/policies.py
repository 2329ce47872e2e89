"""Policies for tests, in CIL, compiled by the host's secilc: the kernel's own classes, two roles, levels, and what a test adds."""
from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from glasskernel.security.selinux.classmap import (
    COMMON_FILE_PERMS,
    COMMON_IPC_PERMS,
    COMMON_SOCK_PERMS,
    secclass_map,
)
from glasskernel.security.selinux.flask import initial_sid_to_string

COMMONS = {"file": COMMON_FILE_PERMS, "socket": COMMON_SOCK_PERMS, "ipc": COMMON_IPC_PERMS}

TYPES = """
(type kernel_t) (type unlabeled_t) (type file_t) (type user_t) (type secret_t) (type prog_exec_t) (type prog_t)
(typeattribute domain) (typeattributeset domain (kernel_t user_t prog_t))
(typeattribute file_type) (typeattributeset file_type (file_t secret_t prog_exec_t unlabeled_t))
(allow file_type file_type (filesystem (associate)))
(role object_r) (role system_r) (role user_r)
(roletype system_r kernel_t) (roletype system_r prog_t) (roletype user_r user_t) (roletype user_r prog_t)
(roletype object_r file_t) (roletype object_r secret_t) (roletype object_r prog_exec_t) (roletype object_r unlabeled_t)
(user system_u) (user user_u)
(userrole system_u system_r) (userrole system_u object_r) (userrole system_u user_r) (userrole user_u user_r)
(userrole user_u object_r)
(userlevel system_u (s0)) (userrange system_u ((s0) (s1 (range c0 c9))))
(userlevel user_u (s0)) (userrange user_u ((s0) (s0 (range c0 c4))))
"""
LEVELS = """
(sensitivity s0) (sensitivity s1) (sensitivityorder (s0 s1)) (sensitivityalias lowest) (sensitivityaliasactual lowest s0)
(category c0) (category c1) (category c2) (category c3) (category c4) (category c5) (category c6) (category c7)
(category c8) (category c9) (categoryorder (c0 c1 c2 c3 c4 c5 c6 c7 c8 c9))
(categoryalias last) (categoryaliasactual last c9)
(sensitivitycategory s0 (range c0 c9)) (sensitivitycategory s1 (range c0 c9))
"""


def base(leave_out: tuple[str, ...] = (), denied: dict[str, tuple[str, ...]] | None = None) -> str:
    """The statements that every policy needs. leave_out: classes that it does not define. denied: what kernel_t may not."""
    lines = []
    for name, permissions in COMMONS.items():
        lines.append(f"(common {name} ({' '.join(permissions)}))")
    names = [name for name in secclass_map if name not in leave_out]
    for name in names:
        permissions = secclass_map[name]
        for common, shared in COMMONS.items():
            if permissions[: len(shared)] == shared:
                lines.append(f"(class {name} ({' '.join(permissions[len(shared):])})) (classcommon {name} {common})")
                break
        else:
            lines.append(f"(class {name} ({' '.join(permissions)}))")
        rights = f"not ({' '.join(denied[name])})" if denied and name in denied else "all"
        lines += [f"(allow kernel_t {target} ({name} ({rights})))" for target in ("self", "domain", "file_type")]
    lines.append(f"(classorder ({' '.join(names)}))")
    sids = initial_sid_to_string[1:]
    lines.append(f"(sidorder ({' '.join(sids)}))")
    for sid in sids:
        who = "object_r file_t" if sid in ("file", "fs", "file_labels") else "object_r unlabeled_t"
        who = "system_r kernel_t" if sid in ("kernel", "security", "init", "kmod") else who
        lines.append(f"(sid {sid}) (sidcontext {sid} (system_u {who} ((s0) (s0))))")
    return "\n".join(lines) + LEVELS + TYPES


def cil(extra: str = "", mls: bool = True, handle_unknown: str = "deny", **options: object) -> str:
    """The text of a policy."""
    head = f"(handleunknown {handle_unknown})\n(mls {'true' if mls else 'false'})\n"
    return head + base(**options) + extra                                                   # type: ignore[arg-type]


def compile_cil(text: str, version: int = 31) -> bytes:
    """secilc's policy; the same text is compiled once."""
    tool = shutil.which("secilc")
    if tool is None:
        pytest.fail("secilc is missing: apt-get install secilc (or: make test)")
    key = hashlib.sha256(f"{version} {text}".encode()).hexdigest()[:24]
    folder = pathlib.Path(tempfile.gettempdir()) / "glasskernel-test-policies"
    folder.mkdir(exist_ok=True)
    made = folder / f"policy.{key}"
    if not made.exists():
        scratch = folder / f"{key}.{os.getpid()}"
        scratch.with_suffix(".cil").write_text(text)
        done = subprocess.run([tool, "-c", str(version), "-o", str(scratch), "-f", "/dev/null", scratch.with_suffix(".cil")],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        scratch.rename(made)
    return made.read_bytes()


def policy(extra: str = "", version: int = 31, **options: object) -> bytes:
    """A compiled policy with the statements of a test."""
    return compile_cil(cil(extra, **options), version)                                      # type: ignore[arg-type]
