"""Begins TLS with the first byte, as libpq 17 does with sslnegotiation=direct, and prints the server's cluster_name.

Arguments: port, server name.
"""

import socket
import ssl
import struct
import sys

port, name = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["postgresql"])


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


with socket.create_connection(("127.0.0.1", port), 20) as tcp:
    with context.wrap_socket(tcp, server_hostname=name) as stream:
        file = stream.makefile("rb")

        def answers():
            """Until the server is ready for a query."""
            while True:
                kind, length = struct.unpack("!cI", file.read(5))
                body = file.read(length - 4)
                if kind == b"E":
                    sys.exit(f"the server refused: {body}")
                yield kind, body
                if kind == b"Z":
                    return

        stream.sendall(message(b"", struct.pack("!I", 196608) + b"user\0tester\0database\0postgres\0\0"))
        list(answers())
        stream.sendall(message(b"Q", b"SHOW cluster_name\0"))
        for kind, body in answers():
            if kind == b"D":
                print(body[6:].decode())
        stream.sendall(message(b"X", b""))
