"""How attrs classes become msgpack arrays and back, with every value checked on the way in.

Each field of a message declares its kind once, with `field(kind)`. Decoding never trusts the peer:
a wrong type, length or count is a RemoteProtocolError, never a TypeError three layers later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError

T = TypeVar("T")
_KIND: Final = "burst.kind"
_MAX_ITEMS: Final = 1_000_000


@attrs.frozen
class Kind:
    """A pair of functions: value to plain data, and plain data to a checked value."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _typed(expected: type, name: str) -> Kind:
    def decode(value: Any) -> Any:
        # bool is an int to Python; to the protocol it is not.
        if type(value) is not expected:
            raise RemoteProtocolError(f"expected {name}, got {type(value).__name__}")
        return value

    return Kind(name, _same, decode)


BYTES: Final = _typed(bytes, "bytes")
TEXT: Final = _typed(str, "text")
INT: Final = _typed(int, "integer")
BOOL: Final = _typed(bool, "boolean")


def _decode_key(value: Any) -> Any:
    if type(value) is not bytes or len(value) != 32:
        raise RemoteProtocolError("expected a key of 32 bytes")
    return value


KEY: Final = Kind("key", _same, _decode_key)


def _decode_digest(value: Any) -> Digest:
    try:
        return Digest.unpacked(value)
    except (ValueError, TypeError) as error:
        raise RemoteProtocolError(f"not a digest: {error}") from error


DIGEST: Final = Kind("digest", Digest.packed, _decode_digest)


def optional(kind: Kind) -> Kind:
    return Kind(
        f"optional {kind.name}",
        lambda value: None if value is None else kind.encode(value),
        lambda value: None if value is None else kind.decode(value),
    )


def many(kind: Kind) -> Kind:
    """A tuple of any length."""
    plain = kind.encode is _same

    def encode(values: Any) -> Any:
        return list(values) if plain else [kind.encode(value) for value in values]

    def decode(values: Any) -> Any:
        if type(values) is not list or len(values) > _MAX_ITEMS:
            raise RemoteProtocolError(f"expected a list of {kind.name}")
        return tuple([kind.decode(value) for value in values])

    return Kind(f"list of {kind.name}", encode, decode)


def pair(first: Kind, second: Kind) -> Kind:
    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != 2:
            raise RemoteProtocolError("expected a pair")
        return (first.decode(value[0]), second.decode(value[1]))

    return Kind(
        f"pair of {first.name} and {second.name}",
        lambda value: [first.encode(value[0]), second.encode(value[1])],
        decode,
    )


def struct(cls: type[Any]) -> Kind:
    """A nested attrs class whose fields declare kinds."""
    kinds = kinds_of(cls)
    names = [attribute.name for attribute in attrs.fields(cls)]

    def encode(value: Any) -> Any:
        return [kind.encode(getattr(value, name)) for name, kind in zip(names, kinds, strict=True)]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(kinds):
            raise RemoteProtocolError(f"expected {cls.__name__} with {len(kinds)} fields")
        decoded = [kind.decode(item) for kind, item in zip(kinds, value, strict=True)]
        try:
            return cls(*decoded)
        except (ValueError, TypeError) as error:
            raise RemoteProtocolError(f"{cls.__name__}: {error}") from error

    return Kind(cls.__name__, encode, decode)


def field(kind: Kind, **options: Any) -> Any:
    """An attrs field that also says how it travels."""
    return attrs.field(metadata={_KIND: kind}, **options)


def kinds_of(cls: type[Any]) -> list[Kind]:
    return [attribute.metadata[_KIND] for attribute in attrs.fields(cls)]
