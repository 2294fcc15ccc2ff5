"""What stands at the socket where this test's wrappers and runners look for the daemon."""

from __future__ import annotations

import os
import socket
import threading

from attrs import define, field

from burst_wrapper.hot import check_private, runtime_dir, socket_path


@define(kw_only=True)
class FakeListener:
    """Hands over one connection after the other."""

    listener: socket.socket = field(factory=lambda: socket.socket(socket.AF_UNIX))

    def talk(self, connection: socket.socket) -> None:
        """Closed afterwards."""
        raise NotImplementedError

    def start(self) -> None:
        environ = dict(os.environb)
        check_private(runtime_dir(environ))
        self.listener.bind(socket_path(environ))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # closed
            with connection:
                self.talk(connection)

    def stop(self) -> None:
        # A thread in accept() is woken by shutdown, not by close.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
