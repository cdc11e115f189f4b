import codecs

import pytest

from experiments.commands.spreadsheet import read_rows
from experiments.exit_codes import UsageFault

ROWS = [["a b.jpg"], ["c;d.jpg", "1.5", "2", "30", "40.25"], ["x/é.jpg"]]


def read(path, content):
    path.write_bytes(content)
    return read_rows(path, "name", columns=5)


@pytest.mark.parametrize(
    "text",
    [
        'name,x1,y1,x2,y2\na b.jpg,,,,\n"c;d.jpg",1.5,2,30,40.25\nx/é.jpg,,,,\n',
        'a b.jpg\n\nc;d.jpg, 1.5 ,2,30,40.25\n\n"x/é.jpg"',
        'Name;x1;y1;x2;y2;;\na b.jpg;;;;;;\n"c;d.jpg";1,5;2;30;40,25;;\nx/é.jpg;;;;;;\n;;;;;;\n',
        "name\tx1\ty1\tx2\ty2\na b.jpg\t\t\t\t\nc;d.jpg\t1,5\t2\t30\t40,25\nx/é.jpg",
        'sep=;\na b.jpg;;;;\n"c;d.jpg";1,5;2;30;40,25\nx/é.jpg;;;;\n',
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_tables_as_people_and_spreadsheets_save_them(tmp_path, text, end, encoding):
    content = text.replace("\n", end).encode(encoding)
    if encoding == "utf-16-be":
        content = codecs.BOM_UTF16_BE + content
    assert [cells for _, cells in read(tmp_path / "t.csv", content)] == ROWS


def test_boxes_of_no_photo_at_all_tell_the_mark_too(tmp_path):
    found = read(tmp_path / "t.csv", b"name;x1;y1;x2;y2\r\na.jpg;;;;\r\nb.jpg;;;;\r\n")
    assert found == [(2, ["a.jpg"]), (3, ["b.jpg"])]


def test_names_alone_keep_every_sign(tmp_path):
    assert read(tmp_path / "t.csv", b"\na;b.jpg\n\n1;2.jpg\n") == [(2, ["a;b.jpg"]), (4, ["1;2.jpg"])]


def test_a_decimal_comma_needs_another_mark(tmp_path):
    assert read(tmp_path / "t.csv", b'a,"1,5",2,3,4\n') == [(1, ["a", "1,5", "2", "3", "4"])]


def test_other_encodings_are_told(tmp_path):
    with pytest.raises(UsageFault, match=r"^t\.csv: expected a CSV file in UTF-8, got .*; save it as one$"):
        read(tmp_path / "t.csv", "é.jpg\n".encode("latin-1"))
    assert read(tmp_path / "t.csv", b"") == []
