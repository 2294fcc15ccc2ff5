"""Charts as inline SVG: bars, stacked bars, spans of time. Pure; colours are classes of the page.

Every mark carries a `<title>`, which browsers show as a tooltip and screen readers say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

import attrs

WIDTH: Final = 760
_LEFT: Final = 64
_RIGHT: Final = 12
_TOP: Final = 12
_BOTTOM: Final = 26
_ROW: Final = 22
_LABEL_PX: Final = 56
"""Room for a label below a bar."""


@attrs.frozen
class Bar:
    """One bar, or a stack of parts: class, value, and what the tooltip says."""

    label: str
    parts: tuple[tuple[str, float, str], ...]

    @property
    def total(self) -> float:
        return math.fsum(value for _, value, _ in self.parts)


@attrs.frozen
class Span:
    """A part of a row in `timeline`, in the row's own unit."""

    style: str
    begin: float
    end: float
    title: str


def ticks(most: float, wanted: int = 4) -> list[float]:
    """Round values from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999999)
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def columns(bars: Sequence[Bar], name: str, axis: Callable[[float], str], height: int = 220) -> str:
    """Stacked columns over labels. Too many labels for the width: only some are written."""
    scale = ticks(max((bar.total for bar in bars), default=0.0))
    inner = height - _TOP - _BOTTOM
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(bars))
    width = min(48.0, slot * 0.72)
    shapes = _axis(scale, inner, axis)
    every = max(1, math.ceil(_LABEL_PX / slot))
    for number, bar in enumerate(bars):
        x = _LEFT + slot * (number + 0.5) - width / 2
        y = float(_TOP + inner)
        for style, value, title in bar.parts:
            tall = inner * value / scale[-1]
            if tall <= 0:
                continue
            y -= tall
            shapes.append(_rect(style, (x, y, width, tall), title))
        if number % every == 0:
            shapes.append(_text(x + width / 2, height - 8, bar.label, "middle"))
    return _svg(name, height, shapes)


def rows(bars: Sequence[Bar], name: str, axis: Callable[[float], str]) -> str:
    """Stacked bars that lie, one row each, with their label to the left."""
    scale = ticks(max((bar.total for bar in bars), default=0.0))
    height = _TOP + _ROW * len(bars) + _BOTTOM
    left = 110
    inner = WIDTH - left - _RIGHT - 20
    shapes = _grid(scale, left, inner, height, axis)
    for number, bar in enumerate(bars):
        y = _TOP + _ROW * number + 3
        x = float(left)
        for style, value, title in bar.parts:
            wide = inner * value / scale[-1]
            if wide <= 0:
                continue
            shapes.append(_rect(style, (x, y, wide, _ROW - 6), title))
            x += wide
        shapes.append(_text(left - 8, y + 12, bar.label, "end"))
    return _svg(name, height, shapes)


def timeline(
    lines: Sequence[tuple[str, Sequence[Span]]], name: str, axis: Callable[[float], str]
) -> str:
    """Rows of spans on one scale from 0; later spans lie on earlier ones."""
    most = max((span.end for _, spans in lines for span in spans), default=0.0)
    scale = ticks(most)
    height = _TOP + _ROW * len(lines) + _BOTTOM
    left = 110
    inner = WIDTH - left - _RIGHT - 20
    shapes = _grid(scale, left, inner, height, axis)
    for number, (label, spans) in enumerate(lines):
        y = _TOP + _ROW * number + 3
        for span in spans:
            x = left + inner * span.begin / scale[-1]
            wide = max(1.0, inner * (span.end - span.begin) / scale[-1])
            shapes.append(_rect(span.style, (x, y, wide, _ROW - 6), span.title))
        shapes.append(_text(left - 8, y + 12, label, "end"))
    return _svg(name, height, shapes)


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Class and word."""
    items = "".join(
        f'<li><svg width="10" height="10" aria-hidden="true"><rect class="{escape(style)}" '
        f'width="10" height="10" rx="2"/></svg> {escape(word)}</li>'
        for style, word in names
    )
    return f'<ul class="legend">{items}</ul>'


def _axis(scale: Sequence[float], inner: int, axis: Callable[[float], str]) -> list[str]:
    shapes = []
    for value in scale:
        y = _TOP + inner * (1 - value / scale[-1])
        shapes.append(_line(_LEFT, y, WIDTH - _RIGHT, y))
        shapes.append(_text(_LEFT - 8, y + 4, axis(value), "end"))
    return shapes


def _grid(
    scale: Sequence[float], left: int, inner: int, height: int, axis: Callable[[float], str]
) -> list[str]:
    shapes = []
    for value in scale:
        x = left + inner * value / scale[-1]
        shapes.append(_line(x, _TOP, x, height - _BOTTOM))
        shapes.append(_text(x, height - 8, axis(value), "middle"))
    return shapes


def _svg(name: str, height: int, shapes: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
        + "".join(shapes)
        + "</svg>"
    )


def _rect(style: str, box: tuple[float, float, float, float], title: str) -> str:
    x, y, wide, tall = box
    return (
        f'<rect class="{escape(style)}" x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" '
        f'height="{_n(tall)}"><title>{escape(title)}</title></rect>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>'


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")
