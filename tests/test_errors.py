"""An error is one line, whatever was wrong with what."""

import pytest

from pam_daemon.errors import PamdError, SourceError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.wav: is empty; copy it again", "a.wav: is empty; copy it again"),
        ("Ærø: naïve", "Ærø: naïve"),
        ("a\nb\tc\0d", r"a\nb\tc\x00d"),
        ("\x1b[31mred\x1b[0m \u2028\u202e", r"\x1b[31mred\x1b[0m \u2028\u202e"),
        ("\udcff.wav: no such file", r"\udcff.wav: no such file"),
    ],
)
def test_what_cannot_be_printed_is_escaped(message: str, line: str) -> None:
    assert str(SourceError(message)) == line


def test_the_middle_of_a_long_message_is_left_out() -> None:
    """What was wrong stands at its beginning, the remedy at its end."""
    line = str(PamdError(f"a.yaml: {'x' * 10**6}; quote it"))
    assert len(line) < 1100
    assert line.startswith("a.yaml: xxx") and line.endswith("xxx; quote it")
