// HTTPS servers for the tests, one on each port, with whatever certificates they are given.
//
// In:  argv[2]: JSON, {"SERVER": [{"name": …, "certificate": FILE, "key": FILE}, …], …}. A server with several
//      names picks the certificate by SNICallback.
// Out: one line of JSON, {"SERVER": port, …}. Ends when stdin does, so that it never outlives its test.
//
//   GET /             who answers, and what it saw of the connection
//   GET /bytes/N      N bytes, the same every time; GET /hash/N is their SHA-256
//   PUT /upload       answers the SHA-256 of the body
//   GET /held/N       the first half of /bytes/N, and the rest after a GET /release
//   WebSocket         echoes every text message, with the server's name before it
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const tls = require('node:tls');
const { pipeline, Readable } = require('node:stream');

const held = [];

function* pattern(length) {
  const cipher = crypto.createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
  const zeros = Buffer.alloc(256 * 1024);
  for (let left = length; left > 0; left -= zeros.length) {
    yield cipher.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
  }
}

async function* patternInTwo(length) {
  let sent = 0;
  for (const chunk of pattern(length)) {
    if (sent < length / 2 && sent + chunk.length >= length / 2) {
      await new Promise((release) => held.push(release));
    }
    sent += chunk.length;
    yield chunk;
  }
}

function patternHash(length) {
  const hash = crypto.createHash('sha256');
  for (const chunk of pattern(length)) hash.update(chunk);
  return hash.digest('hex');
}

function describe(server, socket) {
  return JSON.stringify({
    server,
    servername: socket.servername,
    protocol: socket.getProtocol(),
    reused: socket.isSessionReused(),
  });
}

function answer(server, request, response) {
  const [, what, number] = request.url.split('/');
  const length = Number(number);
  response.setHeader('Connection', 'close');
  switch (what) {
    case '':
      return response.end(describe(server, request.socket));
    case 'bytes':
    case 'held':
      response.setHeader('Content-Length', length);
      return pipeline(Readable.from(what === 'held' ? patternInTwo(length) : pattern(length)), response, () => {});
    case 'hash':
      return response.end(patternHash(length));
    case 'upload': {
      const hash = crypto.createHash('sha256');
      request.on('data', (chunk) => hash.update(chunk));
      return request.on('end', () => response.end(hash.digest('hex')));
    }
    case 'release': {
      const released = held.splice(0);
      released.forEach((release) => release());
      return response.end(String(released.length));
    }
    default:
      response.statusCode = 404;
      return response.end();
  }
}

// RFC 6455, as much of it as short text messages need.
function echo(server, request, socket) {
  const accept = crypto
    .createHash('sha1')
    .update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')
    .digest('base64');
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let pending = Buffer.alloc(0);
  socket.on('data', (data) => {
    pending = Buffer.concat([pending, data]);
    while (pending.length >= 6 && pending.length >= 6 + (pending[1] & 0x7f)) {
      const length = pending[1] & 0x7f;
      const mask = pending.subarray(2, 6);
      const text = Buffer.from(pending.subarray(6, 6 + length).map((byte, at) => byte ^ mask[at % 4]));
      if ((pending[0] & 0x0f) === 8) return socket.end();
      const reply = Buffer.from(`${server}: ${text}`);
      socket.write(Buffer.concat([Buffer.from([0x81, reply.length]), reply]));
      pending = pending.subarray(6 + length);
    }
  });
  socket.on('error', () => {});
}

async function listen(server, certificates) {
  const read = ({ certificate, key }) => ({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) });
  const contexts = new Map(certificates.map((one) => [one.name, tls.createSecureContext(read(one))]));
  const options = read(certificates[0]);
  if (certificates.length > 1) {
    options.SNICallback = (name, done) => done(null, contexts.get(name));
  }
  const https_server = https.createServer(options, (request, response) => answer(server, request, response));
  https_server.on('upgrade', (request, socket) => echo(server, request, socket));
  await new Promise((ready) => https_server.listen(0, '127.0.0.1', ready));
  return https_server.address().port;
}

async function main() {
  const ports = {};
  for (const [server, certificates] of Object.entries(JSON.parse(process.argv[2]))) {
    ports[server] = await listen(server, certificates);
  }
  console.log(JSON.stringify(ports));
  process.stdin.on('end', () => process.exit(0)).resume();
}

main();
