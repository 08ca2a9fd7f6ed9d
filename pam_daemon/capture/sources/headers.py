"""What WAV and AIFF headers promise, which libsndfile does not tell: it silently lowers the count of a cut file.

Sources: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), EBU Tech 3306 (RF64), Audio Interchange
File Format 1.3. FLAC needs nothing of this: libsndfile reports its promise.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SAMPLE_TAGS = (1, 3, 6, 7, 0xFFFE)  # PCM, float, A-law, mu-law, extensible: block align is one frame
_CHUNKS_TO_LOOK_AT = 1000  # a damaged file must not be walked for ever


@dataclass(slots=True)
class _Header:
    """What the chunks before the sound data, and its own size field, say."""

    size_at: int = 0
    """Byte offset of the field that holds the data's size: 4 bytes, in an RF64 8."""
    data_at: int = 0
    """Byte offset of the first sample; 0 as long as none was found."""
    data_bytes: int = 0
    frames: int = 0
    """Frames that the header names outright (AIFF, compressed WAV)."""
    frame_bytes: int = 0
    container_bytes: int = 0
    rf64: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """How a header's size fields compare with the file."""

    frames: int | None = None
    """The frames that a cut file was to hold; None where nothing is missing or nothing was promised."""
    mend: tuple[int, bytes] | None = None
    """Offset and bytes that make the header of an unfinished WAV readable; None where it is readable as it is."""


def promise_of(path: Path) -> Promise:
    """Compare the size fields of a RIFF, RIFX, RF64, AIFF or AIFC file with its length; empty for others.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RIFX", b"RF64") and magic[8:] == b"WAVE":
            return _wav_promise(_wav_header(file, magic), length)
        if magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
            return _aiff_promise(_aiff_header(file), length)
    return Promise()


def _wav_promise(header: _Header, length: int) -> Promise:
    present = length - header.data_at
    if not header.data_at:
        return Promise()
    if header.data_bytes == 0 and present > 0 and header.container_bytes + 8 < length:
        # The recorder died, or wrote to a pipe, before it could fill in the sizes: libsndfile would find nothing.
        mended = struct.pack("<Q", present) if header.rf64 else b"\xff" * 4
        return Promise(mend=(header.size_at, mended))
    if header.data_bytes <= present or _placeholder(header.data_bytes):
        return Promise()
    if header.frame_bytes:
        return Promise(frames=header.data_bytes // header.frame_bytes)
    return Promise(frames=header.frames or None)


def _aiff_promise(header: _Header, length: int) -> Promise:
    complete = header.data_at + header.data_bytes <= length
    if not header.data_at or complete or _placeholder(header.data_bytes):
        return Promise()
    return Promise(frames=header.frames or None)


def _placeholder(size: int) -> bool:
    """Sizes that programs write when they do not know: none, sox's and arecord's near 2^31, ffmpeg's 2^32 - 1."""
    return size == 0 or 0x7FFFF000 <= size <= 0x80000000 or 0xFFFFF000 <= size <= 0xFFFFFFFF


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, size and content's offset of each chunk; the file stands at the content."""
    at = 12
    for _ in range(_CHUNKS_TO_LOOK_AT):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = struct.unpack(order + "4sI", head)
        yield name, size, at + 8
        at += 8 + size + size % 2


def _wav_header(file: BinaryIO, magic: bytes) -> _Header:
    order = ">" if magic[:4] == b"RIFX" else "<"
    header = _Header(rf64=magic[:4] == b"RF64", container_bytes=struct.unpack(order + "I", magic[4:8])[0])
    sizes_at = 0
    for name, size, at in _chunks(file, order):
        content = b"" if name == b"data" else file.read(min(size, 24))
        if name == b"ds64" and len(content) >= 16:
            header.container_bytes, header.data_bytes = struct.unpack("<QQ", content[:16])
            sizes_at = at
        elif name == b"fmt " and len(content) >= 14:
            tag, _, _, _, align = struct.unpack(order + "HHIIH", content[:14])
            header.frame_bytes = align if tag in _SAMPLE_TAGS else 0
        elif name == b"fact" and len(content) >= 4:
            (header.frames,) = struct.unpack(order + "I", content[:4])
        elif name == b"data":
            header.data_at, header.size_at = at, sizes_at + 8 if header.rf64 else at - 4
            header.data_bytes = header.data_bytes if header.rf64 else size
            break
    return header


def _aiff_header(file: BinaryIO) -> _Header:
    header = _Header()
    for name, size, at in _chunks(file, ">"):
        if name == b"COMM":
            content = file.read(6)
            header.frames = struct.unpack(">I", content[2:])[0] if len(content) == 6 else 0
        elif name == b"SSND":
            header.data_at, header.data_bytes = at, size
            break
    return header


@dataclass(frozen=True, slots=True)
class Mended:
    """A file whose bytes at one place read as others; what libsndfile needs of a file object, nothing more."""

    file: BinaryIO
    at: int
    replacement: bytes

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of the file itself."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As of the file itself."""
        return self.file.tell()

    def read(self, count: int) -> bytes:
        """At most so many bytes, with the replacement laid over the file's own."""
        start = self.file.tell()
        data = bytearray(self.file.read(count))
        for index, byte in enumerate(self.replacement, self.at - start):
            if 0 <= index < len(data):
                data[index] = byte
        return bytes(data)
