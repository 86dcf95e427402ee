// The status page in a real Chromium, with the real binary and real backends.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Backend, Place, Snigate, TOKEN, axe, connect, freePort, launch, live, needBinary, open, sendHello, shoot, until } from "./lib/setup.js";

needBinary();
const place = new Place();
let browser, snigate, listener, one, two, three;
const sockets = [];

const config = (more = "") => `
listeners:
  - { name: https, bind: 127.0.0.1:${listener} }
  - { name: other, bind: 127.0.0.1:0 }
routes:
  - { sni: [shop.test, "*.shop.test"], pool: shop, name: shop }
  - { sni: git.test, pool: git }
  - { sni: old.test, pool: git, name: "<b id=injected>old</b>" }
pools:
  shop: { backends: ["${one.address}", "${two.address}"], health_check: { kind: tls, interval: 200ms, timeout: 1s, rise: 1, fall: 1 } }
  git: { backends: ["${three.address}"] }
  named: { backends: ["localhost:${three.port}"] }
admin: { bind: 127.0.0.1:${place.admin}, allow_control: token, token_file: token }
log: { connections: failed }
${more}`;

before(async () => {
  [place.admin, listener] = [await freePort(), await freePort()];
  [one, two, three] = [await Backend.start(place), await Backend.start(place), await Backend.start(place)];
  snigate = await Snigate.start(place, config());
  await until(async () => (await snigate.status()).pools[0].backends.every(({ state }) => state === "up"), "backends are up");
  for (const name of ["shop.test", "a.shop.test", "git.test"]) sockets.push(await connect(listener, name));
  browser = await launch();
});

after(async () => {
  for (const socket of sockets) socket.destroy();
  await browser?.close();
  await snigate?.stop();
  for (const backend of [one, two, three]) await backend?.down();
  place.remove();
});

// Every test ends with this: nothing complained, and the page asked nobody but its own server.
async function clean(page) {
  assert.deepEqual(page.complaints, []);
  const foreign = page.requested.filter(url => !url.startsWith(snigate.url) && !url.startsWith("data:"));
  assert.deepEqual(foreign, []);
  await page.context().close();
}

const text = (page, selector) => page.locator(selector).innerText();
const row = (page, section, key) => page.locator(`#${section} tr`, { has: page.locator("th", { hasText: key }) });

test("it shows listeners, routes, pools, certificates, limits and connections", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  assert.match(await text(page, "#wrong"), /All is well|expires in/);
  assert.match(await row(page, "listeners", "https").innerText(), /accepting/);
  const other = (await snigate.status()).listeners.find(({ name }) => name === "other").addresses[0];
  assert.match(other, /^127\.0\.0\.1:[1-9]/);
  assert.ok((await row(page, "listeners", "other").innerText()).includes(other), "the port that the system chose");
  assert.match(await row(page, "routes", "git.test").innerText(), /git/);
  assert.match(await row(page, "routes", "old").innerText(), /never matched/);
  const backend = await row(page, "pools", one.address).innerText();
  assert.match(backend, /up/);
  assert.match(backend, /shop\.test/);
  assert.match(backend, /in [89] days/);
  assert.match(await text(page, "#limits"), /File descriptors[^]*Memory/);
  assert.match(await row(page, "pools", "named").first().innerText(), /unchecked/);
  assert.match(await row(page, "names", "localhost").innerText(), /resolved[^]*127\.0\.0\.1[^]*named/);
  await page.locator("#connections tbody tr").nth(2).waitFor();
  assert.match(await text(page, "#connections"), /a\.shop\.test/);
  // A name of the file that looks like HTML is text.
  assert.equal(await page.locator("#injected").count(), 0);
  await clean(page);
});

test("a backend that goes down and comes back is shown without loading the page again", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  await page.evaluate(() => globalThis.mark = "the same document");
  await one.down();
  await row(page, "pools", one.address).getByText("failing").waitFor();
  await page.locator("#wrong .problem", { hasText: one.address }).waitFor();
  await two.down();
  await page.locator("#wrong .problem.bad", { hasText: "Pool shop" }).first().waitFor();
  assert.match(await page.title(), /problem/);
  await shoot(page, "pool-down");
  await one.up();
  await two.up();
  for (const backend of [one, two]) await row(page, "pools", backend.address).getByText("up", { exact: true }).waitFor();
  await until(async () => await page.locator("#wrong .problem.bad").count() === 0, "the problem is gone");
  assert.equal(await page.evaluate(() => globalThis.mark), "the same document");
  await clean(page);
});

