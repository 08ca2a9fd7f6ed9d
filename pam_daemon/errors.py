"""The errors that a user can cause or cure: each says what, where, and the remedy, in one line."""

_LONGEST = 1000  # characters: what a file holds may be long, and it stands in the middle


class PamdError(Exception):
    """Base of all; the command line prints it as one line and ends with exit code 1.

    As text it is one line whatever a file, a name or another program put into it: what cannot be printed is escaped.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if not text.isprintable():
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class ConfigError(PamdError):
    """A configuration file, key or value that cannot be used."""


class SourceError(PamdError):
    """A recording or a device that cannot be opened or read."""


class ModelError(PamdError):
    """A model file that is not one, is damaged, or does not give its golden scores."""


class JournalError(PamdError):
    """A journal that cannot be opened, read or written."""


class EndpointError(PamdError):
    """A ZeroMQ endpoint that cannot be bound or reached."""


class ListenError(PamdError):
    """A subscriber's place that cannot be kept, or what it cannot hand on to."""


class KeyFileError(PamdError):
    """A CurveZMQ key that cannot be read, written or trusted."""


class RecordError(PamdError):
    """Recordings or clips that cannot be written."""


class BridgeError(PamdError):
    """A record that the other side of a bridge has not taken."""


class TableError(PamdError):
    """A selection table that cannot be read."""


class DependencyError(PamdError):
    """A library that only some commands need is not installed."""
