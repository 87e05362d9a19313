"""Shapes, the calls of one verification, and the problems of each split.

A verification makes *checks* (small, odd shapes that no list names, untimed) and then *calls* (the problem's
own shapes, timed), each with data of its own. Half of the calls have a real mask and half a mask of ones; the
latter are what the published competition measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Split
from tasks.trimul.secret import secret
from tasks.trimul.settings import Device, Plan, settings


@dataclass(frozen=True)
class Shape:
    """x is (batch, n, n, dim); the contraction runs over `hidden` channels."""

    batch: int
    n: int
    dim: int
    hidden: int = 128

    @property
    def label(self) -> str:
        """For names of metrics."""
        return f"n{self.n}b{self.batch}d{self.dim}h{self.hidden}"


@dataclass(frozen=True)
class Case:
    """One line of a benchmark list."""

    shape: Shape
    cauchy: bool = False


@dataclass(frozen=True)
class Call:
    """One call of the candidate, on data that no other call has."""

    case: Case
    masked: bool
    """False: the mask is all ones."""
    seed: int
    timed: bool = True


OFFICIAL = (
    Case(Shape(2, 256, 128)),
    Case(Shape(1, 768, 128), cauchy=True),
    Case(Shape(2, 256, 384)),
    Case(Shape(1, 512, 128)),
    Case(Shape(1, 1024, 128), cauchy=True),
    Case(Shape(1, 768, 384)),
    Case(Shape(1, 1024, 384)),
)
"""The public benchmark list of the competition. Its third and sixth name a mask, which its harness loses."""

LARGE = (Case(Shape(1, 192, 128, 64)), Case(Shape(1, 256, 128, 128), cauchy=True))
"""For a CPU: several times the range of the embedded sizes, and ten times their cost."""
CI_SIZES = (32, 48)
REPEATS: dict[Plan, int] = {"embedded": 2, "large": 2, "ci": 4, "official": 3}
"""Timed calls of each case with either mask; short ones need more."""
WARM: dict[Device, int] = {"cpu": 3, "cuda": 1}
"""Unmeasured calls of each case beforehand: on a CPU the first two of a process are a tenth to a third slower."""
CHECKS = 4


@dataclass(frozen=True)
class Recipe:
    """Facts that a problem's data follow from. Never leaves the verifier."""

    device: Device
    plan: Plan
    split: Split
    number: int

    @property
    def id(self) -> str:
        """Names device and plan, as scores of two do not compare."""
        return f"{self.device}-{self.plan}-{self.split}-{self.number:02d}"

    @cached_property
    def seed(self) -> int:
        """Differs between any two problems, and between any two installations."""
        return derive_seed("trimul", settings()["seed"], secret(), self.id)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The timed shapes."""
        if self.plan in ("official", "large"):
            return tuple(_nudged(case, self.split) for case in (OFFICIAL if self.plan == "official" else LARGE))
        sizes = CI_SIZES if self.plan == "ci" else _numbers(f"cpu_{self.split}")
        n = sizes[self.number % len(sizes)]
        small = self.plan == "ci"
        dim, hidden = (32, 16) if small else (int(settings()["cpu_dim"]), int(settings()["cpu_hidden"]))
        return (Case(Shape(1, n, dim, hidden), cauchy=self.number % 2 == 1),)

    def checks(self) -> Iterator[Call]:
        """Untimed calls at shapes that follow from the seed alone, with real masks but for one."""
        random = np.random.default_rng(self.seed)
        for number in range(CHECKS):
            shape = Shape(
                int(random.integers(1, 3)),
                int(2 * random.integers(2, 17) + 1),
                int(8 * random.integers(2, 9)),
                int(8 * random.integers(1, 7)),
            )
            yield Call(Case(shape, cauchy=number % 2 == 1), number != 1, derive_seed(self.seed, number), timed=False)

    def calls(self) -> Iterator[Call]:
        """A few unmeasured calls of each case, then the timed ones, cases in turn, masks alternating."""
        for repeat in range(WARM[self.device]):
            for index, case in enumerate(self.cases):
                yield Call(case, repeat % 2 == 0, derive_seed(self.seed, "warm", index, repeat), timed=False)
        for repeat in range(2 * REPEATS[self.plan]):
            for index, case in enumerate(self.cases):
                yield Call(case, repeat % 2 == 0, derive_seed(self.seed, "timed", index, repeat))


def recipes(device: Device, plan: Plan, split: Split) -> list[Recipe]:
    """The problems of a split."""
    return [Recipe(device, plan, split, number) for number in range(int(settings()[f"problems_{split}"]))]


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, settings()[name].split()))


def _nudged(case: Case, split: Split) -> Case:
    """The public list for training; the same sizes less a few for the other splits, which no program can name."""
    less = {"train": 0, "gate": 8, "test": 16}[split]
    return replace(case, shape=replace(case.shape, n=case.shape.n - less))