test("focus, typed text and selection survive updates", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  const name = page.locator("#ask [name=name]");
  await name.fill("half-typed.exam");
  await page.locator("#connections .scroll").evaluate(scroll => scroll.dataset.seen = "kept");
  const before = await page.locator("#limits").innerText();
  await page.waitForFunction(before => document.querySelector("#limits").innerText !== before, before);
  assert.equal(await name.inputValue(), "half-typed.exam");
  assert.ok(await name.evaluate(input => input === document.activeElement));
  await clean(page);
});

test("explain answers as the command line does, and says what is wrong with a question", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  await page.locator("#ask [name=name]").fill("a.shop.test");
  await page.locator("#ask [name=alpn]").fill("h2");
  await page.locator("#ask button").click();
  await page.locator("#explain .answer", { hasText: "a.shop.test goes to pool shop" }).waitFor();
  assert.match(await text(page, "#explain .answer"), /ALPN h2/);
  // It stays while the rest of the page is updated.
  const before = await page.locator("#limits").innerText();
  await page.waitForFunction(before => document.querySelector("#limits").innerText !== before, before);
  assert.match(await text(page, "#explain .answer"), /goes to pool shop/);
  await page.locator("#ask [name=source]").fill("nowhere");
  await page.locator("#ask button").click();
  await page.locator("#explain .answer.bad", { hasText: "nowhere` is not an IP address" }).waitFor();
  await clean(page);
});

test("a rejected reload is shown with its line, and its repair too", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  place.write("config.yaml", config().replace("sni: git.test, pool: git", "sni: git.test, pool: gti"));
  await page.locator("#reload", { hasText: "rejected" }).waitFor();
  const reload = await text(page, "#reload");
  assert.match(reload, /config\.yaml:7:\d+/);
  assert.match(reload, /sni: git\.test, pool: gti/);
  await page.locator("#wrong .problem", { hasText: "rejected" }).waitFor();
  await shoot(page, "reload-rejected");
  place.write("config.yaml", config());
  await until(async () => !/rejected/.test(await text(page, "#reload")), "the reload is accepted");
  await clean(page);
});

test("names full of HTML, escape sequences and bidi controls are text", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  const markup = "<img src=x onerror=alert(1)>.test";
  await sendHello(listener, markup);
  await sendHello(listener, "unknown.test");
  await sendHello(listener, "\u001b[31m\u202emoc.evil\u202c.test");
  await page.locator("#unknown", { hasText: "unknown.test" }).waitFor();
  await page.locator("#refusals tbody tr").nth(2).waitFor();
  const shown = await page.locator("main").innerHTML();
  assert.equal(await page.locator("main img").count(), 0);
  assert.doesNotMatch(shown, /[\u001b\u202e\u202c]/);
  await page.locator("input[name=connections]").fill("\"><script>x</script>");
  await page.locator("#connections .empty", { hasText: "<script>x</script>" }).waitFor();
  assert.equal(await page.locator("main script").count(), 0);
  await clean(page);
});

test("connections are found, and one is ended with the token, which is asked for once", async () => {
  const socket = await connect(listener, "end.shop.test");
  const closed = new Promise(resolve => socket.on("close", resolve));
  const page = await open(browser, snigate.url);
  await live(page);
  await page.locator("input[name=connections]").fill("end.shop");
  await page.locator("#connections", { hasText: "1 match" }).waitFor();
  await page.locator("#connections tbody tr", { hasText: "end.shop.test" }).getByRole("button").click();
  await page.locator("#token").fill("wrong");
  await page.locator("#go").click();
  await page.locator("#change .said", { hasText: "not the token" }).waitFor();
  await shoot(page, "end-connection");
  assert.deepEqual(await axe(page), []);
  await page.locator("#token").fill(TOKEN);
  await page.locator("#go").click();
  await closed;
  await page.locator("#connections .empty").waitFor();
  await page.locator("input[name=connections]").fill("");
  await page.locator("#connections tbody tr").first().waitFor();

  // The token is held now, in this tab only, and no URL ever had it.
  await row(page, "pools", two.address).getByRole("button").click();
  assert.ok(await page.locator("#of-token").isHidden());
  await page.locator("#change [value=drain]").check();
  await page.locator("#change [name=weight]").fill("7");
  await shoot(page, "change-backend");
  await page.locator("#go").click();
  await row(page, "pools", two.address).getByText("drain", { exact: true }).waitFor();
  assert.match(await row(page, "pools", two.address).innerText(), /7\s*set by hand/);
  await row(page, "pools", two.address).getByRole("button").click();
  await page.locator("#change [value=ready]").check();
  await page.locator("#change [name=weight]").fill("");
  await page.locator("#go").click();
  await row(page, "pools", two.address).getByText("up", { exact: true }).waitFor();
  const { pools } = await snigate.status();
  assert.equal(pools[0].backends.find(({ address }) => address === two.address).weight_set, null);
  assert.ok(page.requested.every(url => !url.includes(TOKEN)));
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
  assert.equal(await page.evaluate(() => document.cookie), "");
  await page.locator("#forget").click();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await clean(page);
});

