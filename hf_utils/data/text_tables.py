"""CSV and JSON-lines files as tables of text: what is clear is read, with a notice; what is not is refused by row.

Spreadsheets write semicolons or tabs for commas, UTF-16, a mark before the first byte, and empty rows and columns
after the last.
"""

import codecs
import csv
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets

from hf_utils.errors import UserError
from hf_utils.listing import listing

logger = logging.getLogger(__name__)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_csv(path: Path) -> datasets.Dataset:
    """Return a CSV file with a header as columns of text; None for empty fields.

    Raises:
        UserError: the encoding or a row cannot be read without guessing, or a column has no values or two meanings.
            Rows are counted as a spreadsheet does: the header is row 1.
    """
    text = _decode(path)
    separator, text = _find_separator(path, text)
    rows = _split_rows(path, text, separator)
    if not rows:
        return datasets.Dataset.from_dict({})
    (_, header), *rows = rows
    header = [name.strip() for name in header]
    filled = [(number, row) for number, row in rows if any(field.strip() for field in row)]
    if empty := len(rows) - len(filled):
        logger.warning("%s: %d rows without any value are left out.", path, empty)
    width = max((number + 1 for number, name in enumerate(header) if name), default=0)
    filled = [(number, row[: max(width, _last_value(row))]) for number, row in filled]
    _check_widths(path, filled, header[:width], separator)
    columns = _name_columns(path, header[:width], [row for _, row in filled])
    return table_of_texts(columns)


def read_json_lines(path: Path) -> datasets.Dataset:
    """Return a file with one JSON object per line as columns of text; None for null and for keys that are not there.

    Raises:
        UserError: a line is no JSON object, or names a key twice.
    """
    records = []
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line, object_pairs_hook=_refuse_repeated))
            except ValueError as error:
                raise UserError(f"{path}: line {number} is no JSON object: {error}.") from error
            if not isinstance(records[-1], dict):
                raise UserError(f"{path}: line {number} is no JSON object, but {line.strip()[:40]}.")
    names = dict.fromkeys(name for record in records for name in record)
    nested = {name for record in records for name, value in record.items() if isinstance(value, (dict, list))}
    if nested:
        logger.warning("%s: columns %s hold lists or objects and are left out.", path, ", ".join(sorted(nested)))
    return table_of_texts(
        {name: [_as_text(record.get(name)) for record in records] for name in names if name not in nested}
    )


def table_of_texts(columns: dict[str, list[str | None]]) -> datasets.Dataset:
    """Return columns of text as a table; an empty text means that nothing is known."""
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    values = {name: [value.strip() or None if value else None for value in column] for name, column in columns.items()}
    return datasets.Dataset.from_dict(values, features)


def resolve_paths(names: Sequence[str | None], folder: Path) -> list[str | None]:
    """Return paths that a table gives as absolute ones; backslashes are read as `/` where only that file exists."""
    paths, turned = [], []
    for name in names:
        path = name and os.path.join(folder, os.path.expanduser(name))
        if name and "\\" in name and not os.path.exists(path):
            other = os.path.join(folder, name.replace("\\", "/"))
            if os.path.exists(other):
                path = other
                turned.append(name)
        paths.append(path)
    if turned:
        logger.warning("%d paths, such as %s, are read with / for their backslashes.", len(turned), turned[0])
    return paths


def _decode(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 where its first bytes show that."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content[:2]:  # no text of one byte per letter has a zero
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"Cannot read {path}: byte {error.start} is no {encoding.removesuffix('-sig').upper()}. Save the file as "
            "UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    if encoding.startswith("utf-16"):
        logger.warning("%s is read as UTF-16.", path)
    return text


def _find_separator(path: Path, text: str) -> tuple[str, str]:
    """Return the separator of the fields, and the text from the header on."""
    header, *rest = re.split(r"\r\n|\r|\n", text.lstrip("\r\n"), maxsplit=1)
    if excel := re.fullmatch(r'"?sep=(.)"?,*', header.strip(), re.IGNORECASE):  # Excel's own first line
        separator, text = excel[1], "".join(rest)
    else:
        # Of equal counts the first: commas are what is expected.
        separator = max(_SEPARATORS, key=lambda mark: _count_fields(header, mark))
    if separator != ",":
        logger.warning("%s: its fields are separated by %s.", path, _name_separator(separator))
    return separator, text


def _name_separator(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))


def _count_fields(line: str, separator: str) -> int:
    return len(next(csv.reader([line], delimiter=separator, skipinitialspace=True), []))


def _split_rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return (row number, fields) of every row that is not blank."""
    # Strict: a quote that is never closed would otherwise swallow all rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows, number = [], 0
    try:
        for row in reader:
            number += 1
            if row:
                rows.append((number, row))
    except csv.Error as error:
        raise UserError(
            f"{path}: row {number + 1}, near line {reader.line_num}, cannot be read ({error}), separated by "
            f"{_name_separator(separator)}: check its quotes."
        ) from error
    return rows


def _last_value(row: list[str]) -> int:
    return max((number + 1 for number, field in enumerate(row) if field.strip()), default=0)


def _check_widths(path: Path, rows: list[tuple[int, list[str]]], header: list[str], separator: str) -> None:
    wrong = [(number, row) for number, row in rows if len(row) != len(header)]
    if wrong:
        places = listing([f"row {number} ({len(row)})" for number, row in wrong], most=10)
        raise UserError(
            f"{path}: the header (row 1: {', '.join(header)}) has {len(header)} fields, separated by "
            f"{_name_separator(separator)}; {len(wrong)} of {len(rows)} rows have another number: {places}. "
            "Quote fields that hold a separator, and fill in what is missing."
        )


def _name_columns(path: Path, header: list[str], rows: list[list[str]]) -> dict[str, list[str]]:
    """Return the columns by name; those without a name, and copies of one, are left out with a notice."""
    columns: dict[str, list[str]] = {}
    for number, name in enumerate(header):
        values = [row[number].strip() for row in rows]
        if not name:
            if any(values):
                logger.warning("%s: column %d has no name and is left out.", path, number + 1)
        elif columns.setdefault(name, values) != values:
            places = [str(place + 1) for place, other in enumerate(header) if other == name]
            raise UserError(
                f"{path}: columns {' and '.join(places)} are both named {name!r}, and their values differ. Rename or "
                "remove one of them."
            )
    if doubled := sorted(name for name, count in Counter(filter(None, header)).items() if count > 1):
        logger.warning("%s: columns of one name and the same values are read once: %s.", path, ", ".join(doubled))
    return columns


def _refuse_repeated(pairs: list[tuple]) -> dict:
    repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    if repeated:
        raise ValueError(f"it names {', '.join(repeated)} twice")
    return dict(pairs)


def _as_text(value) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
