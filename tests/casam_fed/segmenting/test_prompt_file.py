"""Boxes and clicks from CSV and JSON, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from casam_fed.errors import DataError
from casam_fed.segmenting.case import Marked
from casam_fed.segmenting.prompt_file import read_prompts

ONE = [Path("in/a.png")]
TWO = [Path("in/a.png"), Path("other/a.png")]


def written(folder, text, name="boxes.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_boxes_are_targets_of_their_own(tmp_path):
    path = written(tmp_path, "file,class,x0,y0,x1,y1\na.png,polyp,1,2,3.5,4\na.png,polyp,5,6,7,8\n")
    assert read_prompts(ONE, path, None) == {
        ONE[0]: [Marked("polyp", (1, 2), (3.5, 4)), Marked("polyp", (5, 6), (7, 8))]
    }


def test_json_says_the_same_as_csv(tmp_path):
    rows = [{"class": "spleen", "x0": 1, "y0": 2, "z0": 0, "x1": 3, "y1": 4, "z1": 5}]
    by_json = read_prompts(ONE, written(tmp_path, json.dumps(rows), "boxes.json"), None)
    by_csv = read_prompts(ONE, written(tmp_path, "\ufeffclass, x0, y0, z0, x1, y1, z1\nspleen,1,2,0,3,4,5\n"), None)
    assert by_json == by_csv == {ONE[0]: [Marked("spleen", (1, 2, 0), (3, 4, 5))]}


def test_clicks_go_with_the_box_of_their_class(tmp_path):
    boxes = written(tmp_path, "class,x0,y0,x1,y1\npolyp,1,2,3,4\n")
    points = written(tmp_path, "class,x,y,positive\npolyp,2,3,1\npolyp,9,9,0\nother,5,5,\n", "points.csv")
    assert read_prompts(ONE, boxes, points)[ONE[0]] == [
        Marked("polyp", (1, 2), (3, 4), ((2, 3),), ((9, 9),)),
        Marked("other", inside=((5, 5),)),
    ]


def test_a_target_joins_its_rows(tmp_path):
    boxes = written(tmp_path, "class,target,x0,y0,x1,y1\ncell,1,1,2,3,4\ncell,2,5,6,7,8\n")
    points = written(tmp_path, "class,target,x,y\ncell,2,6,7\n", "points.csv")
    assert read_prompts(ONE, boxes, points)[ONE[0]] == [
        Marked("cell", (1, 2), (3, 4)),
        Marked("cell", (5, 6), (7, 8), ((6, 7),)),
    ]


def test_a_path_tells_files_of_one_name_apart(tmp_path):
    path = written(tmp_path, "file,class,x0,y0,x1,y1\nother/a.png,polyp,1,2,3,4\n")
    found = read_prompts(TWO, path, None)
    assert [len(found[file]) for file in TWO] == [0, 1]


BAD = {
    "missing column": ("class,x0,y0,x1\npolyp,1,2,3\n", "line 2: 'y1' is missing; boxes have class, x0, x1, y0, y1"),
    "strange column": ("class,x0,y0,x1,y1,w\npolyp,1,2,3,4,5\n", "'w' means nothing for boxes"),
    "no number": ("class,x0,y0,x1,y1\npolyp,1,2,3,four\n", "y1 is 'four'; give a number of pixels"),
    "infinite": ("class,x0,y0,x1,y1\npolyp,1,2,3,inf\n", "y1 is 'inf'"),
    "short line": ("class,x0,y0,x1,y1\npolyp,1,2,3\n", "has not as many values as the first line has names"),
    "long line": ("class,x0,y0,x1,y1\npolyp,1,2,3,4,5\n", "has not as many values as the first line has names"),
    "half a depth": ("class,x0,y0,x1,y1,z0\npolyp,1,2,3,4,5\n", "a box in a volume has z0 and z1"),
    "no class": ("class,x0,y0,x1,y1\n,1,2,3,4\n", "'class' is missing"),
    "a class that moves the cursor": ("class,x0,y0,x1,y1\n\x1b[2J,1,2,3,4\n", "is no name"),
    "unknown file": ("file,class,x0,y0,x1,y1\nb.png,polyp,1,2,3,4\n", "'b.png' is none of the 1 files"),
    "no text": (b"\xff\xfe\x00", "is no text in UTF-8"),
    "several boxes of a target": ("class,target,x0,y0,x1,y1\nc,1,1,2,3,4\nc,1,5,6,7,8\n", "has 2 boxes for target '1'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_makes_no_sense_is_one_sentence_with_its_place(tmp_path, name):
    content, sentence = BAD[name]
    with pytest.raises(DataError) as caught:
        read_prompts(ONE, written(tmp_path, content), None)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{}", "must hold a list"), ("[1]", "must hold a list"), ("[", "is no JSON"), ("[" * 100_000, "is no JSON"),
     ('[{"class": "a", "x0": true, "y0": 1, "x1": 2, "y1": 3}]', "x0 is 'True'")],
)  # fmt: skip
def test_json_that_is_none_is_said_to_be_none(tmp_path, content, sentence):
    with pytest.raises(DataError) as caught:
        read_prompts(ONE, written(tmp_path, content, "boxes.json"), None)
    assert sentence in str(caught.value)


def test_a_name_that_two_files_have_or_none_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"may be in/a\.png or other/a\.png; give more of its path"):
        read_prompts(TWO, written(tmp_path, "file,class,x0,y0,x1,y1\na.png,polyp,1,2,3,4\n"), None)
    with pytest.raises(DataError, match="names no file, and 2 are segmented"):
        read_prompts(TWO, written(tmp_path, "class,x0,y0,x1,y1\npolyp,1,2,3,4\n"), None)


def test_clicks_that_could_be_of_several_boxes_are_asked_about(tmp_path):
    boxes = written(tmp_path, "class,x0,y0,x1,y1\nc,1,2,3,4\nc,5,6,7,8\n")
    points = written(tmp_path, "class,x,y\nc,2,3\n", "points.csv")
    with pytest.raises(DataError, match="join them by a column 'target'"):
        read_prompts(ONE, boxes, points)
    with pytest.raises(DataError, match="has clicks outside only"):
        read_prompts(ONE, None, written(tmp_path, "class,x,y,positive\nc,2,3,0\n", "points.csv"))
    with pytest.raises(DataError, match="no such file or directory; give the path of a CSV or JSON file"):
        read_prompts(ONE, tmp_path / "nothing.csv", None)
