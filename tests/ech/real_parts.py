"""Takes curl with BoringSSL through a running snigate to backends with OpenSSL 4.0, which confirm inner hellos.

    python3 -m venv venv && venv/bin/pip install curl_cffi==0.17.0 pyOpenSSL==26.4.0 cryptography==50.0.2
    venv/bin/python tests/ech/real_parts.py backends NAME...        prints a port for each, then serves
    venv/bin/python tests/ech/real_parts.py ask PORT NAME ECH       prints the body; ECH is `ecl:BASE64`, `grease` or `off`
    venv/bin/python tests/ech/real_parts.py doh BASE64              prints a port, then answers DNS over HTTPS

A backend whose name begins with `p256.` accepts this group alone, so that clients get a HelloRetryRequest. One whose name
begins with `early.` takes early data (0-RTT).
"""

import datetime
import sys
import threading


def certificate(name):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False).sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return built.public_bytes(serialization.Encoding.PEM), private


def serve(listener, name):
    from OpenSSL import SSL, crypto

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    pem, private = certificate(name)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pem))
    context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, private))
    if name.startswith("p256."):
        from cryptography.hazmat.primitives.asymmetric import ec

        context.set_tmp_ecdh(ec.SECP256R1())
    if name.startswith("early."):
        SSL._lib.SSL_CTX_set_max_early_data(context._context, 16384)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(SSL.Connection(context, stream), stream, name), daemon=True).start()


def answer(connection, stream, name):
    from OpenSSL import SSL

    try:
        stream.settimeout(None)
        connection.set_accept_state()
        early = early_data(connection) if name.startswith("early.") else b""
        connection.do_handshake()
        if not early:
            connection.recv(65536)
        asked = (connection.get_servername() or b"none").decode()
        body = f"{name} was asked for {asked}{' early' if early else ''}\n".encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.shutdown()
    except SSL.Error as error:
        # The client has seen that its key is not the right one.
        del error
    stream.close()


def early_data(connection):
    from OpenSSL import SSL

    buffer, count, data = SSL._ffi.new("char[]", 4096), SSL._ffi.new("size_t *"), b""
    while True:
        # 0: an error, 1: some data, 2: the end of it.
        status = SSL._lib.SSL_read_early_data(connection._ssl, buffer, 4096, count)
        if status == 0:
            raise SSL.Error("no hello")
        data += SSL._ffi.buffer(buffer, count[0])[:]
        if status == 2:
            return data


def backends(names):
    import socket

    for name in names:
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=serve, args=(listener, name), daemon=True).start()
    sys.stdin.read()


def ask(port, name, ech):
    import io
    from curl_cffi import Curl, CurlError, CurlOpt

    curl, body = Curl(), io.BytesIO()
    curl.setopt(CurlOpt.URL, f"https://{name}:{port}/".encode())
    curl.setopt(CurlOpt.RESOLVE, [f"{name}:{port}:127.0.0.1"])
    curl.setopt(CurlOpt.SSL_VERIFYPEER, 0)
    curl.setopt(CurlOpt.SSL_VERIFYHOST, 0)
    curl.setopt(CurlOpt.TIMEOUT, 15)
    curl.setopt(CurlOpt.WRITEDATA, body)
    if ech != "off":
        curl.setopt(CurlOpt.ECH, ech.encode())
    try:
        curl.perform()
        print(body.getvalue().decode(), end="")
    except CurlError as error:
        print("failed:", error)


def doh(ech):
    """Answers DNS over HTTPS: every name is here, and has an HTTPS record with this ECH configuration."""
    import base64
    import http.server
    import ssl
    import tempfile

    def answer(query):
        end = query.index(b"\0", 12) + 5
        question, kind = query[12:end], int.from_bytes(query[end - 4 : end - 2], "big")
        data = b""
        if kind == 1:
            data = bytes([127, 0, 0, 1])
        elif kind == 65:
            # Of `_PORT._https.NAME`, the record leads to NAME: priority 1, parameter 5 (ech).
            name = query[12 : end - 4]
            while name[1:2] == b"_":
                name = name[name[0] + 1 :]
            data = b"\0\1" + name + b"\0\5" + len(ech).to_bytes(2, "big") + ech
        record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2, "big") + data
        count = b"\0\1" if data else b"\0\0"
        return query[:2] + b"\x81\x80\0\1" + count + b"\0\0\0\0" + question + (record if data else b"")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, query):
            body = answer(query)
            self.send_response(200)
            self.send_header("Content-Type", "application/dns-message")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self):
            query = self.path.partition("dns=")[2]
            self.reply(base64.urlsafe_b64decode(query + "=" * (-len(query) % 4)))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(certificate("127.0.0.1")))
        file.flush()
        context.load_cert_chain(file.name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["backends", *names]:
            backends(names)
        case ["doh", ech]:
            import base64

            doh(base64.b64decode(ech))
        case ["ask", port, name, ech]:
            ask(port, name, ech)
        case _:
            sys.exit(__doc__)
