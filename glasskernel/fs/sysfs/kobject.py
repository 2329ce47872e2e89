"""Kernel objects: what has a directory in /sys.

Linux: lib/kobject.c, lib/kobject_uevent.c, fs/sysfs/{dir,file,group,symlink}.c, kernel/ksysfs.c (5.3).
    Same: one directory an object, one small text file an attribute, links between objects, a write is one
        value.
Differs: an attribute holds its own show() and store(); there are no ktypes; uevents are counted, and listeners are told
    by net/core/kobject_uevent.py.
Owns: Kernel.sysfs. Invariant: kobj.sd is in the tree from kobject_add() to kobject_del().
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.kernfs import (
    KernfsNode,
    KernfsOps,
    KernfsRoot,
    __kernfs_create_file,
    kernfs_create_dir,
    kernfs_create_link,
    kernfs_create_root,
    kernfs_find_and_get,
    kernfs_remove,
)
from glasskernel.lib.errno import EINVAL, EIO, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel


@slotted
class SysfsState:
    """Kernel.sysfs. The top objects of /sys."""

    root: KernfsRoot
    top: Kobject
    uevent_seqnum: int = 0
    kernel_kobj: Kobject = None  # type: ignore[assignment]      # /sys/kernel
    fs_kobj: Kobject = None  # type: ignore[assignment]          # /sys/fs
    devices: Kobject = None  # type: ignore[assignment]          # /sys/devices
    virtual: Kobject = None  # type: ignore[assignment]          # /sys/devices/virtual
    system: Kobject = None  # type: ignore[assignment]           # /sys/devices/system
    bus: Kobject = None  # type: ignore[assignment]              # /sys/bus
    class_: Kobject = None  # type: ignore[assignment]           # /sys/class
    dev_char: Kobject = None  # type: ignore[assignment]         # /sys/dev/char
    dev_block: Kobject = None  # type: ignore[assignment]        # /sys/dev/block
    module: Kobject = None  # type: ignore[assignment]           # /sys/module
    classes: Any = None                                          # drivers.base: name -> Class
    buses: Any = None                                            # drivers.base: name -> Bus


@slotted
class Kobject:
    """struct kobject. uevent: the NAME=value lines of its `uevent` file; None: it has none."""

    kernel: Kernel
    name: bytes
    parent: Kobject | None = None
    sd: KernfsNode = None  # type: ignore[assignment]
    uevent: Callable[[Kobject], list[bytes]] | None = None
    data: Any = None                     # the owner's object: Device, Bus, ...


@slotted(frozen=True)
class Attribute:
    """struct kobj_attribute. show(kobj) -> text with its newline. store(kobj, text): the whole value written."""

    name: bytes
    show: Callable[[Kobject], bytes] | None = None
    store: Callable[[Kobject, bytes], None] | None = None
    mode: int = 0o444


# ---- attributes ----------------------------------------------------------------------------------
def sysfs_kf_seq_show(m: SeqFile, v: Any) -> int | None:
    """The text of an attribute. Errors: those of its show()."""
    kobj, attr = m.private.priv
    m.buf += kobj_attr_show(kobj, attr)
    return None


def kobj_attr_show(kobj: Kobject, attr: Attribute) -> bytes:
    """Errors: EIO without a show()."""
    if attr.show is None:
        raise KernelError(EIO)
    return attr.show(kobj)


def sysfs_kf_write(kn: KernfsNode, data: bytes, pos: int) -> int:
    """Hands one value to store(). Errors: those of store()."""
    if not data:
        return 0
    kobj, attr = kn.priv
    kobj_attr_store(kobj, attr, data)
    return len(data)


def kobj_attr_store(kobj: Kobject, attr: Attribute, data: bytes) -> None:
    """Errors: EIO without a store()."""
    if attr.store is None:
        raise KernelError(EIO)
    attr.store(kobj, data)


_ops_ro = KernfsOps(seq_show=sysfs_kf_seq_show)
_ops_wo = KernfsOps(write=sysfs_kf_write)
_ops_rw = KernfsOps(seq_show=sysfs_kf_seq_show, write=sysfs_kf_write)


@notrace
def sysfs_add_file(parent: KernfsNode, kobj: Kobject, attr: Attribute) -> KernfsNode:
    ops = _ops_ro if attr.store is None else _ops_wo if attr.show is None else _ops_rw
    return __kernfs_create_file(parent, attr.name, attr.mode, 4096, ops, (kobj, attr))


@notrace
def sysfs_create_file(kobj: Kobject, attr: Attribute) -> KernfsNode:
    """One attribute of an object. Errors: EEXIST."""
    return sysfs_add_file(kobj.sd, kobj, attr)


@notrace
def sysfs_create_bin_file(kobj: Kobject, attr: Attribute, size: int) -> KernfsNode:
    """An attribute of `size` bytes that need not be text. Errors: EEXIST."""
    kn = sysfs_add_file(kobj.sd, kobj, attr)
    kn.size = size
    return kn


def sysfs_create_group(kobj: Kobject, attrs: Iterable[Attribute], name: bytes = b"") -> None:
    """Attributes in the object's directory, or in a directory of their own below it. Errors: EEXIST."""
    parent = kernfs_create_dir(kobj.sd, name, 0o755, kobj) if name else kobj.sd
    for attr in attrs:
        sysfs_add_file(parent, kobj, attr)


