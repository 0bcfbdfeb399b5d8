"""The tables of a report: every configuration with its numbers, and what each class gains or loses.

Knows nothing of files. Cells carry their exact value in ``data-value``, by which the page sorts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from paumer.pause import NO_PAUSE
from paumer.report.results import UNKNOWN, Results, Row, signed, three_digits
from paumer.visualize import Rgb


@dataclass(frozen=True)
class Column:
    """A column of numbers: what it is called, what it means, its value, and how that is written."""

    title: str
    meaning: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


COLUMNS = (
    Column(
        "images/s",
        "the unpaused model's rate times the speed-up",
        lambda row: row.point.images_per_second,
        three_digits,
    ),
    Column(
        "speed-up",
        "over not pausing: the median of the rounds, in brackets their quartiles",
        lambda row: row.point.speedup,
        "{:.2f}".format,
    ),
    Column(
        "GFLOP",
        "arithmetic of one image in 1e9 operations, attention included, two for each multiply-add",
        lambda row: row.point.gflops,
        "{:.2f}".format,
    ),
    Column("limit", "the speed-up if time went with arithmetic alone", lambda row: row.limit, "{:.2f}".format),
    Column("reached", "the speed-up as a share of that limit", lambda row: row.reached, _per_cent),
    Column("mIoU", "in per cent", lambda row: row.miou, "{:.2f}".format),
    Column("change", "mIoU points against not pausing", lambda row: row.change, signed),
)
SEARCH_COLUMN = Column(
    "search mIoU",
    "on the part of the split that the search was done on",
    lambda row: row.point.miou("search"),
    "{:.2f}".format,
)


def columns(results: Results) -> list[Column]:
    """The columns of a sweep: with the search's scores only where they are a second opinion."""
    both = results.subset == "all" and bool(results.points("search"))
    return [*COLUMNS, *([SEARCH_COLUMN] if both else [])]


def configuration_table(results: Results) -> str:
    """A ``<table>`` with one row for each configuration, from slow to fast."""
    shown = columns(results)
    # Rows come sorted by speed; the script takes it from there.
    titles = [
        f'<th scope="col" title="{escape(column.meaning)}"{_sorted(column)}>{column.title}</th>' for column in shown
    ]
    head = (
        '<th scope="col">pause</th>'
        + "".join(titles)
        + '<th scope="col" title="no other is faster and better">front</th>'
    )
    rows = [_configuration(index, row, shown) for index, row in enumerate(results.rows)]
    return f'<table id="configurations">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table>'


def _sorted(column: Column) -> str:
    return ' aria-sort="ascending"' if column.title == "images/s" else ""


def _configuration(index: int, row: Row, shown: Sequence[Column]) -> str:
    mark = ' <abbr title="one of the 13 configurations in Table 1 of the paper">T1</abbr>' if row.in_paper else ""
    front = '<span aria-hidden="true">●</span><span class="unseen">yes</span>' if row.on_front else ""
    cells = [
        f'<th scope="row" data-value="{row.pause}">{_code(row)}{mark}</th>',
        *(_cell(column.value(row), column.text, _noise(row) if column.title == "speed-up" else "") for column in shown),
        f'<td data-value="{int(row.on_front)}">{front}</td>',
    ]
    return f'<tr data-point="{index}"{_off(row)}>{"".join(cells)}</tr>\n'


def _cell(value: float | None, text: Callable[[float], str], more: str = "") -> str:
    return f"<td>{UNKNOWN}</td>" if value is None else f'<td data-value="{value!r}">{text(value)}{more}</td>'


def _noise(row: Row) -> str:
    """The quartiles behind a speed-up, and whether they say anything."""
    verdict = " within noise" if row.in_noise else ""
    return f" <small>({row.quartiles}){verdict}</small>" if row.quartiles else ""


def _off(row: Row) -> str:
    return "" if row.on_front else ' class="off"'


# --- classes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassLosses:
    """What each class gains or loses in points of IoU, the greatest loss at ``fastest`` first.

    ``changes[name]`` goes along ``rows``; None where the class has no IoU: neither there nor predicted. ``fastest`` is
    that of the front; where nothing that pauses is on the front, the fastest of all.
    """

    rows: tuple[Row, ...]
    unpaused: dict[str, float | None]
    changes: dict[str, list[float | None]]
    fastest: Row

    def at_fastest(self) -> dict[str, float]:
        """The changes at the fastest configuration, of the classes that have one."""
        place = self.rows.index(self.fastest)
        return {name: value for name, own in self.changes.items() if (value := own[place]) is not None}

    @property
    def scale(self) -> float:
        """Points at which a cell has its full colour: the greatest change on the front, at least 1."""
        places = [place for place, row in enumerate(self.rows) if row.on_front or not self.fastest.on_front]
        values = [abs(value) for own in self.changes.values() for place in places if (value := own[place]) is not None]
        return max([1.0, *values])


