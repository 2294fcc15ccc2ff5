"""Rows of seconds, the ratios between them that matter, and the goals for those.

Pure: what `cold_warm.py` measured goes in, text and plain values come out.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

Row = Literal[
    "plain cold",
    "burst cold",
    "sccache cold",
    "floor warm",
    "burst warm",
    "burst warm, daemon not running",
    "sccache warm",
]
Seconds = Mapping[Row, Sequence[float]]


@attrs.frozen
class Goal:
    """`numerator / denominator` is to be at most, or at least, `bound`."""

    numerator: Row
    denominator: Row
    bound: float
    is_upper: bool

    def is_met(self, ratio: float) -> bool:
        """Whether a measured ratio is on the right side."""
        return ratio <= self.bound if self.is_upper else ratio >= self.bound

    def __str__(self) -> str:
        return f"{self.numerator} / {self.denominator}"


GOALS = (
    Goal("burst cold", "plain cold", 1.10, is_upper=True),
    Goal("sccache warm", "burst warm", 5.0, is_upper=False),
    Goal("burst warm", "floor warm", 2.0, is_upper=True),
)
# No goals of ours, but without them the others cannot be judged.
CONTEXT: tuple[tuple[Row, Row], ...] = (
    ("sccache cold", "plain cold"),
    ("sccache warm", "plain cold"),
    ("burst warm", "plain cold"),
    ("floor warm", "plain cold"),
)


@attrs.frozen
class Ratio:
    """A goal with what was measured: of the medians, and the least and greatest of one round."""

    goal: Goal
    of_medians: float
    least: float
    greatest: float

    @property
    def is_met(self) -> bool:
        """Judged by the medians: one bad round on a busy machine is no verdict."""
        return self.goal.is_met(self.of_medians)


def ratio(goal: Goal, seconds: Seconds) -> Ratio | None:
    """The measured ratio, or None if one of its rows was not measured.

    Rounds are paired, because what ran side by side met the same machine.
    """
    above, below = seconds.get(goal.numerator, ()), seconds.get(goal.denominator, ())
    if not above or not below:
        return None
    paired = [one / other for one, other in zip(above, below, strict=False)]
    of_medians = statistics.median(above) / statistics.median(below)
    return Ratio(goal, of_medians, min(paired), max(paired))


def table(seconds: Seconds) -> str:
    """One line per row: least, median and greatest seconds and the number of rounds."""
    lines = [f"{'seconds':32}{'min':>9}{'median':>9}{'max':>9}{'rounds':>8}"]
    lines += [
        f"{row:32}{min(values):9.2f}{statistics.median(values):9.2f}{max(values):9.2f}"
        f"{len(values):8}"
        for row, values in seconds.items()
        if values
    ]
    return "\n".join(lines)


def verdicts(seconds: Seconds) -> str:
    """One line per goal that could be judged, then the ratios without a goal."""
    lines = [f"{'ratio of medians':44}{'measured':>9}{'rounds':>14}  goal"]
    for goal in GOALS:
        measured = ratio(goal, seconds)
        if measured is None:
            lines.append(f"{goal!s:44}{'-':>9}{'':14}  not measured")
            continue
        spread = f"{measured.least:.2f}-{measured.greatest:.2f}"
        bound = f"{'<=' if goal.is_upper else '>='} {goal.bound:g}"
        word = "met" if measured.is_met else "MISSED"
        lines.append(f"{goal!s:44}{measured.of_medians:9.2f}{spread:>14}  {bound} {word}")
    for above, below in CONTEXT:
        measured = ratio(Goal(above, below, 0.0, is_upper=False), seconds)
        if measured is not None:
            spread = f"{measured.least:.2f}-{measured.greatest:.2f}"
            lines.append(f"{measured.goal!s:44}{measured.of_medians:9.2f}{spread:>14}")
    return "\n".join(lines)


def summary(seconds: Seconds) -> dict[str, object]:
    """The same as plain values, for a JSON file."""
    measured = [found for goal in GOALS if (found := ratio(goal, seconds)) is not None]
    return {
        "seconds": {row: list(values) for row, values in seconds.items() if values},
        "ratios": [
            {
                "ratio": str(found.goal),
                "of_medians": round(found.of_medians, 4),
                "least": round(found.least, 4),
                "greatest": round(found.greatest, 4),
                "goal": found.goal.bound,
                "is_upper": found.goal.is_upper,
                "is_met": found.is_met,
            }
            for found in measured
        ],
    }
