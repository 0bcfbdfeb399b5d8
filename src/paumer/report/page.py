"""The page of a sweep: one HTML file that needs nothing else, put together from its parts.

Knows nothing of how pictures and drawings are made. What comes from files is escaped wherever it goes into the page.
The template is ``page.html`` beside this module.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from paumer.files import write_text
from paumer.front import skyline
from paumer.metrics import MIOU_CONVENTION
from paumer.pause import NO_PAUSE
from paumer.report.chart import LAYOUTS, Mark, draw_chart, draw_shape
from paumer.report.examples import Example
from paumer.report.results import DROPS, MINUS, Results, Row, describe_device, read_results, signed, three_digits
from paumer.report.slider import slider_section
from paumer.report.tables import class_losses, class_note, class_table, columns, configuration_table
from paumer.sweep_folder import SweepFolder
from paumer.visualize import Rgb

MAX_BYTES = 10_000_000  # a larger page takes long to open on a phone
_MANY = 16  # configurations beyond which the classes are shown for the front alone, until asked for all

_DEFINITIONS = {
    "speed-up": "time of the unpaused model over the configuration's own, round by round, both timed in turns in one "
    "process; the median, with the quartiles in brackets. Within noise: closer to 1 than the quartiles to each other",
    "images/s": "the unpaused model's median over the whole sweep, times the speed-up, so that configurations timed at "
    "different moments compare",
    "front": "the configurations that no other beats in both speed and mIoU",
    "knee": "the point of the front that lies highest above the straight line between its ends",
}

log = logging.getLogger(__name__)


def write_report(
    folder: SweepFolder | str | Path, path: str | Path, examples: Sequence[Example] = (), *, command: str | None = None
) -> int:
    """Writes the page of a sweep to ``path`` and returns its size in bytes. The same input gives the same bytes.

    Args:
        examples: images for the slider, all at the same configurations (see :func:`segment_examples`).
        command: how to write the page again, as the page tells it; by default without examples.

    Raises:
        InputError: no sweep in the folder, nothing timed and scored in it, a file of it that was cut short, examples of
            something that was not timed, or nowhere to write.
    """
    folder = folder if isinstance(folder, SweepFolder) else SweepFolder(folder)
    results = read_results(folder)
    command = command or shlex.join(["paumer", "report", str(folder.path), "--out", str(path)])
    page = make_page(results, examples, [_sweep_command(folder, results), command])
    write_text(path, page)
    size = len(page.encode())
    if size > MAX_BYTES:
        log.warning("%s has %.1f MB: fewer or smaller example images make it open faster", path, size / 1e6)
    return size


def make_page(results: Results, examples: Sequence[Example], commands: Sequence[str]) -> str:
    """The HTML of the page."""
    section, data = slider_section(results, examples)
    title = f"{_model_name(results)} on {results.info['data']} {results.info['split']}: speed against mIoU"
    template = Template(resources.files("paumer.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        lead=_lead(results),
        cards=_cards(results),
        charts=_charts(results),
        greedy=_greedy(results),
        columns=_definitions({column.title: column.meaning for column in columns(results)}),
        configurations=configuration_table(results),
        classes=_classes(results),
        examples=section,
        conditions=_definitions(_conditions(results)),
        definitions=_definitions({"mIoU": MIOU_CONVENTION.removeprefix("mIoU: "), **_DEFINITIONS}),
        commands=escape("\n".join(commands)),
        data=_json(data),
    )


def _json(values: Any) -> str:
    """JSON for a ``<script>``: no ``<`` in it, so that no text can end the element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _sweep_command(folder: SweepFolder, results: Results) -> str:
    info = results.info
    words = ["paumer", "sweep", info["model"], "--data", info["data"], "--split", info["split"], "--out", folder.path]
    return shlex.join(map(str, words))


def _model_name(results: Results) -> str:
    """What the model's folder is called; of a training's ``best`` and ``last`` with the run they are of."""
    path = Path(results.info["model"])
    return "/".join(path.parts[-2:]) if path.name in ("best", "last") else path.name


# --- in words ---------------------------------------------------------------------------------------------------------


def _lead(results: Results) -> str:
    """The headline in two sentences."""
    row, name, images = results.unpaused, escape(_model_name(results)), escape(results.scored_on(results.subset))
    device = escape(describe_device(results.info))
    if row is None:
        return f"{name} on {images}; {device}. The unpaused model was not scored, so that no losses are known."
    return (
        f"Without pausing, {name} reaches <b>{row.miou:.2f}</b> mIoU on {images} and segments "
        f"<b>{three_digits(row.point.images_per_second)}</b> images/s ({device}). {_gains(results)}"
    )


def _gains(results: Results) -> str:
    found = [(row.times, drop) for drop in DROPS if (row := results.within(drop)) and row.pause != NO_PAUSE]
    if not found:
        return f"Nothing faster was scored that loses at most {DROPS[-1]:g} points of mIoU."
    gains = ", ".join(f"<b>{times}</b> for up to {drop:g}" for times, drop in found)
    return (
        f"Pausing patches brings a speed-up of {gains} points of mIoU; the knee of the front is {_named(results.knee)}."
    )


def _named(row: Row) -> str:
    change = "" if row.change is None else f", {signed(row.change)} mIoU"
    return f"<code>{row.pause}</code> ({row.times}{change})"


