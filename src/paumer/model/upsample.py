"""The class of each pixel from the logits of each patch, without writing out logits for all pixels.

Knows nothing of how the logits were made. Bilinear interpolation mixes the logits of the four patches around a pixel.
Where one class leads in all four, it leads in every mixture of them: only the cells between patches whose classes
differ are interpolated, some at a time, and nothing as large as (C, H, W) is ever written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers in one bunch of interpolated cells: few enough that they stay in a CPU's cache, enough to keep a GPU busy.
_BUNCH = {"cpu": 2**18}
_BUNCH_ELSEWHERE = 2**25


def upsampled_argmax(logits: Tensor, scale: tuple[int, int]) -> Tensor:
    """argmax over the classes of the bilinearly enlarged logits: (B, C, h, w) -> (B, h * scale, w * scale) int64.

    Equals ``F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False).argmax(1)`` but for
    pixels whose two best classes differ by no more than rounding does.
    """
    batch_size, num_classes, h, w = logits.shape
    sy, sx = scale
    # Cell (i, j) lies between the middles of the patches (i - 1, j - 1), (i - 1, j), (i, j - 1), (i, j); at the border
    # the outermost patches count twice, as interpolation repeats them.
    best = F.pad(logits.argmax(dim=1, keepdim=True).float(), (1, 1, 1, 1), mode="replicate")[:, 0].long()
    same = (best[:, :-1, :-1] == best[:, :-1, 1:]) & (best[:, :-1, :-1] == best[:, 1:, :-1])
    same &= best[:, :-1, :-1] == best[:, 1:, 1:]  # (B, h + 1, w + 1)
    labels = best[:, :-1, :-1].repeat_interleave(sy, dim=1).repeat_interleave(sx, dim=2)
    cells = labels.view(batch_size, h + 1, sy, w + 1, sx)
    mixed = (~same).nonzero()  # (M, 3): image, row, column
    weights = torch.einsum("ay,bx->yxab", _corner_weights(sy, logits), _corner_weights(sx, logits)).reshape(-1, 4)
    corners = F.pad(logits, (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1).contiguous()  # (B, h + 2, w + 2, C)
    bunch = max(_BUNCH.get(logits.device.type, _BUNCH_ELSEWHERE) // (sy * sx * num_classes), 1)
    for image, row, column in (part.unbind(1) for part in mixed.split(bunch)):
        around = torch.stack([corners[image, row + i, column + j] for i in (0, 1) for j in (0, 1)], dim=1)  # (m, 4, C)
        found = (weights @ around.float()).argmax(dim=2)  # (m, sy * sx)
        cells[image, row, :, column] = found.view(-1, sy, sx)
    top, left = sy // 2, sx // 2
    return labels[:, top : top + h * sy, left : left + w * sx]


def _corner_weights(scale: int, like: Tensor) -> Tensor:
    """(2, scale): how much the patch before and the one after a pixel count, along one axis of a cell."""
    # Pixels of a cell start half a patch after the middle of the patch before, or half a pixel later for odd scales.
    offset = torch.arange(scale, device=like.device) + (0.5 if scale % 2 == 0 else 1.0)
    after = offset / scale
    return torch.stack([1 - after, after])
