"""AV1: the sizes in the sequence headers of a coded picture, by the first bits of chapter 5.5 of its specification."""

from __future__ import annotations

from collections.abc import Iterator

SEQUENCE_HEADER = 1
UNITS = 10_000  # of a stream


def coded_sizes(stream: bytes) -> Iterator[tuple[int, int]]:
    """Of each sequence header: no frame after it is larger. Raises IndexError where the stream ends within one."""
    at = 0
    for _ in range(UNITS):
        if at >= len(stream):
            return
        head = stream[at]
        at += 2 if head & 4 else 1
        length, at = _leb128(stream, at) if head & 2 else (len(stream) - at, at)
        if head >> 3 & 15 == SEQUENCE_HEADER:
            yield _size(_Bits(stream[at : at + length]))
        at += length


class _Bits:
    """Numbers of some bits, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:512]
        self._at = 0

    def take(self, count: int) -> int:
        """Raises IndexError beyond the end."""
        self._at += count
        if self._at > 8 * len(self._data):
            raise IndexError
        whole = int.from_bytes(self._data, "big") >> 8 * len(self._data) - self._at
        return whole & (1 << count) - 1


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for n in range(8):
        value |= (stream[at + n] & 0x7F) << 7 * n
        if not stream[at + n] & 0x80:
            return value, at + n + 1
    raise IndexError


def _size(bits: _Bits) -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    if bits.take(1):  # the short form of still pictures
        bits.take(5)
    else:
        _skip_timing(bits)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(wide) + 1, bits.take(high) + 1


def _skip_timing(bits: _Bits) -> None:
    """Everything between the flags and the size."""
    model = delay = 0
    if bits.take(1):
        bits.take(64)
        if bits.take(1):
            zeros = 0
            while not bits.take(1):
                zeros += 1
            bits.take(zeros)
        model = bits.take(1)
        if model:
            delay = bits.take(5) + 1
            bits.take(42)
    display = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if model and bits.take(1):
            bits.take(2 * delay + 1)
        if display and bits.take(1):
            bits.take(4)
