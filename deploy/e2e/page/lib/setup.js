// Starts what a test needs on loopback: backends, snigate, a browser. Everything ends with the test.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import tls from "node:tls";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
export const binary = process.env.SNIGATE ?? join(here, "../../../target/debug/snigate");
export const artifacts = process.env.SNIGATE_ARTIFACTS ?? join(here, "artifacts");
export const TOKEN = "4f1d0c8e2b";
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

mkdirSync(artifacts, { recursive: true });

export async function until(condition, what, seconds = 15) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${typeof what === "function" ? what() : what}`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

const given = new Set();

// Below the range from which the kernel takes the ports of clients: it stays free until it is bound.
export async function freePort() {
  for (;;) {
    const port = 10000 + Math.floor(Math.random() * 20000);
    const server = net.createServer();
    const bound = await new Promise(resolve => server.once("error", () => resolve(false))
      .listen(port, "127.0.0.1", () => resolve(true)));
    if (!bound) continue;
    if (given.has(port)) { server.close(); continue; }
    given.add(port);
    server.close();
    await once(server, "close");
    return port;
  }
}
// A directory for one test file, with a certificate that its backends share.
export class Place {
  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "snigate-page-"));
    execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
      "-keyout", this.path("key.pem"), "-out", this.path("cert.pem"), "-days", "9", "-subj", "/CN=shop.test",
      "-addext", "subjectAltName=DNS:shop.test,DNS:*.shop.test"], { stdio: "ignore" });
    this.key = readFileSync(this.path("key.pem"));
    this.cert = readFileSync(this.path("cert.pem"));
  }
  path(name) { return join(this.directory, name); }
  write(name, text) { writeFileSync(this.path(name), text); }
  remove() { rmSync(this.directory, { recursive: true, force: true }); }
}

// A TLS server that can be stopped and started again at its port. It greets, then keeps what comes.
export class Backend {
  constructor(place, port) { this.place = place; this.port = port; this.sockets = new Set(); }
  static async start(place) {
    const backend = new Backend(place, await freePort());
    await backend.up();
    return backend;
  }
  get address() { return `127.0.0.1:${this.port}`; }
  async up() {
    this.server = tls.createServer({ key: this.place.key, cert: this.place.cert }, socket => {
      this.sockets.add(socket);
      socket.on("error", () => {}).on("close", () => this.sockets.delete(socket));
      socket.write("hello\n");
    });
    this.server.on("tlsClientError", () => {});
    this.server.listen(this.port, "127.0.0.1");
    await once(this.server, "listening");
  }
  async down() {
    const closed = once(this.server, "close");
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

export class Snigate {
  constructor(place) { this.place = place; this.log = ""; }
  static async start(place, config) {
    const snigate = new Snigate(place);
    place.write("token", TOKEN);
    place.write("config.yaml", config);
    await snigate.run();
    return snigate;
  }
  async run() {
    this.process = spawn(binary, ["run", this.place.path("config.yaml")], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on("data", text => this.log += text);
    await this.ready();
  }
  async ready() {
    await until(async () => {
      if (this.process.exitCode !== null) throw new Error(`snigate ended\n${this.log}`);
      return (await fetch(`${this.url}readyz`).catch(() => null))?.ok;
    }, () => `ready\n${this.log}`);
  }
  get admin() { return this.place.admin; }
  get url() { return `http://127.0.0.1:${this.admin}/`; }
  status() { return fetch(`${this.url}api/v1/status`).then(answer => answer.json()); }
  async stop() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await exited;
  }
}

// A TLS connection through snigate that is open.
export async function connect(port, servername) {
  const socket = tls.connect({ host: "127.0.0.1", port, servername, rejectUnauthorized: false });
  socket.on("error", () => {});
  await once(socket, "data");
  return socket;
}

// A client whose hello carries any bytes as its name: Node would not send them.
export async function sendHello(port, name) {
  const bytes = Buffer.from(name, "utf8");
  const u16 = number => Buffer.from([number >> 8, number & 255]);
  const with16 = body => Buffer.concat([u16(body.length), body]);
  const list = with16(Buffer.concat([Buffer.from([0]), with16(bytes)]));
  const versions = Buffer.from([0, 0x2b, 0, 3, 2, 3, 4]);
  const extensions = with16(Buffer.concat([Buffer.from([0, 0]), with16(list), versions]));
  const body = Buffer.concat([Buffer.from([3, 3]), Buffer.alloc(32, 7), Buffer.from([0, 0, 2, 0x13, 1, 1, 0]), extensions]);
  const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
  const socket = net.connect(port, "127.0.0.1");
  socket.on("error", () => {});
  socket.end(Buffer.concat([Buffer.from([22, 3, 1]), with16(message)]));
  socket.resume();
  await once(socket, "close");
}

// Each start has a new profile.
export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

// Opens the page and gathers what the browser complains about.
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.complaints = [];
  // A server that is away is no fault of the page: the browser reports each failed request by itself.
  const isNetwork = text => /net::ERR_|Failed to load resource/.test(text);
  page.on("console", message => {
    if (["error", "warning"].includes(message.type()) && !isNetwork(message.text())) page.complaints.push(message.text());
  });
  page.on("pageerror", error => page.complaints.push(String(error)));
  await page.addInitScript(() => addEventListener("securitypolicyviolation", event =>
    console.error("policy violated:", event.violatedDirective, event.blockedURI)));
  page.requested = [];
  page.on("request", request => page.requested.push(request.url()));
  await page.goto(url);
  return page;
}

// Waits until the page is connected to the events and has shown its first update.
export const live = page => page.waitForFunction(() => document.querySelector("#pulse").textContent === "Live");

export async function shoot(page, name) {
  await page.screenshot({ path: join(artifacts, `${name}.png`), fullPage: true });
}

export async function axe(page) {
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => node.html).join(" | ")}`);
}

export function needBinary() {
  if (!existsSync(binary)) throw new Error(`${binary} is not there: cargo build --locked`);
}
