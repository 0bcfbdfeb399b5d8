"""What to pause: pause configurations, token counts and the random draw of training. Pure Python.

Knows nothing of tensors. Source: PAUMER, section 2.2 and Table 1; `num_to_pause` explains rounding and "share of what".
Budgets that follow the image (`BatchShare`, `Threshold`) are our own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite

from paumer.errors import InputError

DEFAULT_BOUNDS = (0.0, 0.9)


@dataclass(frozen=True)
class BatchShare:
    """A share of the tokens of a whole batch, ``0.6@batch``: hard images keep more of them, easy ones fewer.

    ``ratio`` of all tokens still running pause, those with the lowest scores of the batch; in each image between
    ``low`` and ``high`` of its own. The work of a batch is fixed; what pauses in an image depends on its batch mates.
    """

    ratio: float
    low: float = DEFAULT_BOUNDS[0]
    high: float = DEFAULT_BOUNDS[1]

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_bounds(self)
        if not self.low <= self.ratio <= self.high:  # also refuses nan
            raise InputError(
                f"a share of {self.ratio} of the batch lies outside {self.low}-{self.high}, the shares that may pause "
                f"in each image: write the bounds that you want, as in '5:0.6@batch[0.1-0.95]'"
            )

    def __str__(self) -> str:
        return f"{self.ratio!r}@batch{_bounds_text(self.low, self.high)}"


@dataclass(frozen=True)
class Threshold:
    """All tokens with an entropy below so many nats, ``0.3nats``: as many as the image has.

    In each image at least a share ``low`` and at most a share ``high`` of its tokens still running pause, those with
    the lowest scores. An image's result does not depend on its batch mates.
    """

    nats: float
    low: float = DEFAULT_BOUNDS[0]
    high: float = DEFAULT_BOUNDS[1]

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_bounds(self)
        if not (isfinite(self.nats) and self.nats >= 0):
            raise InputError(f"a threshold is an entropy of 0 nats or more, got {self.nats}")

    def __str__(self) -> str:
        return f"{self.nats!r}nats{_bounds_text(self.low, self.high)}"


Budget = BatchShare | Threshold
# How much pauses after a layer: a share of each image's tokens still running, or a budget that follows the image.
Amount = float | Budget


def _make_plain(amount: Budget) -> None:
    """NumPy's numbers print and parse back like any other only as Python's own."""
    for field in fields(amount):
        object.__setattr__(amount, field.name, float(getattr(amount, field.name)))


def _check_bounds(amount: Budget) -> None:
    if not 0 <= amount.low <= amount.high < 1:  # also refuses nan
        kind = "0.6@batch" if isinstance(amount, BatchShare) else "0.3nats"
        raise InputError(
            f"bounds of what pauses in an image are shares with 0 <= low <= high < 1, got {amount.low}-{amount.high}: "
            f"write for example '5:{kind}[0.1-0.8]'"
        )


def _bounds_text(low: float, high: float) -> str:
    return "" if (low, high) == DEFAULT_BOUNDS else f"[{low!r}-{high!r}]"


def num_to_pause(ratio: float, num_running: int) -> int:
    """How many of ``num_running`` tokens a share of ``ratio`` is.

    Each ratio is a share of the tokens *still running* when the layer is reached (0.4 at three layers would exceed all
    tokens otherwise) and is rounded down; at least one token always runs on. This is the only place where a ratio
    becomes a number: training, evaluation, export and the FLOP formula all come here.
    """
    # 0.29 * 100 is 28.999999999999996: the floor is meant of the decimal number that was written.
    return min(int(ratio * num_running + 1e-9), num_running - 1)


@dataclass(frozen=True)
class PauseConfig:
    """After which encoder layers patches pause, and how many of those still running.

    ``steps`` holds ``(layer, amount)`` pairs in rising order of the layer. Layers count from 1 and mean "after block
    ``layer``"; an amount is a ratio in [0, 1), a :class:`BatchShare` or a :class:`Threshold`. A ratio of 0 scores the
    patches of that layer and pauses none of them.

    >>> str(PauseConfig.parse("5:0.4,3:.4"))
    '3:0.4,5:0.4'
    >>> PauseConfig.parse("5:0.3nats[0.1-0.8]").steps
    ((5, Threshold(nats=0.3, low=0.1, high=0.8)),)
    """

    steps: tuple[tuple[int, Amount], ...] = ()

    def __post_init__(self) -> None:
        layers = [layer for layer, _ in self.steps]
        for layer, amount in self.steps:
            if layer < 1:
                raise InputError(f"cannot pause after layer {layer}: layers count from 1")
            if not isinstance(amount, Budget) and not 0 <= amount < 1:  # also refuses nan
                raise InputError(f"cannot pause a share of {amount} after layer {layer}: a ratio lies in [0, 1)")
        for layer in layers:
            if layers.count(layer) > 1:
                raise InputError(f"layer {layer} is given twice: write each layer once, as in '3:0.4,5:0.4'")
        # Plain numbers, so that NumPy's print and parse back like any other.
        steps = ((int(layer), amount if isinstance(amount, Budget) else float(amount)) for layer, amount in self.steps)
        object.__setattr__(self, "steps", tuple(sorted(steps, key=lambda step: step[0])))

    @classmethod
    def parse(cls, text: str | PauseConfig) -> PauseConfig:
        """``"none"`` or comma-separated steps: ``"3:0.4,5:0.4"``, ``"5:0.6@batch"``, ``"5:0.3nats[0.1-0.8]"``.

        Raises:
            InputError: not such a text, a ratio outside [0, 1), a layer given twice.
        """
        if isinstance(text, PauseConfig):
            return text
        if not isinstance(text, str):
            # YAML 1.1 reads a bare 3:0.4 as the base-60 number 180.4.
            raise InputError(
                f'a pause configuration is a text, got the number {text}: put it in quotes, as in "3:0.4"'
                if isinstance(text, int | float)
                else f"a pause configuration is a text such as '3:0.4,5:0.4' or 'none', got {text!r}"
            )
        if text.strip().lower() == "none":
            return NO_PAUSE
        return cls(tuple(_parse_step(part, text) for part in text.split(",")))

    def __str__(self) -> str:
        # A float's text is its repr: both give the shortest that reads back the same.
        return ",".join(f"{layer}:{amount}" for layer, amount in self.steps) or "none"

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(layer for layer, _ in self.steps)

    @property
    def is_adaptive(self) -> bool:
        """Whether the number of paused tokens follows the image."""
        return any(isinstance(amount, Budget) for _, amount in self.steps)

    @property
    def depends_on_batch(self) -> bool:
        """Whether what pauses in an image depends on its batch mates."""
        return any(isinstance(amount, BatchShare) for _, amount in self.steps)

    def check_depth(self, depth: int) -> None:
        """Raises :class:`InputError` for a layer that an encoder of ``depth`` layers does not have."""
        for layer in self.layers:
            if layer > depth:
                raise InputError(f"cannot pause after layer {layer}: this encoder has layers 1..{depth}")

    def check_criterion(self, criterion: str) -> None:
        """Raises :class:`InputError` for a threshold in nats where another criterion than the entropy ranks."""
        if criterion != "entropy" and any(isinstance(amount, Threshold) for _, amount in self.steps):
            raise InputError(
                f"'{self}' compares entropies with a threshold in nats: "
                f"take the criterion 'entropy' in place of '{criterion}'"
            )

    def counts(self, num_tokens: int, depth: int) -> dict[int, int]:
        """``{layer: number of tokens to pause}`` for ``num_tokens`` patches and an encoder of ``depth`` layers.

        See :func:`num_to_pause` for the rounding.

        Raises:
            InputError: a layer beyond ``depth``; a number that follows the image.
        """
        self.check_depth(depth)
        if self.is_adaptive:
            raise InputError(f"how many tokens pause with '{self}' follows the image: only a run can tell")
        return self.counts_ahead(num_tokens)

    def counts_ahead(self, num_tokens: int) -> dict[int, int]:
        """As :meth:`counts`, up to the first layer whose number follows the image."""
        counts: dict[int, int] = {}
        running = num_tokens
        for layer, amount in self.steps:
            if isinstance(amount, Budget):
                break
            counts[layer] = num_to_pause(amount, running)
            running -= counts[layer]
        return counts

    def num_running(self, num_tokens: int, depth: int) -> list[int]:
        """Tokens that each of the ``depth`` layers processes, prefix tokens not counted."""
        counts = self.counts(num_tokens, depth)
        running, per_layer = num_tokens, []
        for layer in range(1, depth + 1):
            per_layer.append(running)
            running -= counts.get(layer, 0)
        return per_layer


_NUMBER = r"([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)"
_BUDGET = re.compile(rf"{_NUMBER}(@batch|nats)(?:\[{_NUMBER}-{_NUMBER}\])?")


def _parse_step(part: str, whole: str) -> tuple[int, Amount]:
    layer, colon, text = part.partition(":")
    budget = _BUDGET.fullmatch(text.strip())
    try:
        if not colon:
            raise ValueError
        number = int(layer)
        amount = None if budget else float(text)
    except ValueError:
        raise InputError(
            f"cannot read '{part.strip()}' in the pause configuration '{whole}': write layer:ratio, as in '5:0.6', "
            "several with commas, '5:0.6@batch', '5:0.3nats[0.1-0.8]', or 'none'"
        ) from None
    if budget is None:
        assert amount is not None
        return number, amount
    value, unit, low, high = budget.groups()
    bounds = DEFAULT_BOUNDS if low is None else (float(low), float(high))
    kind = BatchShare if unit == "@batch" else Threshold
    return number, kind(float(value), *bounds)


NO_PAUSE = PauseConfig()

# Table 1 of the paper, column by column.
PAPER_CONFIGS: tuple[PauseConfig, ...] = tuple(
    PauseConfig.parse(text)
    for text in (
        "3:0.2",
        "3:0.4",
        "3:0.6",
        "5:0.2",
        "5:0.4",
        "5:0.6",
        "5:0.8",
        "3:0.2,5:0.2",
        "3:0.3,5:0.3",
        "3:0.4,5:0.4",
        "3:0.2,5:0.2,7:0.2",
        "3:0.3,5:0.3,7:0.3",
        "3:0.4,5:0.4,7:0.4",
    )
)


def parse_pauses(texts: Iterable[str | PauseConfig]) -> list[PauseConfig]:
    """Several configurations in the order given, without repeats; ``"@paper"`` stands for the 13 of Table 1."""
    if isinstance(texts, str):
        texts = [texts]
    pauses: list[PauseConfig] = []
    for text in texts:
        if isinstance(text, str) and text.startswith("@"):
            if text != "@paper":
                raise InputError(f"unknown group of pause configurations '{text}': known is @paper (Table 1)")
            pauses += PAPER_CONFIGS
        else:
            pauses.append(PauseConfig.parse(text))
    return list(dict.fromkeys(pauses))


@dataclass(frozen=True)
class RandomPause:
    """Training draw (section 2.2): one layer l ~ U{layers} and one ratio ~ U[low, high] per step.

    A function of ``(seed, step)`` alone, so that every rank draws alike and a resumed run draws as the first one did.
    """

    layers: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 9)
    ratios: tuple[float, float] = (0.2, 0.8)
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.ratios
        if not self.layers or min(self.layers) < 1:
            raise InputError(f"pause layers to draw from must count from 1, got {list(self.layers)}")
        if not 0 <= low <= high < 1:
            raise InputError(f"the range of pause ratios must satisfy 0 <= low <= high < 1, got {list(self.ratios)}")

    def draw(self, step: int) -> PauseConfig:
        # A text seed goes through SHA-512, so neighbouring steps are unrelated; hash() would differ per process.
        rng = random.Random(f"pause {self.seed} {step}")
        return PauseConfig(((rng.choice(self.layers), rng.uniform(*self.ratios)),))
