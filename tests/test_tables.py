"""Selection tables: what Raven and people make of them is read, what pamd writes Raven can open."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.errors import TableError
from pam_daemon.tools.tables import Selection, read_audacity, read_raven, read_selections, write_raven

HEADER = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tLabel"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_the_analysts_table(data_dir: Path) -> None:
    selections = read_raven(data_dir / "recordings" / "NOPP6_EST_20090329_121500.selections.txt")
    assert len(selections) == 43
    assert selections[0] == Selection(101.0, 104.0, 52.342, 258.953, 1, "RIWH")
    assert all(selection.extra == {} for selection in selections)


def test_columns_may_stand_in_any_order_and_case(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "Notes\tEND TIME (S)\tbegin time (s)\nloud one\t3.5\t2\n")
    assert read_raven(path) == [Selection(2.0, 3.5, extra={"Notes": "loud one"})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_reads_what_windows_and_old_macs_write(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = [HEADER, "1\tSpectrogram 1\t2\t1.5\t2.5\t90\t180\tété", "", ""]
    path = write(tmp_path / "t.txt", newline.join(lines), encoding)
    assert read_raven(path) == [Selection(1.5, 2.5, 90.0, 180.0, 2, "été")]


def test_a_selection_in_two_views_is_one_selection(tmp_path: Path) -> None:
    rows = [
        "1\tWaveform 1\t1\t1\t2\t\t\tA",
        "1\tSpectrogram 1\t1\t1\t2\t90\t180\tA",
        "2\tWaveform 1\t1\t5\t6\t\t\tonly the waveform",
        "1\tSpectrogram 1\t1\t8\t9\t90\t180\tsame number, of another table appended to this one",
    ]
    selections = read_raven(write(tmp_path / "t.txt", "\n".join([HEADER, *rows])))
    assert [(s.begin_s, s.low_hz) for s in selections] == [(1.0, 90.0), (5.0, None), (8.0, 90.0)]


def test_cells_missing_at_the_end_are_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", f"{HEADER}\tScore\n1\tSpectrogram 1\t1\t1\t2\n")
    assert read_raven(path) == [Selection(1.0, 2.0)]


def test_reads_audacity_s_labels_with_and_without_frequencies(tmp_path: Path) -> None:
    lines = ["1.5\t2.75\tup call", "\\\t50.000000\t200.0", "3\t3", "4.0\t5.0\t", "\\\t-1.000000\t90.0", ""]
    path = write(tmp_path / "t.txt", "\r\n".join(lines))
    expected = [Selection(1.5, 2.75, 50, 200, label="up call"), Selection(3, 3), Selection(4, 5, None, 90)]
    assert read_audacity(path) == read_selections(path) == expected


def test_a_table_with_a_header_is_raven_s_and_a_file_without_a_label_a_track(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", f"{HEADER}\n1\tSpectrogram 1\t1\t1\t2\n")
    assert read_selections(path) == read_raven(path) == [Selection(1.0, 2.0)]
    assert read_selections(write(tmp_path / "empty.txt", "\n")) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [("1.0\t2.0\n5.0\tlong\n", "row 2, column 'End Time (s)': 'long'"), ("2.0\t1.0\tx", "row 1"), ("7", "row 1")],
)
def test_a_label_track_with_a_wrong_time_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(TableError, match=re.escape(named)):
        read_selections(write(tmp_path / "t.txt", text))


def test_a_header_alone_is_a_table_without_selections(tmp_path: Path) -> None:
    assert read_raven(write(tmp_path / "t.txt", HEADER + "\n")) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("Begin Time (s),End Time (s)\n1,2\n", ["row 1", "'Begin Time (s)'", "tab-separated"]),
        ("Begin Time (s)\n1\n", ["row 1", "'End Time (s)'", "is missing"]),
        ("Begin Time (s)\tEnd Time (s)\tbegin time (s)\n1\t2\t1\n", ["row 1", "twice"]),
        (f"{HEADER}\n\n1\tS\t1\t1,5\t2\n", ["row 3", "'Begin Time (s)'", "'1,5'", "decimal point"]),
        (f"{HEADER}\n1\tS\t1\tnan\t2\n", ["row 2", "'Begin Time (s)'", "not a number"]),
        (f"{HEADER}\n1\tS\t1\t1\t\n", ["row 2", "'End Time (s)'", "is empty"]),
        (f"{HEADER}\n1\tS\t1\t3\t2\n", ["row 2", "'End Time (s)'", "before the begin"]),
        (f"{HEADER}\n1\tS\t0\t1\t2\n", ["row 2", "'Channel'", "'0'"]),
        (f"{HEADER}\n1\tS\t1\t1\t2\tlow\t200\tA\n", ["row 2", "'Low Freq (Hz)'", "'low'"]),
        (f"{HEADER}\n1\tS\t1\t1\t2\t90\t200\tA\tB\n", ["row 2", "9 cells for 8 columns"]),
    ],
)
def test_a_malformed_table_is_an_error_that_names_the_place(tmp_path: Path, text: str, named: list[str]) -> None:
    path = write(tmp_path / "t.txt", text)
    with pytest.raises(TableError) as caught:
        read_raven(path)
    message = str(caught.value)
    assert [part for part in [str(path), *named] if part not in message] == []
    assert "\n" not in message


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.txt: cannot be read"):
        read_raven(tmp_path / "none.txt")


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be written"):
        write_raven(tmp_path / "no folder" / "t.txt", [])


def test_an_extra_column_may_not_take_a_name_of_ravens(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"'score' is reserved"):
        write_raven(tmp_path / "t.txt", [Selection(1, 2, extra={"score": "1"})])


def test_writes_the_columns_that_raven_opens(tmp_path: Path) -> None:
    place = {"Detector": "pamd", "File Offset (s)": "1.250", "Begin File": "a.wav"}
    write_raven(tmp_path / "t.txt", [Selection(61.25, 62.5, 90.0, 180.0, 2, "upcall", 0.75, place)])
    assert (tmp_path / "t.txt").read_bytes().decode() == (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
        "\tBegin File\tFile Offset (s)\tLabel\tScore\tDetector\n"
        "1\tSpectrogram 1\t2\t61.250000\t62.500000\t90.000\t180.000\ta.wav\t1.250\tupcall\t0.750000\tpamd\n"
    )


def test_a_table_is_replaced_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "an older table")
    write_raven(path, [Selection(1, 2)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.txt"]
    assert read_raven(path) == [Selection(1.0, 2.0)]


TEXT = st.text(string.ascii_letters + string.digits + " äß.,;'\"-", max_size=12).map(str.strip)
MICROSECONDS = st.integers(0, 10**11)


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    begin, length = draw(MICROSECONDS), draw(st.integers(0, 10**7))
    frequency = st.none() | st.integers(0, 10**6).map(lambda millihertz: millihertz / 1000)
    return Selection(
        begin / 1e6,
        (begin + length) / 1e6,
        draw(frequency),
        draw(frequency),
        draw(st.integers(1, 64)),
        draw(TEXT),
        draw(st.none() | st.integers(0, 10**6).map(lambda millionths: millionths / 1e6)),
        {"Site": draw(TEXT), "Begin File": draw(TEXT)},
    )


@given(st.lists(selections(), max_size=8))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, written: list[Selection]) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.txt"
    write_raven(path, written)
    assert read_raven(path) == written


@given(st.text(max_size=30))
def test_a_label_never_breaks_the_table(tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.txt"
    encodable = label.encode("utf-8", "replace").decode()
    write_raven(path, [Selection(1, 2, label=encodable), Selection(3, 4)])
    assert [(row.begin_s, row.end_s) for row in read_raven(path)] == [(1.0, 2.0), (3.0, 4.0)]
