"""What is at the other end of the cable by default: a router that knows no other network.

It has the address 10.0.2.2. It answers ARP and pings of its address; its TCP ports are closed (RST) and its UDP
ports, too (ICMP port unreachable). What it should forward it cannot: it says so (ICMP network unreachable, or time
exceeded). Nothing of the host is reached. Knows nothing of Linux.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.checksum import csum_partial, csum_tcpudp_magic, ip_fast_csum

if TYPE_CHECKING:
    from glasskernel.machine.nic import Nic

GATEWAY_IP = bytes((10, 0, 2, 2))
GATEWAY_MAC = bytes.fromhex("52550a000202")
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, ACK = 1, 2, 4, 16
DONT_FRAGMENT, MORE, OFFSET = 0x4000, 0x2000, 0x1FFF
PIECE = 1480                               # bytes of a packet's data that fit into a frame


class Gateway:
    """The router. Plugged in with nic.peer = Gateway(nic)."""

    def __init__(self, nic: Nic) -> None:
        self.nic = nic
        self._id = 0
        self._pieces: dict[bytes, dict[int, bytes]] = {}       # packets of which something is missing, the oldest first

    def receive(self, frame: bytes) -> None:
        if frame[:6] not in (GATEWAY_MAC, b"\xff" * 6):
            return
        if frame[12:14] == ARP:
            self._arp(frame)
        elif frame[12:14] == IPV4 and len(frame) >= 34 and frame[14] == 0x45 and not ip_fast_csum(frame[14:34]):
            packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
            if packet[16] >= 224 or packet[16:20] == b"\xff" * 4:
                return                                 # multicasts, broadcasts
            if packet[16:20] == GATEWAY_IP:
                whole = self._assemble(packet)
                if whole:
                    self._local(frame[6:12], whole)
            elif packet[8] <= 1:
                self._error(frame[6:12], packet, 11, 0)
            else:
                self._error(frame[6:12], packet, 3, 0)

    def _arp(self, frame: bytes) -> None:
        sender, asked = frame[22:32], frame[38:42]
        if frame[20:22] == b"\0\1" and asked == GATEWAY_IP:
            reply = frame[14:20] + b"\0\2" + GATEWAY_MAC + GATEWAY_IP + sender
            self.nic.inject(frame[6:12] + GATEWAY_MAC + ARP + reply)

    def _assemble(self, packet: bytes) -> bytes:
        """A packet that is not in pieces, or the last one of whose pieces this is. RFC 791."""
        place = int.from_bytes(packet[6:8], "big")
        if not place & (MORE | OFFSET):
            return packet
        key = packet[4:6] + packet[9:10] + packet[12:16]
        pieces = self._pieces.setdefault(key, {})
        pieces[(place & OFFSET) * 8] = packet
        if len(self._pieces) > 16:
            del self._pieces[next(iter(self._pieces))]
        data = b""
        while (piece := pieces.get(len(data))) is not None and len(piece) > 20:
            data += piece[20:]
            if not piece[6] & MORE >> 8:
                self._pieces.pop(key, None)
                return pieces[0][:20] + data
        return b""

    def _local(self, mac: bytes, packet: bytes) -> None:
        proto, data = packet[9], packet[20:]
        if proto == ICMP:
            if data[:1] == b"\x08" and csum_partial(data) == 0xFFFF:
                reply = b"\0\0\0\0" + data[4:]
                self._send(mac, packet[12:16], ICMP, _with_checksum(reply))
        elif proto == TCP and len(data) >= 20:
            self._reset(mac, packet, data)
        else:
            self._error(mac, packet, 3, 3 if proto == UDP else 2)

    def _reset(self, mac: bytes, packet: bytes, data: bytes) -> None:
        """RFC 793: no connection exists, so everything but a reset is answered with one."""
        flags = data[13]
        if flags & RST:
            return
        if flags & ACK:
            seq, ack, answer = data[8:12], bytes(4), RST
        else:
            length = len(data) - (data[12] >> 4) * 4 + bool(flags & SYN) + bool(flags & FIN)
            number = (int.from_bytes(data[4:8], "big") + length) & 0xFFFFFFFF
            seq, ack, answer = bytes(4), number.to_bytes(4, "big"), RST | ACK
        header = data[2:4] + data[0:2] + seq + ack + bytes((0x50, answer, 0, 0))
        source, dest = int.from_bytes(GATEWAY_IP, "big"), int.from_bytes(packet[12:16], "big")
        csum = csum_tcpudp_magic(source, dest, 20, TCP, csum_partial(header))
        self._send(mac, packet[12:16], TCP, header + csum.to_bytes(2, "big") + b"\0\0")

    def _error(self, mac: bytes, packet: bytes, kind: int, code: int) -> None:
        if packet[9] == ICMP and packet[20:21] not in (b"\x08", b"\x0d"):
            return                                     # never about an error
        self._send(mac, packet[12:16], ICMP, _with_checksum(bytes((kind, code)) + bytes(6) + packet[:28]))

    def _send(self, mac: bytes, dest: bytes, proto: int, data: bytes) -> None:
        """In pieces if it is too long for Ethernet; the pieces need an identification, which whole packets do not."""
        fits = len(data) <= PIECE
        self._id = self._id % 0xFFFF + 1
        for at in range(0, max(len(data), 1), PIECE):
            piece = data[at : at + PIECE]
            place = DONT_FRAGMENT if fits else at // 8 | (MORE if at + PIECE < len(data) else 0)
            head = (b"\x45\0" + (20 + len(piece)).to_bytes(2, "big") + (0 if fits else self._id).to_bytes(2, "big")
                    + place.to_bytes(2, "big") + bytes((64, proto)))
            csum = ip_fast_csum(head + b"\0\0" + GATEWAY_IP + dest)
            header = head + csum.to_bytes(2, "big") + GATEWAY_IP + dest
            self.nic.inject(mac + GATEWAY_MAC + IPV4 + header + piece)


def _with_checksum(message: bytes) -> bytes:
    return message[:2] + ip_fast_csum(message[:2] + b"\0\0" + message[4:]).to_bytes(2, "big") + message[4:]
