"""Where the public Segmenter code bases differ: one small table, so that weights of each origin compute what they did.

Knows nothing of modules. Sources: timm; rstrudel/segmenter (config.yml); mmsegmentation (segmenter_vit-b16_mask.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from paumer.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Preset:
    encoder_eps: float | None  # LayerNorm eps; None: as timm builds the backbone (1e-6)
    decoder_eps: float
    pos_embed: str | None  # how positions are resized, without antialiasing; None: timm's own (bicubic, antialiased)
    crop_logits: bool  # logits grow to the padded image and are cropped; else they are stretched to the image
    decoder_dropout: float
    decoder_drop_path: float  # of the last decoder layer, rising linearly from 0


PRESETS: dict[str, Preset] = {
    # timm leaves the decoder open; its regularisation is that of mmsegmentation, in which the paper was made.
    "timm": Preset(None, 1e-6, None, True, decoder_dropout=0.0, decoder_drop_path=0.1),
    "segmenter": Preset(1e-5, 1e-5, "bilinear", True, decoder_dropout=0.1, decoder_drop_path=0.0),
    "mmseg": Preset(1e-6, 1e-5, "bicubic", False, decoder_dropout=0.0, decoder_drop_path=0.1),
}


def get_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}': {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
