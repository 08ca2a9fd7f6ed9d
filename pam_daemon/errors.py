"""The errors that a user can cause or cure: each says what, where, and the remedy, in one line."""


class PamdError(Exception):
    """Base of all; the command line prints it as one line and ends with exit code 1."""


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


class RecordError(PamdError):
    """Recordings or clips that cannot be written."""


class BridgeError(PamdError):
    """A record that the other side of a bridge has not taken."""


class TableError(PamdError):
    """A selection table that cannot be read."""


class DependencyError(PamdError):
    """A library that only some commands need is not installed."""