test("without JavaScript it is a page of tables with searches and pages", async () => {
  const page = await open(browser, `${snigate.url}?name=shop.test&connections=git`, { javaScriptEnabled: false });
  assert.match(await text(page, "#explain .answer"), /shop\.test goes to pool shop/);
  assert.match(await text(page, "#connections"), /git\.test/);
  assert.doesNotMatch(await text(page, "#connections"), /a\.shop\.test/);
  assert.equal(await page.locator("button[data-change]:visible").count(), 0);
  await page.locator("input[name=routes]").fill("shop");
  await page.locator("#routes button").click();
  await page.waitForURL(/routes=shop/);
  assert.equal(await page.locator("#routes tbody tr").count(), 1);
  await shoot(page, "without-javascript");
  await page.context().close();
});

test("axe finds nothing in both themes and at both widths, and nothing scrolls sideways", async () => {
  await sendHello(listener, "unknown.test");
  for (const colorScheme of ["light", "dark"]) for (const width of [360, 1280]) {
    const page = await open(browser, `${snigate.url}?name=shop.test`, { colorScheme, viewport: { width, height: 900 } });
    await live(page);
    assert.deepEqual(await axe(page), [], `${colorScheme} ${width}`);
    const [has, fits] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(has <= fits, `${has} px wide at ${fits}`);
    await shoot(page, `${colorScheme}-${width}`);
    await clean(page);
  }
});

test("the theme can be chosen, and is kept", async () => {
  const page = await open(browser, snigate.url, { colorScheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.locator("#theme").click();
  assert.equal(await ground(), light);
  await page.locator("#theme").click();
  assert.notEqual(await ground(), light);
  await page.reload();
  assert.notEqual(await ground(), light);
  assert.equal(await text(page, "#theme"), "Theme: dark");
  await clean(page);
});

test("it can be used with the keyboard alone", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  const button = row(page, "pools", one.address).getByRole("button");
  await button.focus();
  await page.keyboard.press("Enter");
  assert.ok(await page.locator("#change").isVisible());
  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#change").isHidden());
  assert.ok(await button.evaluate(element => element === document.activeElement), "focus returns");
  await clean(page);
});

test("a page for which no stream of events is left asks by itself", async () => {
  const streams = [];
  for (;;) {
    const stream = new AbortController();
    const answer = await fetch(`${snigate.url}api/v1/events`, { signal: stream.signal });
    if (answer.status === 503) break;
    streams.push(stream);
    assert.ok(streams.length < 100, "streams have a limit");
  }
  const page = await open(browser, snigate.url);
  await live(page);
  const before = await page.locator("#limits").innerText();
  await page.waitForFunction(before => document.querySelector("#limits").innerText !== before, before);
  assert.equal(await text(page, "#pulse"), "Live");
  for (const stream of streams) stream.abort();
  await clean(page);
});

// Last, since they end what the other tests use.
test("an open page goes on over a restart and an upgrade", async () => {
  const page = await open(browser, snigate.url);
  await live(page);
  await page.evaluate(() => globalThis.mark = "the same document");
  await snigate.stop();
  await page.locator("#lost", { hasText: "Connection lost, retrying" }).waitFor();
  assert.deepEqual(await axe(page), []);
  await shoot(page, "connection-lost");
  await snigate.run();
  await live(page);
  assert.ok(await page.locator("#lost").isHidden());
  const { pid } = await snigate.status();
  await page.locator("#limits", { hasText: `process ${pid}` }).waitFor();

  snigate.process.kill("SIGUSR2");
  const next = await until(async () => {
    const status = await snigate.status().catch(() => null);
    return status && status.pid !== pid && status;
  }, "the new process answers");
  snigate.successor = next.pid;
  await page.locator("#limits", { hasText: `process ${next.pid}` }).waitFor();
  await live(page);
  assert.equal(await page.evaluate(() => globalThis.mark), "the same document");
  process.kill(next.pid, "SIGTERM");
  await clean(page);
});
