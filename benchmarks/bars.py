"""Bar charts as one SVG file that a browser, GitHub and an editor show as they are."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

COLOURS = ("#8a8f98", "#2f6fb3", "#c98b1b", "#3a8f5c")
_LEFT, _BAR, _STEP, _HEAD, _LETTER = 100, 420, 22, 44, 7
_WIDTH = _LEFT + _BAR + 90


@dataclass(frozen=True, slots=True)
class Panel:
    """One question: its bars by name, in one colour each. form: how a figure is printed."""

    title: str
    values: dict[str, float]
    form: str


def svg(panels: list[Panel]) -> str:
    """The panels below each other; in each, the longest bar fills the width."""
    parts = []
    y = 0
    for panel in panels:
        parts.append(f'<text x="8" y="{y + 28}" font-weight="bold">{escape(panel.title)}</text>')
        y += _HEAD
        longest = max(panel.values.values())
        for (name, value), colour in zip(panel.values.items(), COLOURS):
            width = value / longest * _BAR
            parts.append(
                f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="17" fill="{colour}"/>'
                f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{panel.form.format(value).strip()}</text>'
            )
            y += _STEP
    width = max(_WIDTH, *(8 + _LETTER * len(panel.title) + 60 for panel in panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 12}" viewBox="0 0 {width} {y + 12}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
