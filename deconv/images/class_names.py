"""The names of a data set's classes, from a file, and in words where ImageNet's ids stand for them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from os import PathLike
from pathlib import Path

from torchvision.models import SqueezeNet1_1_Weights

from deconv.errors import BadInput, bad_value, unknown

NUMBER = ("index", "class_index")
SEPARATORS = ",;\t"
SYNSETS = Path(__file__).resolve().parent / "synsets.txt"
"""The ids in WordNet of the 1000 ImageNet classes, in their order; Tiny ImageNet's 200 are among them."""


def read_class_names(path: str | PathLike[str]) -> tuple[str, ...]:
    """Return the name of each class, in order: from a file with a name on each line, or a CSV with a column `name`.

    Such a CSV, with commas, semicolons or tabs, may have a column `index` or `class_index`, or another of all numbers
    from 0 up, with the number of each class; its order is then free.
    Raises BadInput if the file is missing or no text, if a row has no name, and if the numbers are not 0, 1, 2 and so
    on, each once; for JSON, and for lines that begin with numbers.
    """
    lines = _lines(Path(os.path.expanduser(path)))
    try:
        separator = next((mark for mark in SEPARATORS if "name" in _cells(lines[:1], mark)), SEPARATORS[0])
        table = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
        if "name" in (table.fieldnames or ()):
            return _ordered(list(table), path)
    except csv.Error as error:
        raise _no_names(path, error) from error
    if lines and lines[0][0] in "[{":
        raise _no_names(path, ValueError("it is JSON"))
    if lines and all(re.match(rf'"?\d+"?[{SEPARATORS}]', line) for line in lines):
        raise _no_names(path, ValueError("its lines begin with numbers, under no header as index,name"))
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(lines) > 1 and all(mark in line for line in lines):
            raise _no_names(path, ValueError(f"its lines are columns between {word}, none of which is called name"))
    return tuple(lines)


def _cells(lines: Sequence[str], separator: str) -> list[str]:
    return next(iter(csv.reader(lines, delimiter=separator, skipinitialspace=True)), [])


def check_class_names(names: Sequence[str], labels: Sequence[int] | None) -> None:
    """Raise BadInput if the images have no `labels`, or one that has no name."""
    if labels is None:
        raise BadInput(
            f"{len(names)} classes are named, but the images have none; expected a .cls member beside each image: give "
            "shards that have them, or leave the names out"
        )
    if max(labels) >= len(names):
        raise BadInput(f"{len(names)} classes are named; expected a name for class {max(labels)} too: add it")


def spoken(name: str) -> str:
    """Return the name of a class in words: torchvision's, if it is the id of an ImageNet class; else as it is.

    This is for people to read. Classes stay apart by their own names, whether or not two are called the same.

    >>> spoken("n03028079"), spoken("n00000000"), spoken("house")
    ('church', 'n00000000', 'house')
    """
    return _words_of_synsets().get(name, name)


def number_of_class(which: str | int, labels: Sequence[int], names: Sequence[str] | None) -> int:
    """Return the number of a class that images are of, given itself, or the name as it is or in words.

    labels: of the images.  names: by number; None if the classes have none. Of a name with commas one of the words
    between them will do; capitals do not count where no name is the very same. Raises UnknownName for a class that no
    image is of, BadInput where several are called so.

    >>> names = ("goldfish, Carassius auratus", "n03028079")
    >>> [number_of_class(which, (0, 0, 1), names) for which in ("Goldfish", "church", 1, "1")]
    [0, 1, 1, 1]
    """
    known: dict[int, tuple[str, ...]] = dict.fromkeys(sorted(set(labels)), ())
    known |= {number: (names[number], spoken(names[number])) for number in known} if names else {}
    exact = [number for number, called in known.items() if which in called]
    words = {number: {word for name in called for word in _said_of(name)} for number, called in known.items()}
    matching = exact or [number for number in known if str(which).strip().casefold() in words[number]]
    if not matching and str(which).isdecimal() and int(which) in known:
        return int(which)
    if len(matching) > 1:
        listed = ", ".join(map(str, matching))
        raise bad_value("class", which, f"one class; {listed} are called so", "give the number of one")
    if not matching:
        possible = [called[-1].split(",")[0] for called in known.values()] if names else map(str, known)
        raise unknown("class", which, possible)
    return matching[0]


def _said_of(name: str) -> Iterator[str]:
    """Yield the whole name and the words between its commas, without capitals."""
    yield from (word.strip().casefold() for word in (name, *name.split(",")))


@cache
def _words_of_synsets() -> dict[str, str]:
    ids = SYNSETS.read_text(encoding="utf-8").split()
    return dict(zip(ids, SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"], strict=True))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _no_names(path, error) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _no_names(path: str | PathLike[str], error: Exception) -> BadInput:
    return BadInput(
        f"the class names in {path} cannot be read ({error}); expected a text file with a name on each line, or a CSV "
        "with a column name: give one, or repair it"
    )


def _ordered(rows: Sequence[dict[str, str | None]], path: str | PathLike[str]) -> tuple[str, ...]:
    wanted = [str(number) for number in range(len(rows))]
    columns = [column for column in (rows[0] if rows else ()) if column not in (None, "name")]
    numbers = [column for column in columns if sorted(str(row[column]).strip() for row in rows) == sorted(wanted)]
    column = next((column for column in (*NUMBER, *numbers) if column in columns), None)
    found = wanted if column is None else [str(row[column]).strip() for row in rows]
    if sorted(found) != sorted(wanted):
        raise BadInput(
            f"the column {column} of {path} is not 0 to {len(rows) - 1}, each once; expected the number of a class in "
            "each row: repair it"
        )
    names = {number: row["name"] or "" for number, row in zip(found, rows, strict=True)}
    unnamed = [number for number, name in names.items() if not name]
    if unnamed:
        raise BadInput(f"{path} has no name for class {unnamed[0]}; expected one in each row: add it")
    return tuple(names[number] for number in wanted)
