"""Asks for / as CPython's ssl module does.

In:  argv: address, port, server name, CA file.
Out: the answer on stdout; or the error's reason on stderr and exit 1.
"""

import socket
import ssl
import sys

address, port, name, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
try:
    with context.wrap_socket(socket.create_connection((address, int(port)), 10), server_hostname=name) as tls:
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        while piece := tls.recv(65536):
            sys.stdout.write(piece.decode())
except ssl.SSLError as error:
    sys.exit(f"{error.reason}: {error}")
