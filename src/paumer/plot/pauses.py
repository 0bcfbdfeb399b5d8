"""What paused where, and the entropies that decided it, for one or several images. Source: PAUMER, Fig. 1.

Knows nothing of how images are segmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paumer import visualize
from paumer.plot.style import INK, PAGE, add_footnote, hex_color, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paumer.prediction import PatchViews, Prediction

_CAPTION = 0.2  # inches above each picture
_SCALE = 0.7  # inches for the colour bar beside them


@style()
def draw_pauses(predictions: Sequence[Prediction], note: str = "") -> Figure:
    """Two rows for each image: itself and what paused up to each layer; its segmentation and the entropies there.

    All entropies share one scale from 0 to ln C nats. Without auxiliary heads there are none, and one row for an image.

    Args:
        predictions: at least one, all of one model and one pause configuration.
        note: begins the footnote, for conditions that predictions do not know.

    Raises:
        InputError: nothing pauses, or the images were segmented in windows or several views.
    """
    scored = _is_scored(predictions[0])
    panels = _new_panels(predictions, num_rows=2 if scored else 1)
    for one, rows in zip(predictions, panels, strict=True):
        _draw_paused(rows[0], one)
        if scored:
            _draw_entropy(rows[1], one)
    figure = panels.flat[0].figure
    if scored:
        _add_scale(figure, panels)
    _add_legend(figure, predictions[0])
    shares = "Shares are of all patches, up to that layer."
    add_footnote(figure, f"{note} Pause {predictions[0].pause}. {shares}".strip())
    return figure


def _is_scored(prediction: Prediction) -> bool:
    prediction.plot("paused")  # which tells what is wrong if nothing can be drawn
    return any(not np.isnan(values).all() for values in prediction.entropy.values())


def _patches(prediction: Prediction) -> PatchViews:
    assert prediction.patches is not None  # or it could not have been looked at
    return prediction.patches


def _new_panels(predictions: Sequence[Prediction], num_rows: int) -> NDArray:
    """(images, rows, columns) of axes, as high as the images need them to be."""
    columns = 1 + len(predictions[0].entropy)
    width = (PAGE - _SCALE) / columns
    heights = [width * one.image.shape[0] / one.image.shape[1] for one in predictions for _ in range(num_rows)]
    figure = new_figure(PAGE, sum(heights) + _CAPTION * (len(heights) + 2))
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    return axes.reshape(len(predictions), num_rows, columns)


def _draw_paused(row: Sequence[Axes], prediction: Prediction) -> None:
    patches = _patches(prediction)
    _show(row[0], "input", prediction.image)
    for axes, layer in zip(row[1:], prediction.entropy, strict=True):
        share = 100 * patches.paused_share(layer)
        _show(axes, f"layer {layer}: {share:.0f} % paused", prediction.plot("paused", layer=layer))


def _draw_entropy(row: Sequence[Axes], prediction: Prediction) -> None:
    patches = _patches(prediction)
    (height, width), side = patches.size, patches.patch_size
    _show(row[0], "segmentation", prediction.plot("mask"))
    for axes, (layer, values) in zip(row[1:], prediction.entropy.items(), strict=True):
        h, w = values.shape
        place = {"extent": (0, w * side, h * side, 0)}
        _show(axes, f"layer {layer}: entropy", values, **place, **_heat(prediction.num_classes))
        axes.set(xlim=(0, width), ylim=(height, 0))  # patches may reach beyond the image


def _heat(num_classes: int) -> dict[str, Any]:
    """Colours and limits of entropies, the same as in all pictures of the package."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = [hex_color(color) for _, color in visualize.entropy_entries(num_classes, steps=64)]
    ramp = LinearSegmentedColormap.from_list("entropy", colors)
    return {"cmap": ramp.with_extremes(bad=hex_color(visualize.UNKNOWN)), "vmin": 0, "vmax": log(num_classes)}


def _show(axes: Axes, caption: str, picture: Any, **options: Any) -> None:
    axes.imshow(picture, interpolation="nearest" if options else "antialiased", **options)
    axes.set_title(caption, pad=3)
    axes.set_axis_off()


def _add_scale(figure: Figure, panels: NDArray) -> None:
    lowest = panels[-1, -1, -1]
    bar = figure.colorbar(lowest.images[0], ax=panels.ravel().tolist(), aspect=30, pad=0.01)
    bar.set_label("entropy (nats)")
    bar.outline.set_visible(False)


def _add_legend(figure: Figure, prediction: Prediction) -> None:
    from matplotlib.patches import Patch

    colors = visualize.layer_colors(tuple(prediction.entropy))
    entries = [(color, f"paused after layer {layer}") for layer, color in colors.items()]
    if _is_scored(prediction) and len(colors) > 1:
        entries.append((visualize.UNKNOWN, "paused before"))
    boxes = [Patch(facecolor=hex_color(color), edgecolor=INK, lw=0.4, label=label) for color, label in entries]
    figure.legend(handles=boxes, loc="outside upper center", ncols=5, handlelength=1.2, columnspacing=1.5)
