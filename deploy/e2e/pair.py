"""Backends and clients for pair.sh.

    pair.py backend CERT KEY ADDRESS…   one backend per address: says its address, then sends every line back
    pair.py clients NETWORK             reads commands, and answers each with one line:
        open ADDRESS COUNT    opens connections that stay, each from an address of its own
        alive                 which of those still send a line back: "alive 7 of 10"
        through ADDRESS COUNT where short connections from COUNT addresses end: "10.77.0.101 10.77.0.103 …"
        close
"""

import socket
import ssl
import sys
import threading

PORT = 443
NAME = "app.example.test"
PATIENCE = 5
# Where nothing has failed, only a busy machine takes longer.
OPENING_PATIENCE = 20


def backend(certificate, key, address):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server((address, PORT), backlog=256)

    def serve(plain):
        try:
            with context.wrap_socket(plain, server_side=True) as client:
                client.sendall(f"{address}\n".encode())
                while line := client.recv(4096):
                    client.sendall(line)
        except OSError:
            pass

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


class Clients:
    def __init__(self, network):
        self.network = network
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.open_ones = []

    def connect(self, address, number, patience=PATIENCE):
        """The connection, and the backend that it has reached."""
        source = (f"{self.network}.{10 + number}", 0)
        plain = socket.create_connection((address, PORT), timeout=patience, source_address=source)
        client = self.context.wrap_socket(plain, server_hostname=NAME)
        return client, client.recv(4096).decode().strip()

    def open(self, address, count):
        errors = []
        for number in range(int(count)):
            try:
                self.open_ones.append(self.connect(address, number, OPENING_PATIENCE)[0])
            except OSError as error:
                errors.append(type(error).__name__)
        return " ".join([f"opened {int(count) - len(errors)} of {count}", *errors])

    def alive(self):
        def is_alive(client):
            try:
                client.settimeout(PATIENCE)
                client.sendall(b"x\n")
                return client.recv(4096) == b"x\n"
            except OSError:
                return False

        alive = [is_alive(client) for client in self.open_ones]
        return f"alive {sum(alive)} of {len(alive)}"

    def through(self, address, count):
        reached = []
        for number in range(int(count)):
            try:
                client, backend = self.connect(address, number)
                client.close()
                reached.append(backend)
            except OSError as error:
                reached.append(type(error).__name__)
        return " ".join(reached)

    def close(self):
        for client in self.open_ones:
            client.close()
        self.open_ones = []
        return "closed"


def main(role, *arguments):
    if role == "backend":
        certificate, key, *addresses = arguments
        threads = [threading.Thread(target=backend, args=(certificate, key, address)) for address in addresses]
        for thread in threads:
            thread.start()
        return
    clients = Clients(*arguments)
    for line in sys.stdin:
        command, *values = line.split()
        print(getattr(clients, command)(*values), flush=True)


main(*sys.argv[1:])
