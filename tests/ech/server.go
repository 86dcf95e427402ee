// A TLS server of Go, which accepts inner hellos: with a key file it is the server of a public name that knows the keys, and
// sends `retry_configs` to a client whose key is another one.
//
//	go run tests/ech/server.go NAME [KEYFILE]      prints a port, then serves until its input ends
package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"
)

func main() {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(os.Args[1])}}
	if len(os.Args) > 2 {
		config.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{key(os.Args[2])}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			stream, err := listener.Accept()
			must(err)
			go answer(tls.Server(stream, config), os.Args[1])
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

func answer(stream *tls.Conn, name string) {
	defer stream.Close()
	if _, err := stream.Read(make([]byte, 65536)); err != nil {
		return
	}
	body := fmt.Sprintf("%s was asked for %s\n", name, stream.ConnectionState().ServerName)
	fmt.Fprintf(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// The key of an RFC 9934 file: a `PRIVATE KEY`, and an `ECHCONFIG`, which is a list of one behind its length.
func key(file string) tls.EncryptedClientHelloKey {
	text, err := os.ReadFile(file)
	must(err)
	private, text := pem.Decode(text)
	list, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(private.Bytes)
	must(err)
	config := bytes.Clone(list.Bytes[2:])
	return tls.EncryptedClientHelloKey{Config: config, PrivateKey: parsed.(*ecdh.PrivateKey).Bytes(), SendAsRetry: true}
}

func certificate(name string) tls.Certificate {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
