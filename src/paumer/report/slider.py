"""The examples of a report as HTML: panels for each image, and a slider over the configurations.

Knows nothing of how images are segmented. The photo of an image is in the page once, as a CSS variable that all of its
panels use; a stop of the slider only exchanges the layers over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from paumer.errors import InputError
from paumer.pause import PauseConfig
from paumer.report.examples import CHANGED, OUTCOMES, Example, View, label_view, pausing_colors, photo, views
from paumer.report.results import Results
from paumer.report.tables import swatch
from paumer.visualize import Rgb

Stop = dict[str, View]  # {panel: what it shows}

_TITLES = {
    "input": "input",
    "label": "label",
    "segmentation": "segmentation",
    "paused": "paused patches",
    "changed": "differs from unpaused",
    "wrong": "wrong pixels",
}


def slider_section(results: Results, examples: Sequence[Example]) -> tuple[str, dict[str, Any]]:
    """The section, standing at the knee of the front, and what the script needs to move on from there.

    Without examples there is no section, and the script finds no stops.
    """
    if not examples:
        return "", {"stops": [], "examples": []}
    pauses = _shared_pauses(results, examples)
    colors = pausing_colors(examples)
    stops = [[views(example, prediction, colors) for prediction in example.predictions] for example in examples]
    texts = [" · ".join([str(pause), *results.facts(results.row(pause), results.subset)]) for pause in pauses]
    start = pauses.index(results.knee.pause) if results.knee.pause in pauses else len(pauses) - 1
    articles = [_article(example, own[start]) for example, own in zip(examples, stops, strict=True)]
    html = f"""<section id="examples">
<h2>What it looks like</h2>
{_keys(examples, colors)}
<div class="slider"><label for="stop">configuration, from slow to fast</label>
<input type="range" id="stop" min="0" max="{len(pauses) - 1}" step="1" value="{start}">
<output for="stop" id="shown">{escape(texts[start])}</output></div>
{"".join(articles)}</section>
"""
    return html, {"stops": _stops(results, pauses, texts), "examples": [_pictures(own) for own in stops]}


def _shared_pauses(results: Results, examples: Sequence[Example]) -> tuple[PauseConfig, ...]:
    pauses = examples[0].pauses
    if any(example.pauses != pauses for example in examples):
        raise InputError("the examples of a page share a slider: segment all of them at the same configurations")
    known = {row.pause for row in results.rows}
    for pause in pauses:
        if pause not in known:
            raise InputError(f"the examples show {pause}, which this sweep did not time: take example_pauses(folder)")
    return pauses


def _stops(results: Results, pauses: Sequence[PauseConfig], texts: Sequence[str]) -> list[dict[str, Any]]:
    places = {row.pause: index for index, row in enumerate(results.rows)}
    return [{"point": places[pause], "text": text} for pause, text in zip(pauses, texts, strict=True)]


def _pictures(stops: Sequence[Stop]) -> list[dict[str, tuple[str, str]]]:
    return [{name: (view.layer, view.note) for name, view in stop.items()} for stop in stops]


# --- panels -----------------------------------------------------------------------------------------------------------


def _article(example: Example, stop: Stop) -> str:
    height, width = example.unpaused.mask.shape
    panels: dict[str, View | None] = {"input": None}
    if example.label is not None:
        panels["label"] = label_view(example)
    panels.update(stop)
    style = f"--photo:url({photo(example.unpaused.image)});--shape:{width}/{height}"
    four = " four" if len(panels) == 4 else ""
    return (
        f'<article class="example" style="{style}">\n<h3>{escape(example.name)}</h3>\n<div class="views{four}">\n'
        + "".join(_panel(example.name, panel, view) for panel, view in panels.items())
        + "</div>\n</article>\n"
    )


def _panel(name: str, panel: str, view: View | None) -> str:
    layer = f'<img class="layer" alt="" src="{view.layer}">' if view else ""
    note = escape(view.note) if view else ""
    return (
        f'<figure data-view="{panel}"><div class="stack" role="img" aria-label="{_TITLES[panel]} of {escape(name)}">'
        f'{layer}</div><figcaption><b>{_TITLES[panel]}</b> <span class="says">{note}</span></figcaption></figure>\n'
    )


# --- what the colours mean --------------------------------------------------------------------------------------------


def _keys(examples: Sequence[Example], colors: dict[int, Rgb]) -> str:
    keys = _key("classes", _classes(examples)) + _key("paused", {f"after layer {i}": rgb for i, rgb in colors.items()})
    keys += _key(_TITLES["changed"], {"another class than without pausing": CHANGED})
    labelled = any(example.label is not None for example in examples)
    return keys + (_key(_TITLES["wrong"], OUTCOMES) if labelled else "")


def _key(title: str, entries: dict[str, Rgb]) -> str:
    items = "".join(f"<li>{swatch(color)}{escape(name)}</li>" for name, color in entries.items())
    return f'<ul class="legend"><li><b>{title}</b></li>{items}</ul>\n' if entries else ""


def _classes(examples: Sequence[Example]) -> dict[str, Rgb]:
    """The classes that any mask or label of the examples holds, in the model's order."""
    first = examples[0].unpaused
    arrays = [prediction.mask for example in examples for prediction in example.predictions]
    arrays += [example.label for example in examples if example.label is not None]
    found = np.unique(np.concatenate([np.unique(ids) for ids in arrays]))
    return {first.names[i]: first.palette[i] for i in found.tolist() if i < first.num_classes}
