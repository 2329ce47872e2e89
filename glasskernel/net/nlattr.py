"""Netlink attributes: written into a message, and read out of one.

Linux: lib/nlattr.c, include/net/netlink.h (5.3). Same: layout, padding, which check fails with what errno and text.
    Differs: parsing answers {type: payload}; in net/, because it needs skb_put(). All of lib/ is hidden from traces.
Gaps: the strictest checks (NL_VALIDATE_STRICT), which 5.3 makes for new commands only; policies with ranges and
    validate functions, NLA_BITFIELD32, nested policies.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, EMSGSIZE, ERANGE, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.skbuff import skb_put

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff

Attributes = dict[int, bytes]
Policy = dict[int, tuple[int, int]]      # type -> (NLA_*, length)
NLA_HDRLEN = 4
NLA_TYPE_MASK = 0x3FFF                   # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
(NLA_UNSPEC, NLA_U8, NLA_U16, NLA_U32, NLA_U64, NLA_STRING, NLA_FLAG, NLA_MSECS, NLA_NESTED, NLA_NESTED_ARRAY,
 NLA_NUL_STRING, NLA_BINARY) = range(12)
NLA_EXACT_LEN = 16
NL_VALIDATE_LIBERAL, NL_VALIDATE_TRAILING, NL_VALIDATE_MAXTYPE = 0, 1, 2
NL_VALIDATE_DEPRECATED_STRICT = NL_VALIDATE_TRAILING | NL_VALIDATE_MAXTYPE

_header = struct.Struct("<HH")
_lengths = {NLA_U8: 1, NLA_U16: 2, NLA_U32: 4, NLA_U64: 8, NLA_MSECS: 8}


@slotted
class NetlinkExtAck:
    """struct netlink_ext_ack: what an error answers besides its number. bad_attr: offset in the message; 0: none."""

    msg: bytes = b""
    bad_attr: int = 0


@notrace
def NL_SET_ERR_MSG(extack: NetlinkExtAck | None, text: bytes, bad_attr: int = 0) -> None:
    if extack is not None:
        extack.msg = text
        extack.bad_attr = bad_attr


@notrace
def nla_error(errno: int, extack: NetlinkExtAck | None, text: bytes, bad_attr: int = 0) -> KernelError:
    """The error to raise, explained."""
    NL_SET_ERR_MSG(extack, text, bad_attr)
    return KernelError(errno)


# ---- writing ---------------------------------------------------------------------------------------
@notrace
def nla_put(skb: SkBuff, attrtype: int, data: bytes | bytearray) -> None:
    """Appends an attribute. Raises EMSGSIZE if it does not fit: nothing was written."""
    start = skb.tail
    size = NLA_HDRLEN + len(data)
    end = start + (size + 3 & ~3)
    if end > len(skb.head):
        raise KernelError(EMSGSIZE)
    skb_put(skb, end - start)
    head = skb.head
    _header.pack_into(head, start, size, attrtype)
    head[start + NLA_HDRLEN : end] = data + bytes(end - start - size)


@notrace
def nla_put_u8(skb: SkBuff, attrtype: int, value: int) -> None:
    nla_put(skb, attrtype, bytes((value,)))


@notrace
def nla_put_u16(skb: SkBuff, attrtype: int, value: int) -> None:
    nla_put(skb, attrtype, value.to_bytes(2, "little"))


@notrace
def nla_put_u32(skb: SkBuff, attrtype: int, value: int) -> None:
    nla_put(skb, attrtype, (value & 0xFFFFFFFF).to_bytes(4, "little"))


@notrace
def nla_put_u64_64bit(skb: SkBuff, attrtype: int, value: int) -> None:
    nla_put(skb, attrtype, (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little"))


@notrace
def nla_put_in_addr(skb: SkBuff, attrtype: int, address: int) -> None:
    """An IPv4 address."""
    nla_put(skb, attrtype, address.to_bytes(4, "big"))


@notrace
def nla_put_string(skb: SkBuff, attrtype: int, text: bytes) -> None:
    nla_put(skb, attrtype, text + b"\0")


@notrace
def nla_nest_start_noflag(skb: SkBuff, attrtype: int) -> int:
    """Begins an attribute made of attributes; answers what nla_nest_end() wants."""
    start = skb.tail
    nla_put(skb, attrtype, b"")
    return start


@notrace
def nla_nest_end(skb: SkBuff, start: int) -> None:
    skb.head[start : start + 2] = (skb.tail - start).to_bytes(2, "little")


# ---- reading ---------------------------------------------------------------------------------------
@notrace
def __nla_validate_parse(data: bytes, offset: int, maxtype: int, policy: Policy | None, validate: int,
                         extack: NetlinkExtAck | None, base: int) -> Attributes:
    found: Attributes = {}
    end = len(data)
    while end - offset >= NLA_HDRLEN:
        size, kind = _header.unpack_from(data, offset)
        if size < NLA_HDRLEN or offset + size > end:
            break
        attrtype = kind & NLA_TYPE_MASK
        if 0 < attrtype <= maxtype:
            value = data[offset + NLA_HDRLEN : offset + size]
            if policy is not None:
                validate_nla(attrtype, value, policy, extack, base and base + offset)
            found[attrtype] = value
        elif validate & NL_VALIDATE_MAXTYPE:
            raise nla_error(EINVAL, extack, b"Unknown attribute type", base and base + offset)
        offset += size + 3 & ~3
    if offset < end and validate & NL_VALIDATE_TRAILING:
        raise nla_error(EINVAL, extack, b"bytes leftover after parsing attributes")
    return found


@notrace
def __nla_parse(data: bytes, offset: int, maxtype: int, policy: Policy | None, validate: int,
                extack: NetlinkExtAck | None, base: int = 0) -> Attributes:
    """The attributes in data[offset:]. base: where data begins in the message, if errors shall say where.

    Raises EINVAL, ERANGE, as `validate` (NL_VALIDATE_*) asks for.
    """
    return __nla_validate_parse(data, offset, maxtype, policy, validate, extack, base)


@notrace
def nla_parse_nested_deprecated(data: bytes, maxtype: int, policy: Policy | None = None,
                                extack: NetlinkExtAck | None = None) -> Attributes:
    """The attributes inside an attribute. Raises EINVAL, ERANGE."""
    return __nla_parse(data, 0, maxtype, policy, NL_VALIDATE_LIBERAL, extack)


@notrace
def validate_nla(attrtype: int, value: bytes, policy: Policy, extack: NetlinkExtAck | None, offset: int) -> None:
    """One attribute against its rule. Raises EINVAL, ERANGE."""
    rule, limit = policy.get(attrtype, (NLA_UNSPEC, 0))
    size = len(value)
    errno = 0
    exact = _lengths.get(rule)
    if exact is not None:
        errno = ERANGE if size < exact else 0
    elif rule == NLA_EXACT_LEN:
        errno = ERANGE if size != limit else 0
    elif rule == NLA_FLAG:
        errno = ERANGE if size else 0
    elif rule in (NLA_STRING, NLA_NUL_STRING):
        if rule == NLA_NUL_STRING and 0 not in value[: limit + 1 if limit else size]:
            errno = EINVAL
        elif not size or (limit and size - (value[-1:] == b"\0") > limit):
            errno = ERANGE
    elif rule == NLA_BINARY:
        errno = ERANGE if limit and size > limit else 0
    elif rule == NLA_NESTED:
        errno = ERANGE if 0 < size < NLA_HDRLEN else 0
    else:
        errno = ERANGE if size < limit else 0
    if errno:
        raise nla_error(errno, extack, b"Attribute failed policy validation", offset)


@notrace
def nla_get_u32(value: bytes) -> int:
    return int.from_bytes(value[:4], "little")


@notrace
def nla_get_in_addr(value: bytes) -> int:
    return int.from_bytes(value[:4], "big")


@notrace
def nla_str(value: bytes) -> bytes:
    """nla_strlcpy(): up to the first NUL."""
    return value.partition(b"\0")[0]
