// Asks for / as Node's own client does.
//
// In:  argv: address, port, server name ('' for none), CA file, TLS version ('' for whatever is agreed).
// Out: the body on stdout; or the error's code on stderr and exit 1.
'use strict';
const fs = require('node:fs');
const https = require('node:https');

const [host, port, servername, ca, version] = process.argv.slice(2);
const options = { host, port, servername, ca: fs.readFileSync(ca), agent: false };
if (version) options.minVersion = options.maxVersion = version;
https
  .get(options, (response) => response.pipe(process.stdout))
  .on('error', (error) => {
    console.error(`${error.code}: ${error.message}`);
    process.exitCode = 1;
  });
