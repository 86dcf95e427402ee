"""Measures how long snigate takes from its start to the first connection that it accepts and answers, with ten routes.

    first_accept.py BINARY LIMIT_MS

Prints the best and the median of twenty starts; exits with 1 if the best takes longer than the limit.
"""

import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

STARTS = 20


def main() -> int:
    binary, limit = sys.argv[1], float(sys.argv[2])
    with tempfile.TemporaryDirectory() as directory:
        took = sorted(start(binary, pathlib.Path(directory)) for _ in range(STARTS))
    print(f"best {took[0]:.1f} ms, median {statistics.median(took):.1f} ms, of {STARTS} starts with 10 routes")
    return int(took[0] > limit)


def start(binary: str, directory: pathlib.Path) -> float:
    """Milliseconds from the start of the process until a client that sends no TLS has its answer."""
    port = free_port()
    file = directory / "config.yaml"
    routes = "".join(f"  - {{ sni: name-{i}.example.com, pool: pool-{i} }}\n" for i in range(10))
    pools = "".join(f"  pool-{i}: {{ backends: [192.0.2.{i + 1}:443] }}\n" for i in range(10))
    file.write_text(
        f"listeners: [{{ name: https, bind: 127.0.0.1:{port} }}]\nadmin: {{ bind: [] }}\nroutes:\n{routes}pools:\n{pools}"
    )
    began = time.perf_counter()
    process = subprocess.Popen([binary, "run", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answer(port, process)
        return (time.perf_counter() - began) * 1000
    finally:
        process.terminate()
        process.wait(10)


def answer(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"snigate ended with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                # Not a TLS record: the connection is accepted, read and refused.
                client.sendall(b"SSH-2.0-x\r\n")
                client.recv(64)
                return
        except ConnectionRefusedError:
            time.sleep(0.0002)
        except ConnectionResetError:
            return
    raise SystemExit("no connection within 10 s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
