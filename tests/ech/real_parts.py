"""Takes curl with BoringSSL through a running snigate to backends with OpenSSL 4.0, which confirm inner hellos.

    python3 -m venv venv && venv/bin/pip install curl_cffi==0.17.0 pyOpenSSL==26.4.0 cryptography==50.0.2
    venv/bin/python tests/ech/real_parts.py backends NAME...        prints a port for each, then serves
    venv/bin/python tests/ech/real_parts.py ask PORT NAME ECH       prints the body; ECH is `ecl:BASE64`, `grease` or `off`

A backend whose name begins with `p256.` accepts this group alone, so that clients get a HelloRetryRequest.
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
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(SSL.Connection(context, stream), stream, name), daemon=True).start()


def answer(connection, stream, name):
    from OpenSSL import SSL

    try:
        stream.settimeout(None)
        connection.set_accept_state()
        connection.do_handshake()
        connection.recv(65536)
        asked = (connection.get_servername() or b"none").decode()
        body = f"{name} was asked for {asked}\n".encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.shutdown()
    except SSL.Error as error:
        # The client has seen that its key is not the right one.
        del error
    stream.close()


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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["backends", *names]:
            backends(names)
        case ["ask", port, name, ech]:
            ask(port, name, ech)
        case _:
            sys.exit(__doc__)
