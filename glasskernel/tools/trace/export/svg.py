"""A flame graph as one SVG file: it opens from disk, zooms on a click, and finds what Ctrl-F would not.

The width of a box is virtual time, the order of boxes alphabetical, the colour the side: kernel blue, user green.
"""
from __future__ import annotations

from html import escape
from pathlib import Path

from glasskernel.tools.trace.export.folded import folded
from glasskernel.tools.trace.model import Trace

_WIDTH, _ROW, _TOP, _LETTER = 1200, 17, 46, 6.6
_MIN_WIDTH = 0.2                            # boxes narrower than this are left out


class _Node:
    __slots__ = ("children", "own_ns", "total_ns")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.own_ns = self.total_ns = 0


def write_svg(trace: Trace, path: Path) -> None:
    """Raises OSError."""
    root = _Node()
    for stack, ns in folded(trace).items():
        node = root
        node.total_ns += ns
        for name in stack:
            node = node.children.setdefault(name, _Node())
            node.total_ns += ns
        node.own_ns += ns
    boxes: list[str] = []
    total = root.total_ns or 1
    deepest = 0
    pending = [("all", root, 0.0, 0)]
    while pending:
        name, node, x, depth = pending.pop()
        width = node.total_ns / total * _WIDTH
        if width < _MIN_WIDTH and node is not root:
            continue
        deepest = max(deepest, depth)
        boxes.append(_box(name, node, x, width, depth, total))
        for child in sorted(node.children):
            pending.append((child, node.children[child], x, depth + 1))
            x += node.children[child].total_ns / total * _WIDTH
    height = _TOP + (deepest + 1) * _ROW + 8
    command = escape(" ".join(trace.command))
    style = Path(__file__).with_name("flamegraph.css").read_text(encoding="utf-8")
    script = Path(__file__).with_name("flamegraph.js").read_text(encoding="utf-8")
    script = script.replace("@WIDTH@", str(_WIDTH)).replace("@LETTER@", str(_LETTER))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text id="title" x="4" y="18">{command}: {total / 1e6:.3f} ms of virtual time</text>'
        f'<text id="find" x="4" y="36" style="pointer-events:all;cursor:pointer" fill="#06c">find (press /)</text>'
        f'<text id="found" x="130" y="36"></text>\n' + "\n".join(boxes)
        + f"<script><![CDATA[{script}]]></script></svg>\n", encoding="utf-8")


def _box(name: str, node: _Node, x: float, width: float, depth: int, total: int) -> str:
    shown = escape(name.removesuffix("_[k]"), quote=True)
    side = "t" if depth < 2 else "k" if name.endswith("_[k]") else "u"
    letters = int((width - 4) / _LETTER)
    label = shown if letters >= len(name) else escape(name[: letters - 2]) + ".." if letters > 3 else ""
    y = _TOP + depth * _ROW
    return (
        f'<g class="b" data-n="{shown}" data-x="{x:.3f}" data-w="{width:.3f}" data-d="{depth}">'
        f'<title>{shown}: {node.total_ns / 1e3:.3f} us ({node.total_ns / total:.1%}), '
        f'itself {node.own_ns / 1e3:.3f} us</title>'
        f'<rect class="{side}" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 12}">{label}</text></g>')
