"""`paumer data`: a look at a data set before training on it.

Knows nothing of what is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from paumer.cli.options import Parser, add_data


def data_command(argv: Sequence[str]) -> int:
    """check a data set before training on it"""
    parser = Parser(prog="paumer data", description="Look at a data set.")
    parser.add_argument("action", choices=["check"], help="check: pairs, sizes, label ids, class shares, bad files")
    add_data(parser, positional=True)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON line as well")
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from paumer.data import check_dataset

    bar = tqdm(desc="checking", unit="pair", disable=None, leave=False)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        report = check_dataset(args.data, args.split, args.root, progress=progress)
    print(report.table())
    if args.json:
        print(report.to_json())
    return 0 if report.ok else 2
