"""Tables as people, spreadsheets and hospitals write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medssl_monai import limits
from medssl_monai.files import check_file

Row = dict[str, str]

ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""By the mark at the beginning; that of UTF-32 begins with that of UTF-16."""
DELIMITERS = ",;\t"
SEPARATOR_LINE = re.compile(r"\"?sep=(?P<delimiter>[,;\t])\"?")
"""First line with which spreadsheets tell each other what separates cells."""
COMPUTED = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet would compute, behind the marks that keep it from that."""

csv.field_size_limit(2**31 - 1)  # a long comment is no damage; `limits` bounds the whole file


@dataclass
class Table:
    """A table of text.

    Attributes:
        header: names of the columns; those without a name are left out.
        rows: cells by column, without blanks around them, in Unicode's NFC, with the number of their first line.
        bad: numbers of lines that cannot be read: another number of cells than the header, an open quote.
        name: of its file, for messages.
    """

    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, Row]] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    name: str = "the table"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let what is said against the content begin with the file's name."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """Read a file, see `parse`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: see `parse`; or if it is a folder, a device or a pipe.
        """
        path = Path(path)
        check_file(path)
        limits.check("max_table_bytes", path.stat().st_size, path.name)
        return cls.parse(path.read_bytes(), path.name)

    @classmethod
    def parse(cls, content: bytes, name: str) -> Table:
        """Read comma, semicolon or tab separated text in UTF-8, UTF-16 or Windows' encoding, row by row.

        A quote that is never closed would swallow all further rows into one cell; here it costs its own row. A mark
        that keeps a spreadsheet from computing a cell (see `text_of`) is taken off.

        Args:
            content: of the file.
            name: begins the messages.

        Raises:
            ValueError: if it is no such text, is empty, or has two columns of one name.
        """
        lines = re.split(r"\r\n|\r|\n", unicodedata.normalize("NFC", _decode(content, name)))
        while lines and not lines[-1].strip():
            lines.pop()
        separator = SEPARATOR_LINE.fullmatch(lines[0].strip(" ")) if lines else None
        top = 1 if separator else 0
        if len(lines) <= top:
            raise ValueError(f"{name} is empty; its first line must name the columns.")
        limits.check("max_rows", len(lines) - top - 1, name)
        delimiter = separator["delimiter"] if separator else _delimiter(lines)
        header = [_plain(cell) for cell in _cells(lines[top], delimiter)]
        twice = next((column for column in header if column and header.count(column) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{name} has {header.count(twice)} columns with the same name {twice!r}; rename or remove all but one."
            )
        if not any(header):
            raise ValueError(f"{name} names no column in its first line; write what each column holds there.")
        table = cls([column for column in header if column], [], [], name)
        position = top + 1
        while position < len(lines):
            number, end = position + 1, position + 1
            if lines[position].count('"') % 2:
                end = _end_of_quote(lines, position, delimiter, len(header))
            joined = "\n".join(lines[position:end])
            cells = _cells(joined, delimiter)
            if len(cells) == len(header) and joined.count('"') % 2 == 0:
                row = zip(header, cells, strict=True)
                table.rows.append((number, {key: _plain(cell) for key, cell in row if key}))
            elif joined.strip():
                table.bad.append(number)
            position = end
        return table


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file of text, in any encoding that tables come in.

    Raises:
        ValueError: if it is no text, or too long.
    """
    limits.check("max_table_bytes", path.stat().st_size, path.name)
    return unicodedata.normalize("NFC", _decode(path.read_bytes(), path.name)).splitlines()


def header_of(path: Path) -> list[str]:
    """Return the names of a file's columns, to tell layouts apart by; none if it is no table."""
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            text = _decode(file.read(2**16), path.name, whole=False)
        return Table.parse(re.split(r"\r\n|\r|\n", text.lstrip("\ufeff"))[0].encode(), path.name).header
    except (OSError, ValueError):
        return []


def text_of(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as comma separated text that a spreadsheet opens without computing anything.

    Texts that begin with ``=``, ``+``, ``-`` or ``@`` get an apostrophe before them, which `Table` takes off again;
    numbers are to be given as numbers, which stay as they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [f"'{cell}" if isinstance(cell, str) and COMPUTED.match(cell) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def _plain(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and COMPUTED.match(cell) else cell


def _decode(content: bytes, name: str, whole: bool = True) -> str:
    """Return the text of a file, or of its beginning."""
    encoding = next((known for mark, known in ENCODINGS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:400]:  # UTF-16 without a mark: every other byte of Latin text is 0
        zeros = [content[:400][start::2].count(0) for start in (0, 1)]
        encoding = "utf-16-be" if zeros[0] > 4 * zeros[1] else "utf-16-le" if zeros[1] > 4 * zeros[0] else None
    for candidate in [encoding] if encoding else ["utf-8", "cp1252"]:
        try:
            text = codecs.getincrementaldecoder(candidate)().decode(content, final=whole)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(
        f"{name} is no text in UTF-8, UTF-16 or Windows-1252; save the table as 'CSV UTF-8' in your spreadsheet."
    )


def _delimiter(lines: Sequence[str], sample: int = 50) -> str:
    """Return the sign that gives most of the first rows as many cells as the header, and the header the most."""

    def fit(delimiter: str) -> tuple[int, int]:
        width = len(_cells(lines[0], delimiter))
        return (width > 1) * (1 + sum(len(_cells(line, delimiter)) == width for line in lines[1:sample])), width

    return max(DELIMITERS, key=fit)


def _cells(text: str, delimiter: str) -> list[str]:
    return next(csv.reader([text], delimiter=delimiter), [])


def _end_of_quote(lines: Sequence[str], start: int, delimiter: str, width: int) -> int:
    """Return the line after a row whose quoted cell spans lines; the next one if its quote is a mistake."""
    for position in range(start + 1, len(lines)):
        if lines[position].count('"') % 2:
            return position + 1
        if len(_cells(lines[position], delimiter)) == width:
            break  # a whole row by itself
    return start + 1