def class_losses(results: Results) -> ClassLosses | None:
    """None where there is nothing to compare: no class scores, no unpaused model, or nothing that pauses."""
    rows = tuple(row for row in results.rows if row.miou is not None and row.pause != NO_PAUSE)
    if results.unpaused is None or not rows:
        return None
    fastest = next((row for row in reversed(rows) if row.on_front), rows[-1])
    unpaused = _iou(results.unpaused, results.subset)
    own = [_iou(row, results.subset) for row in rows]
    changes = {name: [_minus(iou.get(name), before) for iou in own] for name, before in unpaused.items()}
    place = rows.index(fastest)
    order = sorted(changes, key=lambda name: _none_last(changes[name][place]))
    return ClassLosses(rows, unpaused, {name: changes[name] for name in order}, fastest) if order else None


def _iou(row: Row, subset: str) -> dict[str, float | None]:
    return row.point.scores[subset].get("iou", {})


def _minus(value: float | None, before: float | None) -> float | None:
    return None if value is None or before is None else value - before


def _none_last(value: float | None) -> tuple[bool, float]:
    return value is None, value or 0.0


def class_note(losses: ClassLosses) -> str:
    """Who loses and who gains most at the fastest configuration, in a sentence or two."""
    found = {name: round(value, 1) for name, value in losses.at_fastest().items()}
    losers = [f"{escape(name)} {signed(value, 1)}" for name, value in found.items() if value < 0]
    gainers = [f"{escape(name)} {signed(value, 1)}" for name, value in reversed(found.items()) if value > 0]
    which = "of the front" if losses.fastest.on_front else "that pauses"
    most = f"; most: {', '.join(losers[:3])}" if losers else ""
    gain = f" Gaining most: {', '.join(gainers[:3])}." if gainers else " None gains."
    return (
        f"At <code>{losses.fastest.pause}</code>, the fastest {which}, {len(losers)} of {len(found)} classes lose "
        f"points of IoU{most}.{gain}"
    )


def class_table(losses: ClassLosses, palette: dict[str, Rgb]) -> str:
    """A ``<table>``: classes down, configurations from slow to fast, each change as a number on its colour."""
    head = "".join(f'<th scope="col"{_off(row)}>{_column_head(row)}</th>' for row in losses.rows)
    body = "".join(_class_row(losses, name, palette.get(name)) for name in losses.changes)
    means = "".join(f"<td{_off(row)}>{_change_text(row.change)}</td>" for row in losses.rows)
    mean = '<tr><th scope="row">mIoU</th><td></td>' + means + "</tr>"
    return (
        f'<table id="class-changes">\n<thead><tr><th scope="col">class</th><th scope="col">unpaused IoU</th>{head}</tr>'
        f"</thead>\n<tbody>\n{body}</tbody>\n<tfoot>{mean}</tfoot>\n</table>"
    )


def _column_head(row: Row) -> str:
    return f"{_code(row)}<small>{row.times}</small>"


def _code(row: Row) -> str:
    """The configuration, which may break after its commas."""
    steps = str(row.pause).replace(",", ",<wbr>")
    return f"<code>{steps}</code>"


def _class_row(losses: ClassLosses, name: str, color: Rgb | None) -> str:
    before = losses.unpaused[name]
    cells = [
        _change_cell(row, change, losses.scale) for row, change in zip(losses.rows, losses.changes[name], strict=True)
    ]
    iou = UNKNOWN if before is None else f"{before:.1f}"
    return (
        f'<tr><th scope="row">{swatch(color) if color else ""}{escape(name)}</th><td>{iou}</td>{"".join(cells)}</tr>\n'
    )


def _change_cell(row: Row, change: float | None, scale: float) -> str:
    if change is None:
        return f"<td{_off(row)}>{UNKNOWN}</td>"
    kind = ("loss" if change < 0 else "gain") + ("" if row.on_front else " off")
    return f'<td class="{kind}" style="--t:{min(abs(change) / scale, 1):.2f}">{_change_text(change)}</td>'


def _change_text(change: float | None) -> str:
    return UNKNOWN if change is None else signed(change, 1)


def swatch(color: Rgb) -> str:
    """A small square of that colour."""
    return f'<span class="swatch" style="background:rgb{color}"></span>'