@notrace
def sysfs_remove_file(kobj: Kobject, name: bytes) -> None:
    kn = kernfs_find_and_get(kobj.sd, name)
    if kn is not None:
        kernfs_remove(kn)


def sysfs_create_link(kobj: Kobject, target: Kobject, name: bytes) -> None:
    """A link in kobj's directory to another object's. Errors: EEXIST."""
    kernfs_create_link(kobj.sd, name, target.sd)


def sysfs_remove_link(kobj: Kobject, name: bytes) -> None:
    sysfs_remove_file(kobj, name)


# ---- objects -------------------------------------------------------------------------------------
def kobject_add(kobj: Kobject) -> None:
    """Gives the object its directory, and its `uevent` file if it sends any. Errors: EEXIST."""
    parent = kobj.parent
    assert parent is not None
    kobj.sd = kernfs_create_dir(parent.sd, kobj.name, 0o755, kobj)
    if kobj.uevent is not None:
        sysfs_create_file(kobj, uevent_attr)


def kobject_create_and_add(name: bytes, parent: Kobject) -> Kobject:
    """A plain directory."""
    kobj = Kobject(parent.kernel, name, parent)
    kobject_add(kobj)
    return kobj


def kobject_del(kobj: Kobject) -> None:
    """Takes the directory away."""
    kernfs_remove(kobj.sd)


@notrace
def kobject_path(kobj: Kobject) -> bytes:
    """b"/devices/virtual/mem/null" (kobject_get_path)"""
    parts = []
    node: KernfsNode | None = kobj.sd
    while node is not None and node.parent is not None:
        parts.append(node.name)
        node = node.parent
    return b"/" + b"/".join(reversed(parts))


def uevent_show(kobj: Kobject) -> bytes:
    assert kobj.uevent is not None
    return b"".join(line + b"\n" for line in kobj.uevent(kobj))


def uevent_store(kobj: Kobject, text: bytes) -> None:
    """Writing an action sends it again. Errors: EINVAL for an unknown one."""
    kobject_synth_uevent(kobj, text)


@notrace
def kobject_synth_uevent(kobj: Kobject, text: bytes) -> None:
    """An event that user space asked for says so. Gaps: a UUID and variables behind the action. Errors: EINVAL."""
    kobject_uevent(kobj, text.split(b" ")[0].strip(), (b"SYNTH_UUID=0",))


@notrace
def kobject_uevent(kobj: Kobject, action: bytes, env: tuple[bytes, ...] = ()) -> None:
    """Tells of an event of the object: add, remove, change, move, online, offline, bind, unbind."""
    if action not in (b"add", b"remove", b"change", b"move", b"online", b"offline", b"bind", b"unbind"):
        raise KernelError(EINVAL)
    kernel = kobj.kernel
    kernel.sysfs.uevent_seqnum += 1
    if kernel.uevent_net_broadcast is not None:
        kernel.uevent_net_broadcast(kobj, action, env, kernel.sysfs.uevent_seqnum)


uevent_attr = Attribute(b"uevent", uevent_show, uevent_store, 0o644)


# ---- /sys/kernel ---------------------------------------------------------------------------------
def uevent_seqnum_show(kobj: Kobject) -> bytes:
    return b"%d\n" % kobj.kernel.sysfs.uevent_seqnum


def fscaps_show(kobj: Kobject) -> bytes:
    return b"1\n"


def ksysfs_init(kernel: Kernel) -> None:
    """/sys/kernel"""
    state = kernel.sysfs
    state.kernel_kobj = kobject_create_and_add(b"kernel", state.top)
    sysfs_create_group(state.kernel_kobj, (Attribute(b"uevent_seqnum", uevent_seqnum_show),))
    mm_kobj = kobject_create_and_add(b"mm", state.kernel_kobj)
    mm_kobj.sd.populate = lambda _kn: kernel.hugepage_init_sysfs(mm_kobj)


@notrace
def sysfs_tree_init(kernel: Kernel) -> None:
    """The top of the tree: /sys/devices, bus, class, dev, fs, kernel, module (sysfs_init, devices_init, ...)."""
    root = kernfs_create_root(kernel, None)
    top = Kobject(kernel, b"", None, root.kn)
    root.kn.priv = top
    state = kernel.sysfs = SysfsState(root, top)
    state.bus = kobject_create_and_add(b"bus", top)
    state.class_ = kobject_create_and_add(b"class", top)
    dev = kobject_create_and_add(b"dev", top)
    state.dev_block = kobject_create_and_add(b"block", dev)
    state.dev_char = kobject_create_and_add(b"char", dev)
    state.devices = kobject_create_and_add(b"devices", top)
    state.system = kobject_create_and_add(b"system", state.devices)
    state.virtual = kobject_create_and_add(b"virtual", state.devices)
    state.fs_kobj = kobject_create_and_add(b"fs", top)
    ksysfs_init(kernel)
    state.module = kobject_create_and_add(b"module", top)
    state.classes = {}
    state.buses = {}
