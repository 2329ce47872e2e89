"""What ICMP's "destination unreachable" means to a socket.

Linux: net/ipv4/icmp.c: icmp_err_convert (5.3).
"""
from __future__ import annotations

from glasskernel.lib.errno import (
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
)

# (errno, the connection is over) by code
ICMP_ERR_CONVERT = (
    (ENETUNREACH, False), (EHOSTUNREACH, False), (ENOPROTOOPT, True), (ECONNREFUSED, True), (EMSGSIZE, False),
    (EOPNOTSUPP, False), (ENETUNREACH, True), (EHOSTDOWN, True), (ENONET, True), (ENETUNREACH, True),
    (EHOSTUNREACH, True), (ENETUNREACH, False), (EHOSTUNREACH, False), (EHOSTUNREACH, True), (EHOSTUNREACH, True),
    (EHOSTUNREACH, True))
