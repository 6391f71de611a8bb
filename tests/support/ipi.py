"""Bytes of the i-PI protocol, as they come from a socket."""

from __future__ import annotations

from rootstock.interfaces.ipi.codec import Decoder, ReplyDecoder


def feed(decoder: Decoder | ReplyDecoder, data: bytes) -> None:
    """Put bytes into a decoder."""
    while data:
        room = decoder.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        decoder.received(count)
        data = data[count:]
