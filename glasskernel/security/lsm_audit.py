"""The part of a denial's record that every security module writes: who, and what it was about.

Linux: security/lsm_audit.c, include/linux/lsm_audit.h (5.3). Same: fields, their order and spaces. Differs: a
    CommonAuditData is a type and its object. Owns: nothing. Context: any.
Gaps: AF_INET6, InfiniBand, module requests: they are not in this kernel; tasks and keys, which SELinux never names.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.dcache import d_find_alias, dput
from glasskernel.fs.types import Path
from glasskernel.kernel.audit import (
    AUDIT_AVC,
    AuditBuffer,
    audit_log_d_path,
    audit_log_end,
    audit_log_format,
    audit_log_n_hex,
    audit_log_start,
    audit_log_untrustedstring,
)
from glasskernel.kernel.current import current
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

(LSM_AUDIT_DATA_NONE, LSM_AUDIT_DATA_PATH, LSM_AUDIT_DATA_NET, LSM_AUDIT_DATA_INODE, LSM_AUDIT_DATA_IPC,
 LSM_AUDIT_DATA_CAP, LSM_AUDIT_DATA_FILE, LSM_AUDIT_DATA_DENTRY, LSM_AUDIT_DATA_IOCTL_OP) = range(9)
AF_UNIX, AF_INET = 1, 2


@slotted
class LsmNetworkAudit:
    """struct lsm_network_audit. Addresses as integers, ports in host order."""

    sk: Any = None
    family: int = 0
    saddr: int = 0
    sport: int = 0
    daddr: int = 0
    dport: int = 0


@slotted
class CommonAuditData:
    """struct common_audit_data. u: what `type` says: a Path, Inode, File, Dentry, number ..."""

    type: int
    u: Any = None
    extra: int = 0                     # LSM_AUDIT_DATA_IOCTL_OP: the command


def common_lsm_audit(a: CommonAuditData, pre_audit: Callable[[AuditBuffer], None],
                     post_audit: Callable[[AuditBuffer], None]) -> None:
    """Writes a record; the module adds what it knows before and behind the common part."""
    ab = audit_log_start(current().kernel, AUDIT_AVC)
    pre_audit(ab)
    dump_common_audit_data(ab, a)
    post_audit(ab)
    audit_log_end(ab)


def dump_common_audit_data(ab: AuditBuffer, a: CommonAuditData) -> None:
    """The caller, then what it was about."""
    task = current()
    audit_log_format(ab, b" pid=%d comm=" % task.tgid)
    audit_log_untrustedstring(ab, task.comm)
    kind, u = a.type, a.u
    if kind == LSM_AUDIT_DATA_IPC:
        audit_log_format(ab, b" key=%d " % u)
    elif kind == LSM_AUDIT_DATA_CAP:
        audit_log_format(ab, b" capability=%d " % u)
    elif kind in (LSM_AUDIT_DATA_PATH, LSM_AUDIT_DATA_FILE, LSM_AUDIT_DATA_IOCTL_OP):
        path: Path = u if isinstance(u, Path) else u.f_path
        audit_log_d_path(ab, b" path=", path)
        audit_inode(ab, path.dentry.d_inode)
        if kind == LSM_AUDIT_DATA_IOCTL_OP:
            audit_log_format(ab, b" ioctlcmd=0x%x" % (a.extra & 0xFFFF))
    elif kind == LSM_AUDIT_DATA_DENTRY:
        audit_log_format(ab, b" name=")
        audit_log_untrustedstring(ab, u.d_name)
        audit_inode(ab, u.d_inode)
    elif kind == LSM_AUDIT_DATA_INODE:
        dentry = d_find_alias(u)
        if dentry is not None:
            audit_log_format(ab, b" name=")
            audit_log_untrustedstring(ab, dentry.d_name)
            dput(dentry)
        audit_inode(ab, u)
    elif kind == LSM_AUDIT_DATA_NET:
        audit_network(ab, u)


@notrace
def audit_inode(ab: AuditBuffer, inode: Inode | None) -> None:
    """Where a file lies."""
    if inode is not None:
        audit_log_format(ab, b" dev=")
        audit_log_untrustedstring(ab, inode.i_sb.s_id)
        audit_log_format(ab, b" ino=%d" % inode.i_ino)


@notrace
def audit_network(ab: AuditBuffer, net: LsmNetworkAudit) -> None:
    """The two ends of a socket, then those that a call named."""
    sk = net.sk
    if sk is not None and sk.sk_family == AF_INET:
        print_ipv4_addr(ab, sk.inet_rcv_saddr, sk.inet_sport, b"laddr", b"lport")
        print_ipv4_addr(ab, sk.inet_daddr, sk.inet_dport, b"faddr", b"fport")
    elif sk is not None and sk.sk_family == AF_UNIX and sk.addr:
        name = sk.addr[2:]
        if sk.path is not None:
            audit_log_d_path(ab, b" path=", sk.path)
        else:
            audit_log_format(ab, b" path=")
            if name[:1] == b"\0":
                audit_log_n_hex(ab, name)
            else:
                audit_log_untrustedstring(ab, name.rstrip(b"\0"))
    if net.family == AF_INET:
        print_ipv4_addr(ab, net.saddr, net.sport, b"saddr", b"src")
        print_ipv4_addr(ab, net.daddr, net.dport, b"daddr", b"dest")


def print_ipv4_addr(ab: AuditBuffer, addr: int, port: int, name1: bytes, name2: bytes) -> None:
    """An address and a port, each if there is one."""
    if addr:
        audit_log_format(ab, b" %s=%s" % (name1, b".".join(b"%d" % byte for byte in addr.to_bytes(4, "big"))))
    if port:
        audit_log_format(ab, b" %s=%d" % (name2, port))
