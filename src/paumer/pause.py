"""What to pause: pause configurations, token counts and the random draw of training. Pure Python.

Knows nothing of tensors. Source: PAUMER, section 2.2 and Table 1; `counts` explains rounding and "share of what".
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from paumer.errors import InputError


@dataclass(frozen=True)
class PauseConfig:
    """After which encoder layers patches pause, and which share of those still running.

    ``steps`` holds ``(layer, ratio)`` pairs in rising order of the layer. Layers count from 1 and mean "after block
    ``layer``"; ratios lie in [0, 1). A ratio of 0 scores the patches of that layer and pauses none of them.

    >>> str(PauseConfig.parse("5:0.4,3:.4"))
    '3:0.4,5:0.4'
    """

    steps: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        layers = [layer for layer, _ in self.steps]
        for layer, ratio in self.steps:
            if layer < 1:
                raise InputError(f"cannot pause after layer {layer}: layers count from 1")
            if not 0 <= ratio < 1:  # also refuses nan
                raise InputError(f"cannot pause a share of {ratio} after layer {layer}: a ratio lies in [0, 1)")
        for layer in layers:
            if layers.count(layer) > 1:
                raise InputError(f"layer {layer} is given twice: write each layer once, as in '3:0.4,5:0.4'")
        # Plain numbers, so that NumPy's print and parse back like any other.
        object.__setattr__(self, "steps", tuple(sorted((int(layer), float(ratio)) for layer, ratio in self.steps)))

    @classmethod
    def parse(cls, text: str | PauseConfig) -> PauseConfig:
        """``"none"`` or comma-separated ``layer:ratio`` pairs, as in ``"3:0.4,5:0.4"``.

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
        return ",".join(f"{layer}:{ratio!r}" for layer, ratio in self.steps) or "none"

    def counts(self, num_tokens: int, depth: int) -> dict[int, int]:
        """``{layer: number of tokens to pause}`` for ``num_tokens`` patches and an encoder of ``depth`` layers.

        Each ratio is a share of the tokens *still running* when the layer is reached (0.4 at three layers would exceed
        all tokens otherwise) and is rounded down; at least one token always runs on. This is the only place where a
        ratio becomes a number: training, evaluation, export and the FLOP formula all call it.
        """
        counts: dict[int, int] = {}
        running = num_tokens
        for layer, ratio in self.steps:
            if layer > depth:
                raise InputError(f"cannot pause after layer {layer}: this encoder has layers 1..{depth}")
            # 0.29 * 100 is 28.999999999999996: the floor is meant of the decimal number that was written.
            counts[layer] = min(int(ratio * running + 1e-9), running - 1)
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


def _parse_step(part: str, whole: str) -> tuple[int, float]:
    layer, colon, ratio = part.partition(":")
    try:
        if not colon:
            raise ValueError
        step = int(layer), float(ratio)
    except ValueError:
        raise InputError(
            f"cannot read '{part.strip()}' in the pause configuration '{whole}': "
            "write layer:ratio, as in '5:0.6', several with commas, or 'none'"
        ) from None
    return step


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
