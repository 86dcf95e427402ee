#!/usr/bin/env python3
"""Makes the files of this directory: a key, and hellos that clients other than ours have sealed for it.

    python3 -m venv venv && venv/bin/pip install curl_cffi==0.17.0 cryptography==50.0.2
    venv/bin/python capture.py

`boringssl.bin` is what curl with BoringSSL sends (curl_cffi). The others are built and sealed here; that HPKE is compared
with the one of OpenSSL. All are the bytes on the wire, from the first record on.
"""

import base64
import hmac
import pathlib
import socket
import struct
import threading

from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HERE = pathlib.Path(__file__).parent
PUBLIC_NAME = b"public.captured.test"
INNER_NAME = b"inner.captured.test"
CONFIG_ID = 42


def u8(data): return struct.pack(">B", len(data)) + data
def u16(data): return struct.pack(">H", len(data)) + data
def extension(kind, data): return struct.pack(">H", kind) + u16(data)
def sni(name): return extension(0, u16(b"\0" + u16(name)))


def key():
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    suites = b"".join(struct.pack(">HH", 1, aead) for aead in (1, 2, 3))
    contents = struct.pack(">BH", CONFIG_ID, 0x20) + u16(public) + u16(suites) + b"\x40" + u8(PUBLIC_NAME) + u16(b"")
    config = struct.pack(">H", 0xFE0D) + u16(contents)
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    listed = base64.encodebytes(u16(config)).decode().replace("\n", "")
    lines = "\n".join(listed[at:at + 64] for at in range(0, len(listed), 64))
    (HERE / "key.pem").write_text(f"{pem.decode()}-----BEGIN ECHCONFIG-----\n{lines}\n-----END ECHCONFIG-----\n")
    return private, config, listed


def body(random, session_id, extensions):
    return b"\3\3" + random + u8(session_id) + u16(b"\x13\1\x13\2") + u8(b"\0") + u16(extensions)


def extract(suite_id, salt, label, secret):
    return hmac.digest(salt or b"\0" * 32, b"HPKE-v1" + suite_id + label + secret, "sha256")


def expand(suite_id, secret, label, info, length):
    info = struct.pack(">H", length) + b"HPKE-v1" + suite_id + label + info
    return HKDFExpand(hashes.SHA256(), length, info).derive(secret)


def setup(public, info, number):
    """SetupBaseS of RFC 9180 with X25519 and HKDF-SHA256; `cryptography` has it only without authenticated data."""
    ephemeral = X25519PrivateKey.generate()
    enc = ephemeral.public_key().public_bytes_raw()
    kem, suite = b"KEM\0\x20", b"HPKE" + struct.pack(">HHH", 0x20, 1, number)
    shared = expand(kem, extract(kem, b"", b"eae_prk", ephemeral.exchange(public)), b"shared_secret",
                    enc + public.public_bytes_raw(), 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key = expand(suite, secret, b"key", context, 16 if number == 1 else 32)
    aead = ChaCha20Poly1305(key) if number == 3 else AESGCM(key)
    nonce = expand(suite, secret, b"base_nonce", context, 12)
    return enc, lambda plaintext, authenticated: aead.encrypt(nonce, plaintext, authenticated)


def agrees_with_openssl(private, number):
    """The HPKE above is the one of `cryptography`, which is OpenSSL's."""
    aead = {1: hpke.AEAD.AES_128_GCM, 2: hpke.AEAD.AES_256_GCM, 3: hpke.AEAD.CHACHA20_POLY1305}[number]
    enc, seal = setup(private.public_key(), b"info", number)
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, aead)
    assert suite.decrypt(enc + seal(b"plain", b""), private, b"info") == b"plain"


def hand_made(public, config, number):
    """A hello whose inner one takes supported_groups, key_share and signature_algorithms from it."""
    shared = extension(10, u16(b"\0\x1d")) + extension(51, u16(b"\0\x1d" + u16(b"k" * 32))) + extension(13, u16(b"\4\3"))
    refer = extension(0xFD00, u8(struct.pack(">HHH", 10, 51, 13)))
    inner = sni(INNER_NAME) + refer + extension(43, b"\2\3\4") + extension(0xFE0D, b"\1")
    encoded = body(b"i" * 32, b"", inner) + b"\0" * 21
    enc, seal = setup(public, b"tls ech\0" + config, number)

    def outer(payload):
        ech = struct.pack(">BHHB", 0, 1, number, CONFIG_ID) + u16(enc) + u16(payload)
        versions = extension(43, b"\4\3\4\3\3")
        return body(b"o" * 32, b"s" * 32, sni(PUBLIC_NAME) + versions + shared + extension(0xFE0D, ech))

    payload = seal(encoded, outer(b"\0" * (len(encoded) + 16)))
    hello = outer(payload)
    return b"\x16\3\1" + u16(b"\1" + struct.pack(">I", len(hello))[1:] + hello)


def main():
    private, config, listed = key()
    boringssl(listed)
    for name, number in (("aes-128-gcm", 1), ("aes-256-gcm", 2), ("chacha20-poly1305", 3)):
        agrees_with_openssl(private, number)
        (HERE / f"{name}.bin").write_bytes(hand_made(private.public_key(), config, number))


def boringssl(listed):
    import curl_cffi
    from curl_cffi import Curl, CurlOpt

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    got = []

    def accept():
        stream, _ = listener.accept()
        data = b""
        while len(data) < 5 or len(data) < 5 + struct.unpack(">H", data[3:5])[0]:
            data += stream.recv(65536)
        got.append(data)
        stream.close()

    thread = threading.Thread(target=accept)
    thread.start()
    curl = Curl()
    curl.setopt(CurlOpt.URL, f"https://{INNER_NAME.decode()}:{port}/".encode())
    curl.setopt(CurlOpt.RESOLVE, [f"{INNER_NAME.decode()}:{port}:127.0.0.1"])
    curl.setopt(CurlOpt.ECH, f"ecl:{listed}".encode())
    try:
        curl.perform()
    except curl_cffi.CurlError:
        pass
    thread.join()
    (HERE / "boringssl.bin").write_bytes(got[0])


if __name__ == "__main__":
    main()