def _cards(results: Results) -> str:
    """The headline numbers; none where there is no choice."""
    if len(results.points(results.subset)) == 1:
        return ""
    found = [
        (f"fastest within {drop:g} point{'' if drop == 1 else 's'} of mIoU", results.within(drop)) for drop in DROPS
    ]
    cards = "".join(_card(title, row) for title, row in [*found, ("knee of the front", results.knee)] if row)
    return f'<ul class="cards">\n{cards}</ul>'


def _card(title: str, row: Row) -> str:
    spread = f"quartiles {row.quartiles}{', within noise' if row.in_noise else ''}" if row.quartiles else ""
    loss = "" if row.change is None else f"{signed(row.change)} mIoU, "
    return (
        f'<li><span class="what">{title}</span> <b>{row.times}</b> <code>{row.pause}</code> '
        f"<small>{loss}{three_digits(row.point.images_per_second)} images/s</small> <small>{spread}</small></li>\n"
    )


def _greedy(results: Results) -> str:
    """How the greedy search went, a line for each stage."""
    lines = [
        f"<li>{len(stage['candidates'])} candidates after <code>{escape(stage['fixed'])}</code>: "
        + (f"<code>{escape(stage['chosen'])}</code>" if stage["chosen"] else "no gain, the search ends")
        + "</li>\n"
        for stage in results.greedy
    ]
    return f"<h3>Greedy search, layer by layer</h3>\n<ol>\n{''.join(lines)}</ol>" if lines else ""


def _definitions(entries: dict[str, str]) -> str:
    return "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in entries.items())


def _conditions(results: Results) -> dict[str, str]:
    """Everything that the sweep says of itself, one text for each entry."""
    height, width = results.info["image_size"]
    left_out = ("format", "names", "palette")
    texts = {key.replace("_", " "): _plain(value) for key, value in results.info.items() if key not in left_out}
    return {**texts, "image size": f"{width}x{height} pixels"}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(own)}" for key, own in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value)


# --- drawings and tables ----------------------------------------------------------------------------------------------


def _subsets(results: Results) -> list[str]:
    """What there is a chart for: the search's own where it covers more configurations than were scored on all."""
    more = len(results.points("search")) > len(results.points(results.subset))
    return [results.subset, *(["search"] if results.subset == "all" and more else [])]


def _charts(results: Results) -> str:
    return "".join(_chart(results, subset) for subset in _subsets(results)) + _legend()


def _chart(results: Results, subset: str) -> str:
    front = {point.pause for point in skyline(results.points(subset))}
    marks = [
        _mark(results, index, row, subset, row.pause in front)
        for index, row in enumerate(results.rows)
        if row.point.miou(subset) is not None
    ]
    unit = marks[0].x / results.rows[marks[0].index].point.speedup
    drawings = [draw_chart(marks, "images per second", "mIoU in per cent", unit, layout) for layout in LAYOUTS]
    caption = f"mIoU on {results.scored_on(subset)}; times of {describe_device(results.info)}"
    return f'<figure class="drawing">\n<figcaption>{escape(caption)}</figcaption>\n{"".join(drawings)}\n</figure>\n'


def _mark(results: Results, index: int, row: Row, subset: str, on_front: bool) -> Mark:
    point = row.point
    unit = point.images_per_second / point.speedup
    miou = point.miou(subset)
    assert miou is not None
    return Mark(
        index,
        str(row.pause),
        "\n".join([str(row.pause), *results.facts(row, subset), "on the front" if on_front else "not on the front"]),
        point.images_per_second,
        unit * point.speedup_low,
        unit * point.speedup_high,
        miou,
        "unpaused" if row.pause == NO_PAUSE else "paper" if row.in_paper else "other",
        on_front,
    )


def _legend() -> str:
    entries = [
        (draw_shape("unpaused", True), "unpaused"),
        (draw_shape("paper", True), "Table 1 of the paper"),
        (draw_shape("other", True), "other configuration"),
        (draw_shape("other", False), "hollow: not on the front"),
    ]
    keys = "".join(f"<li>{shape}{escape(text)}</li>" for shape, text in entries)
    return f'<ul class="legend">{keys}<li>bars: quartiles of the speed-up</li></ul>'


def _classes(results: Results) -> str:
    losses = class_losses(results)
    if losses is None:
        return ""
    palette = dict(zip(results.info["names"], map(_rgb, results.info["palette"]), strict=True))
    checked = " checked" if len(losses.rows) > _MANY and losses.fastest.on_front else ""
    full = f"{losses.scale:.1f}"
    table = class_table(losses, palette)
    return f"""<section id="classes">
<h2>Who pays for the speed?</h2>
<p>{class_note(losses)}</p>
<p class="note">Points of IoU against not pausing, on {escape(results.scored_on(results.subset))}; the class that loses
most at that configuration comes first. Full colour from {full} points on:
<span class="ramp"><span>{MINUS}{full}</span><span>0</span><span>+{full}</span></span></p>
<input type="checkbox" class="front-only" id="classes-front"{checked}><label for="classes-front">front only</label>
<div class="scroll hug" tabindex="0" role="region" aria-label="changes of each class">{table}</div>
</section>
"""


def _rgb(color: Sequence[int]) -> Rgb:
    red, green, blue = map(int, color)
    return red, green, blue
