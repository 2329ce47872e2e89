"""Perfetto's native format: a protobuf stream of TracePackets with TrackEvents.

Source: protos/perfetto/trace/*.proto of the Perfetto project; the field numbers below are theirs. Names are interned,
so that a call costs about twenty bytes.
"""
from __future__ import annotations

from pathlib import Path

from glasskernel.tools.trace.model import ENTER, KERNEL, LEAVE, USER, Trace

_PACKET = 1                                                        # Trace
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = 8, 10, 11, 12, 13, 60     # TracePacket
_TYPE, _NAME_IID, _UUID, _CATEGORY_IIDS, _ANNOTATIONS = 9, 10, 11, 3, 4                         # TrackEvent
_BEGIN, _END, _INSTANT = 1, 2, 3
_EVENT_CATEGORIES, _EVENT_NAMES = 1, 2                             # InternedData
_CLEARED, _NEEDS_STATE = 1, 2                                      # SequenceFlags
_CATEGORY_NAMES = (b"kernel", b"user", b"event")
_CATEGORIES = {KERNEL: 1, USER: 2, "event": 3}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def write_perfetto(trace: Trace, path: Path) -> None:
    """Raises OSError."""
    with open(path, "wb") as out:
        def packet(*fields: bytes) -> None:
            body = b"".join(fields) + number(_SEQUENCE, 1)
            out.write(data(_PACKET, body))

        categories = b"".join(
            data(_EVENT_CATEGORIES, number(1, iid) + data(2, name)) for iid, name in enumerate(_CATEGORY_NAMES, 1))
        packet(data(_INTERNED, categories), number(_FLAGS, _CLEARED | _NEEDS_STATE))
        for pid in dict.fromkeys(task.pid for task in trace.tasks.values()):
            leader = trace.tasks.get(pid)
            name = leader.comm.encode() if leader is not None else b"?"
            packet(data(_DESCRIPTOR, number(1, pid << 32) + data(2, name) + data(3, number(1, pid) + data(6, name))))
        for task in trace.tasks.values():
            thread = number(1, task.pid) + number(2, task.tid) + data(5, task.comm.encode())
            track = number(1, _track(task.pid, task.tid)) + number(5, task.pid << 32)
            packet(data(_DESCRIPTOR, track + data(4, thread)))
        pids = {task.tid: task.pid for task in trace.tasks.values()}
        names: dict[str, int] = {}
        depth: dict[int, int] = {}
        for r in trace.records:
            event = number(_UUID, _track(pids.get(r.tid, r.tid), r.tid))
            interned = b""
            if r.kind == LEAVE:
                if not depth.get(r.tid):
                    continue
                depth[r.tid] -= 1
                event += number(_TYPE, _END)
            else:
                iid = names.get(r.name)
                if iid is None:
                    iid = names[r.name] = len(names) + 1
                    interned = data(_INTERNED, data(_EVENT_NAMES, number(1, iid) + data(2, r.name.encode())))
                begins = r.kind == ENTER
                depth[r.tid] = depth.get(r.tid, 0) + begins
                event += number(_TYPE, _BEGIN if begins else _INSTANT) + number(_NAME_IID, iid)
                event += number(_CATEGORY_IIDS, _CATEGORIES[r.side if begins else "event"])
                if r.text:                              # DebugAnnotation: name 10, string_value 6
                    label = b"arguments" if begins else b"fields"
                    event += data(_ANNOTATIONS, data(10, label) + data(6, r.text.encode()))
            packet(number(_TIMESTAMP, r.time_ns), interned, data(_TRACK_EVENT, event), number(_FLAGS, _NEEDS_STATE))


def _track(pid: int, tid: int) -> int:
    return pid << 32 | tid | 1 << 31
