"""The metadata service of one server, on 169.254.169.254 of its own network namespace.

Paths and formats of the API reference ("Server Metadata") and of cloud-init's Hetzner data source.
No authentication, to every process inside, as there.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from . import catalogue
from .machines import Spec

ADDRESS: Final = "169.254.169.254"
_ZONES: Final = {place.name: place.network_zone for place in catalogue.LOCATIONS}


def documents(spec: Spec) -> dict[str, str]:
    """Path below /hetzner/v1/ to text."""
    parts = {
        "availability-zone": f"{spec.location}-dc1",
        "hostname": spec.name,
        "instance-id": str(spec.id),
        "public-ipv4": spec.ipv4 or "",
        "region": _ZONES[spec.location],
    }
    keys = "".join(f"- {key}\n" for key in spec.ssh_keys)
    summary = "".join(f"{name}: {value}\n" for name, value in parts.items())
    return {
        "metadata": summary + f"public-keys:\n{keys}" + 'vendor_data: ""\n',
        "metadata/public-keys": "[" + ",".join(f'"{key}"' for key in spec.ssh_keys) + "]",
        "metadata/private-networks": "[]",
        "userdata": spec.user_data or "",
        **{f"metadata/{name}": value for name, value in parts.items()},
    }


def decoded(user_data: str) -> bytes:
    """As the data source hands it to cloud-init: valid base64 is decoded."""
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode("".join(user_data.split()), validate=True)
    return user_data.encode()


class MetadataService:
    """Serves from its own thread until closed."""

    def __init__(self, listener: socket.socket, spec: Spec) -> None:
        texts = documents(spec)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = texts.get(self.path.removeprefix("/hetzner/v1/").rstrip("/"))
                data = (text or "").encode()
                self.send_response(404 if text is None else 200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nobody reads it."""

        self._server = HTTPServer((ADDRESS, 80), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="metadata", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
