"""Annotation files and class names with mistakes or foreign bytes in them."""

from __future__ import annotations

from deconv.analyses.correspondence import read_annotations
from deconv.images.class_names import read_class_names
from tests.hostile.rows import Rows, file, line

HEADER = b"file,part,y0,x0,y1,x1\n"
GOOD = HEADER + b"a.png,eye,1,2,5,8\na.png,nose,0,0,3,3\nb.png,nose,2,2,4,4\nb.png,eye,1,1,9,9\n"
BOXES: dict[str, tuple[bytes, str]] = {
    "a column is missing": (b"file,part,y0,x0,y1\n", "has no column 'x1'; expected file,part,y0,x0,y1,x1 in its first"),
    "nothing": (b"", "has no column 'file'"),
    "no rows": (HEADER, "names 0 images; expected two or more"),
    "one image": (HEADER + b"a.png,eye,1,2,5,8\n", "names 1 images; expected two or more"),
    "a part is missing": (GOOD + b"c.png,eye,1,1,2,2\n", "has no box for 'nose' in c.png, but has one in .*: add it"),
    "a part is there twice": (GOOD + b"a.png,eye,1,1,2,2\n", "line 6: a.png has two boxes for 'eye'; expected one"),
    "a word in a box": (GOOD + b"c.png,eye,1,1,x,2\n", r"line 6: the box \['1', '1', 'x', '2'\] is not four whole num"),
    "half a box": (GOOD + b"c.png,eye,1,1\n", "is not four whole numbers"),
    "a box upside down": (GOOD + b"c.png,eye,5,1,5,2\n", "expected 0 <= y0 < y1"),
    "a box above the image": (GOOD + b"c.png,eye,-1,1,5,2\n", "expected 0 <= y0 < y1"),
    "a number of 5000 digits": (GOOD + b"c.png,eye,1,1,2," + b"9" * 5000 + b"\n", "is not four whole numbers"),
    "no file": (GOOD + b",eye,1,1,2,2\n", "line 6: no file or no part is named; expected both"),
    "no part": (b"y0,x0,y1,x1,file,part\n1,1,2,2,c.png\n", "line 2: no file or no part is named"),
    "a name of two lines": (GOOD + b'"c\n.png",eye,1,1,x,2\n', "line 7: the box"),
    "a value of 200,000 letters": (GOOD + b"c" * 200_000 + b",eye,1,1,2,2\n", "field larger than field limit"),
    "an open quotation": (GOOD + b'"c' + b"c" * 200_000, "field larger than field limit"),
    "a picture": (b"\xff\xd8\xff", "cannot read the annotations .*it is no UTF-8 text; expected a CSV file"),
}
TEXTS: Rows = {
    **{f"boxes: {name}": (file("a.csv", text), read_annotations, line(said)) for name, (text, said) in BOXES.items()},
    "boxes that are not there": (lambda home: home / "a.csv", read_annotations, line("No such file")),
    "boxes that are a folder": (lambda home: home, read_annotations, line("Is a directory; expected a CSV file")),
    "boxes with a null byte in their name": (
        lambda home: "a\0",
        read_annotations,
        line(r"cannot read the annotations a\\x"),
    ),
    "class names: a value of 200,000 letters": (
        file("a.csv", b"index,name\n0," + b"c" * 200_000),
        read_class_names,
        line("the class names in .* cannot be read .*field larger than field limit"),
    ),
    "class names that are a picture": (
        file("a.txt", b"\xff\xd8"),
        read_class_names,
        line("the class names in .* cannot be read .*expected a text file with a name on each line"),
    ),
    "class names of nobody's": (lambda home: "~nosuchuser/a", read_class_names, line("cannot be read")),
}
