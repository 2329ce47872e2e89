"""The state of SELinux, and what the security server answers.

Linux: security/selinux/include/security.h (5.3). Same: fields, the values of policy capabilities and of ways to label
    a file system. Differs: what a new policy must reach outside the security server (the AVC, super blocks that were
    mounted before there was a policy, the status page) is called through lists here; Linux's files include each other.
Owns: SelinuxState, which is `kernel.selinux` (None without SELinux).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.ss.services import SelinuxSs

SELINUX_MAGIC = 0xF97CFF8C
SECSID_NULL = 0

# Versions of the binary policy.
POLICYDB_VERSION_BASE = 15
POLICYDB_VERSION_BOOL = 16
POLICYDB_VERSION_IPV6 = 17
POLICYDB_VERSION_NLCLASS = 18
POLICYDB_VERSION_VALIDATETRANS = 19
POLICYDB_VERSION_MLS = 19
POLICYDB_VERSION_AVTAB = 20
POLICYDB_VERSION_RANGETRANS = 21
POLICYDB_VERSION_POLCAP = 22
POLICYDB_VERSION_PERMISSIVE = 23
POLICYDB_VERSION_BOUNDARY = 24
POLICYDB_VERSION_FILENAME_TRANS = 25
POLICYDB_VERSION_ROLETRANS = 26
POLICYDB_VERSION_NEW_OBJECT_DEFAULTS = 27
POLICYDB_VERSION_DEFAULT_TYPE = 28
POLICYDB_VERSION_CONSTRAINT_NAMES = 29
POLICYDB_VERSION_XPERMS_IOCTL = 30
POLICYDB_VERSION_INFINIBAND = 31
POLICYDB_VERSION_MIN = POLICYDB_VERSION_BASE
POLICYDB_VERSION_MAX = POLICYDB_VERSION_INFINIBAND

# Policy capabilities: what a policy says it knows of.
POLICYDB_CAPABILITY_NETPEER = 0
POLICYDB_CAPABILITY_OPENPERM = 1
POLICYDB_CAPABILITY_EXTSOCKCLASS = 2
POLICYDB_CAPABILITY_ALWAYSNETWORK = 3
POLICYDB_CAPABILITY_CGROUPSECLABEL = 4
POLICYDB_CAPABILITY_NNP_NOSUID_TRANSITION = 5
selinux_policycap_names = ("network_peer_controls", "open_perms", "extended_socket_class", "always_check_network",
                           "cgroup_seclabel", "nnp_nosuid_transition")

# How the files of a file system get their labels.
SECURITY_FS_USE_XATTR = 1           # from their extended attribute
SECURITY_FS_USE_TRANS = 2           # from transitions: pipefs, devpts, tmpfs
SECURITY_FS_USE_TASK = 3            # from who made them: pipes, sockets
SECURITY_FS_USE_GENFS = 4           # from their path
SECURITY_FS_USE_NONE = 5            # no labels
SECURITY_FS_USE_MNTPOINT = 6        # context= of the mount
SECURITY_FS_USE_NATIVE = 7          # the file system itself says
SECURITY_FS_USE_MAX = 7

AVD_FLAGS_PERMISSIVE = 1            # AvDecision.flags: this type is permissive


class AvDecision(NamedTuple):
    """struct av_decision: what a source may do to a target of one class"""
    allowed: int
    auditallow: int
    auditdeny: int
    seqno: int
    flags: int


class ExtendedPermsDecision(NamedTuple):
    """struct extended_perms_decision: 256 bits each, of one driver (the second byte of an ioctl's number)"""
    driver: int
    allowed: int
    auditallow: int
    dontaudit: int


@slotted
class SelinuxState:
    """struct selinux_state"""
    kernel: Kernel
    ss: SelinuxSs
    enforcing: bool = False
    initialized: bool = False           # a policy was loaded
    checkreqprot: bool = False
    policycap: list[bool] = field(default_factory=lambda: [False] * len(selinux_policycap_names))
    avc: Any = None                     # SelinuxAvc (avc.py)
    # Called with (state, seqno) whenever an answer of the security server may have changed: the AVC first.
    avc_ss_reset: list[Callable[[SelinuxState, int], None]] = field(default_factory=list)
    # Called with (state, enforcing) when the mode has changed.
    setenforce: list[Callable[[SelinuxState, int], None]] = field(default_factory=list)
    # Called once, when the first policy is in place (selinux_complete_init()).
    complete_init: list[Callable[[SelinuxState], None]] = field(default_factory=list)
    fs_info: Any = None                 # SelinuxFsInfo (selinuxfs.py)
    status_page: int | None = None      # a frame (ss/status.py)
    selnl: Any = None                   # NetlinkSock (netlink.py)
