"""The one place that knows msgpack.

Only arrays, bytes, text, integers, booleans and nil are ever packed: no maps, no extension types,
no floats. `raw=False` keeps text and bytes apart.
"""

from __future__ import annotations

import msgpack

from burst_protocol.errors import RemoteProtocolError

_packer = msgpack.Packer(use_bin_type=True)


def pack(value: object) -> bytes:
    """`value` as msgpack. Not thread-safe by itself: each call is one C call under the GIL."""
    packed: bytes = _packer.pack(value)
    return packed


def unpack(data: bytes | memoryview) -> object:
    """The one value in `data`; RemoteProtocolError for anything else."""
    try:
        # unpackb bounds every length by len(data), so a hostile length cannot allocate.
        value: object = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(f"not msgpack: {type(error).__name__}") from error
    return value
