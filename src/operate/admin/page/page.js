"use strict";
// Keeps the page current. Each event of the server is a reason to ask for the sections that have changed since the last
// answer; they are patched into the page, so that focus, scroll position, selection and typed text stay.
(() => {
  const root = document.documentElement, $ = (selector, from = document) => from.querySelector(selector);
  root.classList.add("js");

  // ---- theme

  const themes = ["auto", "light", "dark"], themeButton = $("#theme");
  const store = (area, key, value) => {
    try {
      if (value === undefined) return area().getItem(key);
      if (value === null) area().removeItem(key); else area().setItem(key, value);
    } catch { /* storage is off: the choice lasts as long as the page */ }
    return null;
  };
  function setTheme(theme) {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    themeButton.textContent = "Theme: " + theme;
  }
  let theme = themes.includes(store(() => localStorage, "theme")) ? store(() => localStorage, "theme") : "auto";
  setTheme(theme);
  themeButton.onclick = () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
    store(() => localStorage, "theme", theme);
  };

  // ---- patching

  // Makes `old` like `fresh`, and changes only what differs. Rows are recognized by `data-key`.
  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && !keeps(old, name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes)
      if (old.getAttribute(name) !== value && !keeps(old, name)) old.setAttribute(name, value);
    const keyed = new Map([...old.children].filter(keyOf).map(child => [keyOf(child), child]));
    const wanted = new Set([...fresh.children].map(keyOf));
    for (const [key, child] of keyed) if (!wanted.has(key)) child.remove();
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const key = keyOf(next);
      const same = key ? keyed.get(key) : at && !keyOf(at) && at.nodeName === next.nodeName ? at : null;
      if (!same) { old.insertBefore(document.importNode(next, true), at); continue; }
      if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
      if (same.nodeType === Node.ELEMENT_NODE) patch(same, next);
      else if (same.nodeValue !== next.nodeValue) same.nodeValue = next.nodeValue;
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  }
  const keyOf = node => node.dataset?.key;
  // What the reader has changed.
  const keeps = (element, name) => element.tagName === "DETAILS" && name === "open" || element.tagName === "INPUT" && name === "value";

  function show(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html"), main = $("main", fresh);
    if (!main) throw new Error("not a page");
    if (main.dataset.build !== $("main").dataset.build) return renew();
    const focused = document.activeElement;
    for (const section of main.children) {
      const old = document.getElementById(section.id);
      if (old) patch(old, document.importNode(section, true));
    }
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    document.title = $("title", fresh).textContent;
    const icon = $("link[rel=icon]", fresh);
    if (icon) $("link[rel=icon]").href = icon.href;
    generation = main.dataset.generation;
  }

  // Another version answers: its page replaces this one, unless somebody is typing here.
  function renew() {
    if (dialog.open || /^(INPUT|SELECT)$/.test(document.activeElement.tagName)) return;
    location.reload();
  }

  // ---- asking

  // What is asked for, as the address of the page says. A question was answered once.
  function parameters(without = []) {
    const query = new URLSearchParams(location.search);
    without.forEach(key => query.delete(key));
    return query;
  }
  let generation = $("main").dataset.generation, asking = null, again = false, started = 0, shown = 0;

  // One request at a time; what is asked for meanwhile is one more.
  async function refresh() {
    if (asking) { again = true; return; }
    asking = ask(parameters(["name", "alpn", "source"]), { since: generation });
    try { await asking; } finally { asking = null; }
    if (again) { again = false; await refresh(); }
  }
  async function ask(query, more) {
    for (const [key, value] of Object.entries(more)) query.set(key, value);
    const mine = ++started;
    const answer = await fetch("sections?" + query, { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error("status " + answer.status);
    const text = await answer.text();
    // The answer to an earlier request may arrive later.
    if (mine < shown) return;
    shown = mine;
    show(text);
  }

  // ---- events

  const lost = $("#lost"), pulse = $("#pulse");
  let events = null, wait = 1000, retry = 0;

  function listen() {
    clearTimeout(retry);
    events?.close();
    const current = events = new EventSource("api/v1/events");
    // Not all open pages at the same moment. One request may fail because others need its place.
    const tick = () => pause(150).then(refresh).catch(() => pause(800).then(refresh)).then(connected, () => failed(current));
    for (const kind of ["status", "backend", "reload", "stage"]) events.addEventListener(kind, tick);
    events.addEventListener("status", () => wait = 1000, { once: true });
    events.onerror = () => failed(current);
  }
  const pause = ms => new Promise(resolve => setTimeout(resolve, Math.random() * ms));
  function connected() {
    if (!root.classList.contains("is-lost") && pulse.textContent === "Live") return;
    root.classList.remove("is-lost");
    lost.textContent = "";
    pulse.textContent = "Live";
  }
  function disconnected() {
    if (root.classList.contains("is-lost")) return;
    root.classList.add("is-lost");
    pulse.textContent = "Retrying";
    lost.textContent = "Connection lost, retrying. What you see is from " + new Date().toISOString().slice(11, 19) + " UTC.";
  }
  // The stream has ended, or has no room for another page. Asking still works in between, unless snigate is away.
  function failed(of) {
    if (of !== events) return;
    events.close();
    events = null;
    clearTimeout(retry);
    // Not all open pages at the same moment.
    retry = setTimeout(() => refresh().then(connected, disconnected).finally(listen), wait * (.75 + Math.random() / 2));
    wait = Math.min(wait * 1.5, 5000);
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return listen();
    clearTimeout(retry);
    events?.close();
    events = null;
  });
  addEventListener("pagehide", () => events?.close());
  if (!document.hidden) listen();

  // ---- searching and paging: the address of the page holds what is asked for, never the token

  function go(change) {
    const query = parameters();
    for (const [key, value] of change) if (value) query.set(key, value); else query.delete(key);
    history.replaceState(null, "", "?" + query);
    return ask(query, { all: 1 }).then(connected, () => events && failed(events));
  }
  let typing = 0;
  document.addEventListener("submit", event => {
    if (!event.target.matches("form[data-find]")) return;
    event.preventDefault();
    clearTimeout(typing);
    find(event.target);
  });
  document.addEventListener("input", event => {
    const form = event.target.closest("form[data-find]");
    if (!form || form.id === "ask") return;
    clearTimeout(typing);
    typing = setTimeout(find, 250, form);
  });
  function find(form) {
    const change = [...new FormData(form)];
    if (form.dataset.find) for (const key of form.dataset.find.split(" ")) change.push([key, ""]);
    return go(change);
  }
  document.addEventListener("click", event => {
    const link = event.target.closest("a[data-page]");
    if (!link) return;
    event.preventDefault();
    const to = new URL(link.href).searchParams, keys = link.dataset.page.split(" ");
    go(keys.map(key => [key, to.get(key)]));
  });

  // ---- changes: each is confirmed in one dialog, which asks for the token once

  const dialog = $("#change"), form = $("form", dialog), said = $(".said", dialog), secret = $("#token");
  let token = store(() => sessionStorage, "token"), change = null;
  const forget = $("#forget");
  const hold = value => {
    token = value;
    store(() => sessionStorage, "token", value);
    forget.hidden = !value;
  };
  forget.hidden = !token;
  forget.onclick = () => { hold(null); forget.hidden = true; };

  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-change]");
    if (!button) return;
    const row = button.closest("tr"), isBackend = button.dataset.change === "backend";
    change = { ...button.dataset, pool: row.parentNode.dataset.key, key: row.dataset.key };
    $("h2", dialog).textContent = isBackend ? change.key : button.ariaLabel;
    $("#what", dialog).textContent = isBackend ? "In pool " + change.pool : "Connection " + change.key;
    $("#of-backend").hidden = $("#of-backend").disabled = !isBackend;
    $("#of-connection").hidden = isBackend;
    if (isBackend) {
      form.state.value = change.state;
      form.weight.value = change.weight;
      $("#weight-of-file").textContent = change.weightSet ? "Set by hand. Leave the field empty to use the weight of the file." : "The field shows the weight of the file.";
    }
    const go = $("#go");
    go.textContent = isBackend ? "Apply" : "End connection";
    go.className = isBackend ? "main" : "danger";
    secret.value = said.textContent = "";
    askForToken(!token);
    dialog.showModal();
  });
  function askForToken(wanted) {
    $("#of-token").hidden = !wanted;
    secret.required = wanted;
  }
  $("#cancel").onclick = () => dialog.close();

  form.addEventListener("submit", async event => {
    event.preventDefault();
    const go = $("#go"), given = token || secret.value.trim();
    go.disabled = true;
    said.textContent = "";
    try {
      for (const [method, path, body] of requests()) await send(given, method, path, body);
      hold(given);
      dialog.close();
      ask(parameters(), { all: 1 }).catch(() => {});
    } catch (error) {
      said.textContent = error.message;
      if (error.status === 401) { hold(null); askForToken(true); secret.focus(); }
    } finally {
      go.disabled = false;
    }
  });
  // What differs from the state that the dialog began with.
  function requests() {
    if (change.change === "connection") return [["DELETE", "api/v1/connections/" + change.key]];
    const at = "api/v1/pools/" + encodeURIComponent(change.pool) + "/backends/" + encodeURIComponent(change.key);
    const wanted = [], weight = form.weight.value.trim();
    if (form.state.value && form.state.value !== change.state) wanted.push(["PUT", at + "/state", form.state.value]);
    if (weight === "" && change.weightSet) wanted.push(["DELETE", at + "/weight"]);
    else if (weight !== "" && weight !== change.weight) wanted.push(["PUT", at + "/weight", weight]);
    if (!wanted.length) throw new Error("Nothing was changed.");
    return wanted;
  }
  async function send(given, method, path, body) {
    const answer = await fetch(path, { method, body, headers: { Authorization: "Bearer " + given }, cache: "no-store" })
      .catch(() => { throw new Error("snigate does not answer."); });
    if (answer.ok) return;
    const problem = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(problem.detail || problem.error || "status " + answer.status), { status: answer.status });
  }
})();
