#!/bin/sh
# Captures the first flights in tests/data/hellos from the TLS clients of this machine, and writes manifest.json.
#
# A listener on loopback keeps what a client sends before it was answered anything, up to the end of the record that
# completes the hello, and then hangs up. The expected name and protocols are those the client was told to send: no
# parser is asked. Needs openssl, curl, node and python3; a client's own version stands in the manifest.
#
#     tests/data/capture.sh
set -eu
cd "$(dirname "$0")"
mkdir -p hellos
exec python3 - "$PWD/hellos" <<'PYTHON'
import json
import pathlib
import socket
import subprocess
import sys

out = pathlib.Path(sys.argv[1])


def version(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]


OPENSSL = version("openssl", "version")
CURL = version("curl", "--version").split(" (")[0] + ", " + OPENSSL
NODE = "Node.js " + version("node", "--version")
CPYTHON = version("python3", "--version") + ", " + version("python3", "-c", "import ssl; print(ssl.OPENSSL_VERSION)")


def openssl(id, name, flags="", alpn=None):
    sni = f"-servername {name}" if name else "-noservername"
    protocols = f"-alpn {','.join(alpn)}" if alpn else ""
    return id, OPENSSL, f"openssl s_client -connect 127.0.0.1:PORT {sni} {protocols} {flags}", name, alpn


def curl(id, name, flags="", alpn=("h2", "http/1.1")):
    resolve = f"--resolve {name}:PORT:127.0.0.1" if name else ""
    return id, CURL, f"curl -q -sk --noproxy * {resolve} {flags} https://{name or '127.0.0.1'}:PORT/", name, alpn


def node(id, name, more="", alpn=None):
    names = json.dumps({k: v for k, v in (("servername", name or ""), ("ALPNProtocols", alpn)) if v is not None})
    options = f"{{ host: '127.0.0.1', port: PORT, rejectUnauthorized: false, ...{names} {more} }}"
    return id, NODE, ["node", "-e", f"require('tls').connect({options}).on('error', () => {{}})"], name, alpn


def python(id, name, more="", alpn=None):
    protocols = f"c.set_alpn_protocols({alpn!r});" if alpn else ""
    program = (
        "import socket, ssl; c = ssl._create_unverified_context();"
        f"{protocols} {more} c.wrap_socket(socket.create_connection(('127.0.0.1', PORT)), server_hostname={name!r})"
    )
    return id, CPYTHON, ["python3", "-c", program], name, alpn


MANY = [f"protocol-{n:02}" for n in range(40)]
CASES = [
    openssl("openssl-default", "app.captured.test"),
    openssl("openssl-tls12", "tls12.captured.test", "-tls1_2", ["h2", "http/1.1"]),
    openssl("openssl-tls13", "tls13.captured.test", "-tls1_3", ["h2"]),
    openssl("openssl-tls10", "tls10.captured.test", "-tls1 -cipher ALL:@SECLEVEL=0"),
    openssl("openssl-records-of-512", "split.captured.test", "-max_send_frag 512", MANY),
    openssl("openssl-many-groups", "groups.captured.test", "-groups P-521:X448:X25519:P-256"),
    openssl("openssl-upper-case", "MiXed.Captured.TEST"),
    openssl("openssl-underscore", "_dmarc.captured.test"),
    openssl("openssl-trailing-dot", "dot.captured.test."),
    openssl("openssl-one-label", "printer"),
    openssl("openssl-acme", "acme.captured.test", "", ["acme-tls/1"]),
    openssl("openssl-address-as-name", "192.0.2.9"),
    openssl("openssl-no-name", None),
    openssl("openssl-no-name-tls12", None, "-tls1_2"),
    curl("curl-default", "curl.captured.test"),
    curl("curl-http11", "http11.captured.test", "--http1.1", ["http/1.1"]),
    curl("curl-tls12", "curl12.captured.test", "--tls-max 1.2"),
    curl("curl-no-alpn", "plain.captured.test", "--no-alpn", None),
    curl("curl-address", None),
    node("node-default", "node.captured.test"),
    node("node-h2", "node-h2.captured.test", "", ["h2", "http/1.1"]),
    node("node-tls12", "node12.captured.test", ", maxVersion: 'TLSv1.2'"),
    node("node-no-name", None),
    python("python-default", "python.captured.test"),
    python("python-alpn", "python-alpn.captured.test", "", ["h2", "http/1.1"]),
    python("python-tls12", "python12.captured.test", "c.maximum_version = ssl.TLSVersion.TLSv1_2;"),
    python("python-idna", "bücher.captured.test"),
    python("python-no-name", None),
]


def read_exactly(stream, length):
    data = b""
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise EOFError(f"the client sent {len(data)} bytes of {length}")
        data += piece
    return data


def first_flight(stream):
    """Whole records, until they hold one whole handshake message (RFC 8446 §4 and §5.1)."""
    flight, message = b"", b""
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        header = read_exactly(stream, 5)
        body = read_exactly(stream, int.from_bytes(header[3:], "big"))
        flight, message = flight + header + body, message + body
    return flight


hellos = []
for id, client, how, name, alpn in CASES:
    how = how.split() if isinstance(how, str) else how
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = str(listener.getsockname()[1])
        command = [word.replace("PORT", port) for word in how]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet) as running:
            stream, _ = listener.accept()
            stream.settimeout(10)
            flight = first_flight(stream)
            stream.close()
            running.wait(10)
    (out / f"{id}.bin").write_bytes(flight)
    sent = name.encode("idna").decode() if name and not name.isascii() else name
    hellos.append(
        {"id": id, "file": f"hellos/{id}.bin", "client": client, "how": " ".join(how), "len": len(flight),
         "valid": True, "sni": sent, "alpn": list(alpn or [])}
    )
manifest = {"format": 1, "count": len(hellos), "hellos": hellos}
(out.parent / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
print(f"{len(hellos)} hellos")
PYTHON
