"""Rows of a table in a text file, as people and spreadsheets write it: comma, semicolon or tab, any mark."""

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from experiments.exit_codes import UsageFault

Row = tuple[int, list[str]]

_DELIMITERS = (",", ";", "\t")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_rows(path: Path, header: str, columns: int) -> list[Row]:
    """Line number and cells of every row that is not blank, without a first row that starts with `header`.

    The mark that parts the cells is the one by which most rows have `columns` cells, all but the first
    numbers or empty. Empty cells at the end of a row are left out. Where no comma parts the cells, a decimal
    comma becomes a point.

    Raises:
        UsageFault: no text in UTF-8 or, with its mark, UTF-16, or none of rows and cells.

    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        tables = {mark: _cells(text, mark) for mark in _DELIMITERS}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageFault(f"{path.name}: expected a CSV file in UTF-8, got {error}; save it as one") from error
    fitting = {
        mark: sum(_fits(cells, header, columns, mark) for _, cells in rows) for mark, rows in tables.items()
    }
    mark = max(_DELIMITERS, key=lambda mark: fitting[mark])
    rows = [
        (line, [cells[0], *(_number(cell, mark) for cell in _without_empty_end(cells)[1:])])
        for line, cells in tables[mark]
    ]
    return rows[1:] if rows and rows[0][1][0].lower() == header else rows


def _cells(text: str, mark: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    rows: list[Row] = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        # What Excel writes about the mark, for itself.
        about = not rows and mark.join(row) in [f"sep={other}" for other in _DELIMITERS]
        if any(cells) and not about:
            rows.append((reader.line_num, cells))
    return rows


def _fits(cells: Sequence[str], header: str, columns: int, mark: str) -> bool:
    if len(cells) < columns or any(cells[columns:]):
        return False
    return cells[0].lower() == header or all(map(_is_number, (_number(c, mark) for c in cells[1:columns])))


def _without_empty_end(cells: Sequence[str]) -> Sequence[str]:
    return cells[: max(number for number, cell in enumerate(cells, start=1) if cell)]


def _number(cell: str, mark: str) -> str:
    return cell if mark == "," else cell.replace(",", ".")


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True
