"""TLS proxy in front of a server, with a test certificate authority."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme


class _Forward(socketserver.BaseRequestHandler):
    """Forwards bytes in both directions until one side closes the connection."""

    server: TlsProxy

    def handle(self) -> None:
        try:
            client = self.server.context.wrap_socket(self.request, server_side=True)
        except (ssl.SSLError, OSError):
            return  # the client does not speak TLS, or does not trust the certificate
        with client, socket.create_connection(self.server.target) as behind:
            threading.Thread(target=_copy, args=(behind, client), daemon=True).start()
            _copy(client, behind)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class TlsProxy(socketserver.ThreadingTCPServer):
    """Listens with TLS on a port of 127.0.0.1 and forwards to `target`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target, self.context = target, context

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextlib.contextmanager
def tls_in_front_of(port: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """Run a TLS proxy for ``127.0.0.1:port``. Yields its port and the file of the CA certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    certificate = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(certificate))
    with TlsProxy(("127.0.0.1", port), context) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield int(proxy.server_address[1]), certificate
        proxy.shutdown()
