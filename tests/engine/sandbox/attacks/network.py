"""Attacks by the network on other machines and on other processes of the same machine."""

from tests.engine.sandbox.attacks.attack import Attack

_PAIR = """
a, b = socket.socketpair({kind})
a.send(b"x")
got(b.recv(1) == b"x")
"""

_URGENT = "a, b = socket.socketpair()\na.send(b'x', socket.MSG_OOB)\ngot(b.recv(1, socket.MSG_OOB) == b'x')"
_URGENT_MESSAGE = "a, b = socket.socketpair()\ngot(a.sendmsg([b'x'], [], socket.MSG_OOB) == 1)"

NETWORK = (
    Attack("tcp", "socket.create_connection(('127.0.0.1', @PORT@), 2)\ngot()"),
    Attack("tcp listener", "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\ngot()"),
    Attack("udp", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))\ngot()"),
    Attack("raw ip", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\ngot()", root=True),
    Attack("ipv6", "socket.socket(socket.AF_INET6)\ngot()"),
    Attack("unix socket by path", "socket.socket(socket.AF_UNIX).connect('@UNIX@')\ngot()"),
    Attack("unix socket by name", "socket.socket(socket.AF_UNIX).connect('\\0@ABSTRACT@')\ngot()"),
    Attack("unix datagram", "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ngot()"),
    Attack("unix listener", "s = socket.socket(socket.AF_UNIX)\ns.bind('s')\ns.listen()\ngot()"),
    Attack("datagram pair", _PAIR.format(kind="socket.AF_UNIX, socket.SOCK_DGRAM"), _PAIR.format(kind=""), "inside"),
    Attack("urgent data", _URGENT),
    Attack("urgent data of many messages", _URGENT_MESSAGE),
    Attack("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))\ngot()"),
    Attack("packets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ngot()", root=True),
    Attack("vsock", "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\ngot()"),
    Attack("names", "got(bool(socket.getaddrinfo('localhost', 80)))"),
    Attack("asyncio client", "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', @PORT@))\ngot()"),
)
