"""What the AV1 data of a still picture make a decoder do: how large its frame is, and that there is only one.

A decoder allocates by the headers in the data, whatever the file around them says, and decodes every frame in them.

Source: AV1 Bitstream and Decoding Process Specification, 5.3 (OBUs), 5.5 (sequence header), 5.9 (frame header).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.faces.containers import ContainerError

MAX_OBUS = 300
"""Of one item. Encoders write two or three; a picture of 50 megapixels in tiles of its own OBUs takes some dozens."""
_SEQUENCE_HEADER = 1
_FRAMES = frozenset({3, 6, 7})
"""Frame header, frame, and redundant frame header, which decoders take for a frame header where none was before."""
_KEY_FRAME, _SELECT = 0, 2


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What the frame header is read by, and the size of the frame."""

    width: int
    height: int
    reduced: bool
    time_bits: int = 0
    screen_content: int = _SELECT
    integer_motion: int = _SELECT
    id_bits: int = 0


class _Bits:
    """Bits of a byte string, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number. Raises ContainerError if there are fewer."""
        self._left -= count
        if self._left < 0:
            raise ContainerError("a header of its AV1 data is cut short")
        return self._value >> self._left & ((1 << count) - 1)


def frame_size(data: bytes) -> tuple[int, int]:
    """Width and height of the only frame of an item, pixels.

    Args:
        data: all of the item's data.

    Raises:
        ContainerError: there is no frame or more than one, it is of another size than the sequence header says, or
            the data are damaged.
    """
    sequence, frames = None, 0
    for kind, body in _obus(data):
        if kind == _SEQUENCE_HEADER:
            # No header has more than 32 operating points of 100 bits.
            again = _sequence(_Bits(body[:512]))
            if sequence is not None and again != sequence:
                raise ContainerError("its AV1 data have several sequence headers")
            sequence = again
        elif kind in _FRAMES:
            if sequence is None:
                raise ContainerError("its AV1 data have a frame before the sequence header")
            _check_frame(_Bits(body[:16]), sequence)
            frames += 1
    if sequence is None or frames != 1:
        raise ContainerError(f"one of its pictures has {frames} frames instead of one")
    return sequence.width, sequence.height


def _obus(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and body of every open bitstream unit."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_OBUS:
            raise ContainerError(f"one of its pictures has more than {MAX_OBUS} parts")
        header = data[at]
        at += 2 if header & 4 else 1
        size = len(data) - at
        if header & 2:
            size, at = _leb128(data, at)
        if header & 0x80 or at + size > len(data) or size < 0:
            raise ContainerError("its AV1 data are damaged")
        found.append((header >> 3 & 15, data[at : at + size]))
        at += size
    return found


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value, at + place + 1
    raise ContainerError("its AV1 data are damaged")


def _sequence(bits: _Bits) -> _Sequence:
    bits.take(4)  # profile, still picture
    reduced, time_bits = bool(bits.take(1)), 0
    if reduced:
        bits.take(5)  # level
    else:
        time_bits = _timing_and_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    if reduced:
        return _Sequence(width, height, reduced=True)
    id_bits = bits.take(4) + 2 + bits.take(3) + 1 if bits.take(1) else 0
    bits.take(3 + 4)  # superblocks, filters; compound modes, warped motion
    order_hint = bits.take(1)
    if order_hint:
        bits.take(2)
    screen_content = _SELECT if bits.take(1) else bits.take(1)
    integer_motion = _SELECT
    if screen_content and not bits.take(1):
        integer_motion = bits.take(1)
    return _Sequence(width, height, False, time_bits, screen_content, integer_motion, id_bits)


def _timing_and_operating_points(bits: _Bits) -> int:
    """Read what stands between level and size; returns the bits of a presentation time in a frame header."""
    delay_bits = time_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        equal_interval = bits.take(1)
        if equal_interval:
            zeros = 0
            while not bits.take(1):
                zeros += 1
            bits.take(zeros if zeros < 32 else 0)
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5)
            time_bits = 0 if equal_interval else bits.take(5) + 1
            if equal_interval:
                bits.take(5)
    initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if initial_delay and bits.take(1):
            bits.take(4)
    return time_bits


def _check_frame(bits: _Bits, sequence: _Sequence) -> None:
    """Check that it is a picture in itself, as large as the sequence header says.

    With a reduced header there is no other kind. A frame that names a size of its own may be larger than the sequence
    header allows, which decoders do not check.
    """
    if sequence.reduced:
        return
    existing, kind, shown = bits.take(1), bits.take(2), bits.take(1)
    if existing or kind != _KEY_FRAME or not shown:
        raise ContainerError("one of its pictures is not a key frame")
    bits.take(sequence.time_bits)
    bits.take(1)  # CDF update
    screen_content = bits.take(1) if sequence.screen_content == _SELECT else sequence.screen_content
    if screen_content and sequence.integer_motion == _SELECT:
        bits.take(1)
    bits.take(sequence.id_bits)
    if bits.take(1):
        raise ContainerError("one of its pictures has another size than it declares")
