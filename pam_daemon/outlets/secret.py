"""Secrets and trust: in files of their own, never in the configuration.

Secrets are read whenever they are needed, so that they may change.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from pam_daemon.errors import ConfigError


def read_secret(path: str, key: str) -> str:
    """The one line of a file that not everybody may read.

    Args:
        key: of the configuration, to be named in the error.

    Raises:
        ConfigError: the file cannot be read, holds no single line, or others than its owner and group may use it.
    """
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{key}: {path}: no file; give the path of one")
        if mode & stat.S_IRWXO:
            everybody = f"mode {mode & 0o777:o} lets everybody at it"
            raise ConfigError(f"{key}: {path}: {everybody}; chmod o=, and have another secret made")
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"{key}: {path}: cannot be read: {error.strerror}; let pamd's user read it") from error
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise ConfigError(f"{key}: {path}: one line of plain text is expected; remove the rest")
    return text


def tls_context(ca_file: str | None, key: str) -> ssl.SSLContext:
    """Trusts the system's certificates, or those of a file alone.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{key}: ca_file: {ca_file}: cannot be used: {error.strerror or error}; give PEM") from error
