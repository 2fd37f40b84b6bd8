"""Rows of metrics.jsonl: what is written is read back, and nothing else is taken for a row."""

import pytest

from mmaccount.records import metrics


def test_rows_are_read_as_they_were_added(tmp_path):
    rows = [
        {"step": 1, "epsilon": 0.5, "accuracy": 0.1},
        {"step": 2, "epsilon": 0.7, "accuracy": 1},
    ]
    assert metrics.load(tmp_path) == []
    for row in rows:
        metrics.add(tmp_path, row)
    assert metrics.load(tmp_path) == rows


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2, "epsilon": 0.5, "accur',
        '{"step": 2, "epsilon": 0.5}',
        '{"step": 2, "epsilon": NaN, "accuracy": 1}',
        '{"step": 2, "epsilon": Infinity, "accuracy": 1}',
        '{"step": 2, "epsilon": true, "accuracy": 1}',
        f'{{"step": {10**400}, "epsilon": 1, "accuracy": 1}}',
        "[" * 10**5,
        "[1, 2, 3]",
        "",
        "\x00\xff",
    ],
)
def test_lines_that_a_curve_cannot_use_are_left_out(tmp_path, line):
    row = {"step": 1, "epsilon": 0.5, "accuracy": 0.1}
    metrics.add(tmp_path, row)
    with (tmp_path / metrics.FILE_NAME).open("a") as file:
        file.write(line)
    assert metrics.load(tmp_path) == [row]
