"""A measured figure, the goal beside it, and the table they make."""

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The options of every section. `work` is the temporary folder, the only place where anything is written."""

    work: Path
    rounds: int
    quick: bool
    seconds: float = 0.0  # of a comparison whose passes are short, at least
    device: str = "cpu"
    shape: str = "small"
    batch_seconds: float = 36.0
    peak_tflops: float | None = None


@dataclass(frozen=True)
class Figure:
    """One line of the table; a figure without a goal is there to be read beside the others."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal(self) -> str:
        """
        >>> Figure("padding factor", 1.0231, at_most=1.05).goal
        '<= 1.05'
        """
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def line(self) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"  {self.name:<58}{number(self.value):>9} {self.unit:<13}{self.goal:<9}{verdict}".rstrip()

    def as_dict(self, section: str) -> dict:
        return {"section": section, **asdict(self), "met": self.met}


def number(value: float) -> str:
    """Three digits or so.

    >>> number(0.0231), number(2.347), number(61.28), number(5123.4)
    ('0.023', '2.35', '61.3', '5123')
    """
    digits = 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
