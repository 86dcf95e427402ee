// Keeps a WebSocket open: sends every line of stdin as a text message, prints every text message that comes.
//
// In:  argv: address, port, server name, CA file.
// Out: "open" once it is; then the messages. Exit 1 when the other side ends it.
// Source: RFC 6455, as much of it as short text messages need.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const readline = require('node:readline');

const [host, port, servername, ca] = process.argv.slice(2);
const key = crypto.randomBytes(16).toString('base64');
const accepted = crypto.createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
const request = https.get({
  host,
  port,
  servername,
  ca: fs.readFileSync(ca),
  agent: false,
  headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': 13 },
});

function ended(why) {
  console.error(`ended: ${why}`);
  process.exit(1);
}

request.on('error', (error) => ended(error.message));
request.on('response', (response) => ended(`status ${response.statusCode}`));
request.on('upgrade', (response, socket) => {
  if (response.headers['sec-websocket-accept'] !== accepted) ended('a wrong Sec-WebSocket-Accept');
  let pending = Buffer.alloc(0);
  socket.on('data', (data) => {
    pending = Buffer.concat([pending, data]);
    while (pending.length >= 2 && pending.length >= 2 + pending[1]) {
      console.log(pending.subarray(2, 2 + pending[1]).toString());
      pending = pending.subarray(2 + pending[1]);
    }
  });
  socket.on('end', () => ended('FIN'));
  socket.on('error', (error) => ended(error.message));
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const mask = crypto.randomBytes(4);
    const text = Buffer.from(line);
    const masked = text.map((byte, at) => byte ^ mask[at % 4]);
    socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length]), mask, masked]));
  });
  console.log('open');
});
