"""One self-contained HTML page of a sweep; see :func:`write_report`."""

from paumer.report.examples import Example, Shot, example_pauses, file_shots, segment_examples, split_shots
from paumer.report.page import write_report

__all__ = ["Example", "Shot", "example_pauses", "file_shots", "segment_examples", "split_shots", "write_report"]
