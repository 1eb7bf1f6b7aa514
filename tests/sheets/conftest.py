import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def server():
    from sheets_server import Server
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02},
                              daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    assert server.violations == []


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch):
    """No look-up outside this machine."""
    real = socket.socket.connect

    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"connection to {address}")
        return real(self, address)

    def lookup(host, *arguments, **options):
        if host not in ("127.0.0.1", "localhost", "::1", None):
            raise AssertionError(f"look-up of {host}")
        return real_lookup(host, *arguments, **options)

    real_lookup = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture
def world(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    from sheets_world import World
    return World(server, tmp_path)
