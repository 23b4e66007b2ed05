// The admin page: the state of the server, and actions on it.
import { bytes, lines, memory } from "./charts.js";
import { LANGUAGES, SETTINGS } from "./chinese-admin.js";
import { EVENTS } from "./chinese-events.js";
import { PHRASES } from "./phrases.js";
import { inChinese } from "./translate.js";

const at = (id) => document.getElementById(id);
const made = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((one) => one !== null && one !== undefined && one !== false));
  return element;
};
const TABS = ["now", "workers", "queue", "deaths", "models", "settings", "log"];
const SPANS = { short: 180, long: 10800 };
const MOST_EVENTS = 500;

const remembered = localStorage.getItem("modelserver.tongue") || ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");
let words = PHRASES[remembered] || PHRASES.en;
// A sentence of the server's in the language of the page.
const ours = (text) => (words === PHRASES.zh && text ? inChinese(text) : text);
let health = null;
let deaths = [];
let events = [];
let range = "short";
const history = { short: [], long: [] };
let pulling = null;
let following = null;
let tab = TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "now";

// --- the server ---------------------------------------------------------------------------------

async function ask(method, path, body) {
  const answer = await fetch(path, { method, body: body && JSON.stringify(body), headers: body ? { "Content-Type": "application/json" } : {} });
  const document = await answer.json().catch(() => ({}));
  if (answer.status === 401) { loggedOut(); throw new Error(words.wrong); }
  if (!answer.ok) throw new Error(ours(document.error?.message) || `HTTP ${answer.status}`);
  return document;
}

function say(text) {
  at("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { at("said").textContent = ""; }, 5000);
}

// Nothing is done before it is confirmed.
function act(text, method, path, body) {
  at("confirm-text").textContent = text;
  const dialog = at("confirm");
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return show();
    try {
      await ask(method, path, body);
      say(words.accepted);
    } catch (error) {
      say(error.message);
    }
    if (tab === "models") models();
    show();
  };
  dialog.showModal();
}

const button = (text, then, more = {}) => made("button", { type: "button", textContent: text, onclick: then, ...more });

async function begin() {
  try {
    const session = await ask("GET", "session");
    at("logout").hidden = !session.token_needed;
    if (!session.in) return loggedOut();
    const { fields, short, long } = await ask("GET", "history");
    const named = (rows) => rows.map((row) => Object.fromEntries(fields.map((name, n) => [name, row[n]])));
    begin.fields = fields;
    history.short = named(short);
    history.long = named(long);
    const log = await ask("GET", "log");
    events = log.events;
    at("level").value = log.level;
  } catch (error) {
    if (at("login").hidden) { lost(); setTimeout(begin, 2000); }
    return;
  }
  at("login").hidden = true;
  at("main").hidden = false;
  at("lost").hidden = true;
  follow();
}

function follow() {
  following?.close();
  following = new EventSource("events");
  following.addEventListener("now", ({ data }) => {
    const now = JSON.parse(data);
    health = now.health;
    if (pulling?.state === "pulling" && now.pulling?.state !== "pulling") models();
    pulling = now.pulling;
    for (const row of now.samples) {
      const sample = Object.fromEntries(begin.fields.map((name, n) => [name, row[n]]));
      history.short.push(sample);
      if (!history.long.length || sample.time - history.long.at(-1).time >= 10) history.long.push(sample);
    }
    history.short.splice(0, history.short.length - 720);
    history.long.splice(0, history.long.length - 1080);
    at("lost").hidden = true;
    show();
  });
  following.addEventListener("deaths", ({ data }) => { deaths = JSON.parse(data); if (health) show(); });
  following.addEventListener("log", ({ data }) => {
    events.push(...JSON.parse(data));
    events.splice(0, events.length - MOST_EVENTS);
    if (tab === "log") log();
  });
  following.onerror = () => {
    following.close();
    lost();
    setTimeout(begin, 2000);
  };
}

function lost() { at("lost").textContent = words.lost; at("lost").hidden = false; }

function loggedOut() {
  following?.close();
  at("main").hidden = true;
  at("login").hidden = false;
  at("logout").hidden = true;
  at("token").focus();
}

// --- display ------------------------------------------------------------------------------

function duration(s) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) if (s >= 2 * length) return `${Math.round(s / length)} ${words.units[unit]}`;
  return `${Math.round(s)} ${words.units.s}`;
}

const SHORT = 12; // characters that stay on one line

function table(heads, rows) {
  const head = made("tr", {}, ...heads.map((text) => made("th", { scope: "col", textContent: text })));
  const kind = (cell) => (typeof cell === "number" ? "n" : String(cell ?? "").length <= SHORT ? "short" : "");
  const body = rows.map((cells) => made("tr", {}, ...cells.map((cell) => cell instanceof Node ? made("td", {}, cell) : made("td", { className: kind(cell), textContent: cell ?? "" }))));
  const made_ = made("table", {}, heads.some(Boolean) && made("thead", {}, head), made("tbody", {}, ...body));
  const scroll = made("div", { className: "scroll" }, made_);
  scroll.tabIndex = 0;
  return scroll;
}

// Replaced only where it has changed, so that what is selected or focused stays.
function put(place, ...children) {
  const box = made("div", {}, ...children);
  if (place.dataset.shown === box.innerHTML) return;
  const focused = [...place.querySelectorAll("button, [tabindex]")].indexOf(document.activeElement);
  place.dataset.shown = box.innerHTML;
  place.replaceChildren(...box.childNodes);
  if (focused >= 0) [...place.querySelectorAll("button, [tabindex]")][focused]?.focus();
}

function show() {
  if (!health) return;
  const verdict = at("verdict");
  verdict.className = health.status;
  const text = [words.verdict[health.status] || health.status, (health.status === "draining" ? health.reasons.slice(1) : health.reasons).map(ours).join(words.semicolon)].filter(Boolean).join(" ");
  if (verdict.textContent !== text) verdict.textContent = text;
  at("which").textContent = `${health.model.model || ""} · ${words.version} ${health.version} · ${words.uptime(duration(health.uptime_s))}`;
  ({ now, workers, queue, deaths: theDead, models: served, settings: () => {}, log: () => {} })[tab]();
}

function now() {
  const able = health.workers.filter((one) => ["idle", "busy"].includes(one.state)).length;
  const sample = history.short.at(-1);
  const { queue: line, streams, memory: room } = health;
  const slow = streams.behind_s > 1 || (sample?.p95 ?? 0) > 10;
  const answer = (question, yes, kind, more) => made("li", {}, made("span", { className: "quiet", textContent: question }), made("b", { className: kind, textContent: yes ? words.yes : words.no }), made("span", { textContent: more }));
  const serving = ["ok", "degraded"].includes(health.status);
  put(at("answers"),
    answer(words.serving, serving, serving ? "good" : "bad", words.workersAble(able, health.workers.length)),
    answer(words.queueing, line.waiting > 0, line.waiting > 0 ? "warn" : "good", line.waiting || line.admitted ? words.waiting(line.waiting, line.admitted, line.limit) : words.idleNow),
    answer(words.slow, slow, slow ? "warn" : "good", [sample && sample.p50 !== null ? words.latency(sample.p50, sample.p95) : words.noLatency, streams.behind_s > 0.2 ? words.behind(streams.behind_s.toFixed(1)) : ""].filter(Boolean).join(words.semicolon)),
    room && answer(words.short, room.level !== "normal" || room.starved, room.level === "critical" ? "bad" : room.level !== "normal" || room.starved ? "warn" : "good", room.starved ? words.starved : words.left(bytes(room.left_bytes), ours(room.tightest))));
  put(at("actions"),
    health.status === "draining" ? button(words.resume, () => act(words.resumeSure, "POST", "resume")) : button(words.drain, () => act(words.drainSure, "POST", "drain")),
    button(words.reload, () => act(words.reloadSure, "POST", "reload")),
    button(words.report, () => { location.href = "report"; }));
  at("actions").querySelectorAll("button").forEach((one, n) => {
    one.onclick = [health.status === "draining" ? () => act(words.resumeSure, "POST", "resume") : () => act(words.drainSure, "POST", "drain"), () => act(words.reloadSure, "POST", "reload"), () => { location.href = "report"; }][n];
  });
  charts();
}

const LAYERS = () => [
  [words.model, "k1", (s) => s.model], [words.supervisor, "k4", (s) => s.supervisor], [words.growth, "k3", (s) => s.growth],
  [words.spools, "k2", (s) => s.spools], [words.others, "k5", (s) => s.used - s.model - s.supervisor - s.growth - s.spools],
];

function charts() {
  const samples = history[range].length > 1 ? history[range] : history.short;
  if (samples.length < 2) return;
  const span = SPANS[range];
  const last = samples.at(-1);
  const key = (kind, text) => made("span", {}, made("i", { className: kind }), text);
  const caption = (...parts) => made("figcaption", {}, ...parts);
  const width = (id) => Math.max(200, at(id).clientWidth - 24);
  const draw = (id, svg, ...parts) => at(id).replaceChildren(caption(...parts), svg);
  draw("memory-chart", memory(width("memory-chart"), samples, LAYERS(), deaths, words, span),
    made("b", { textContent: `${words.used} ${bytes(last.used)}${words.comma}${words.limit} ${bytes(last.limit)}` }),
    ...LAYERS().map(([name, kind, value]) => key(kind, `${name} ${bytes(Math.max(0, value(last)))}`)),
    made("span", { textContent: words.mapped(bytes(last.mapped)) }));
  const number = (n) => (n < 10 ? Number(n.toPrecision(2)) : Math.round(n)).toString();
  draw("requests-chart", lines(width("requests-chart"), samples, [["line", (s) => s.requests], ["line other", (s) => s.failures]], number, words.requests, span), made("b", { textContent: `${words.requests} ${last.requests}` }), made("span", { textContent: `- - ${words.failures} ${last.failures}` }));
  draw("latency-chart", lines(width("latency-chart"), samples, [["line", (s) => s.p50], ["line other", (s) => s.p95]], number, words.latencyTitle, span), made("b", { textContent: words.latencyTitle }), made("span", { textContent: `50 %: ${last.p50 ?? "–"}, - - 95 %: ${last.p95 ?? "–"}` }));
  draw("streams-chart", lines(width("streams-chart"), samples, [["line", (s) => s.streams]], number, words.streams, span), made("b", { textContent: `${words.streams} ${last.streams}` }));
  draw("audio-chart", lines(width("audio-chart"), samples, [["line", (s) => s.audio]], number, words.audio, span), made("b", { textContent: `${words.audio} ${last.audio}` }));
}

function workers() {
  const place = at("workers");
  const rows = health.workers.map((one) => {
    const share = one.budget_bytes ? one.growth_bytes / one.budget_bytes : 0;
    const meter = made("meter", { min: 0, max: 1, high: 0.8, value: Math.min(1, share), title: `${Math.round(share * 100)} %` });
    meter.setAttribute("aria-label", words.grown);
    return [`${one.id}`, one.model, one.pid, words.states[one.state] || one.state, one.jobs_done, duration(one.busy_s),
      made("span", {}, meter, ` ${bytes(one.growth_bytes)} / ${bytes(one.budget_bytes)}`), button(words.recycle, null, { className: "recycle", value: one.id })];
  });
  put(place, table([words.worker, words.ofModel, words.pid, words.state, words.done, words.busy, words.grown, ""], rows));
  place.querySelectorAll(".recycle").forEach((one) => { one.onclick = () => act(words.recycleSure(one.value), "POST", `workers/${one.value}/recycle`); });
}

function queue() {
  const { queue: line, streams, spools, jobs } = health;
  const counted = Object.entries(jobs.counts).map(([state, count]) => `${count} ${words.jobStates[state] || state}`).join(words.comma);
  put(at("queue"), table(["", ""], [
    [words.inside, `${line.admitted} / ${line.limit}`], [words.waitingFor, `${line.waiting}`],
    [words.pace, line.s_per_audio_s === null ? "–" : `${line.s_per_audio_s.toFixed(3)} s`],
    [words.streams, `${streams.open}${words.semicolon}${words.behind(streams.behind_s.toFixed(1))}`],
    [words.uploads, words.held(spools.open, bytes(spools.memory_bytes), bytes(spools.disk_bytes), spools.directory)],
    [words.jobs, ours(jobs.problem) || `${counted || "–"}${words.semicolon}${bytes(jobs.bytes)} ${words.onDisk}`],
  ]));
}

function theDead() {
  if (!deaths.length) return put(at("deaths"), made("p", { textContent: words.noDeaths }));
  const rows = deaths.map((one) => {
    const readings = one.memory.map((m) => `${new Date(m.time * 1000).toLocaleTimeString()}  ${ours(m.level)}  ${bytes(m.used_bytes)} ${words.used}, ${bytes(m.left_bytes)}  ${m.process_rss_bytes === null ? "" : `RSS ${bytes(m.process_rss_bytes)}`}`);
    const before = readings.length ? made("details", {}, made("summary", { textContent: `${one.rss_bytes ? `RSS ${bytes(one.rss_bytes)}` : words.memory}` }), made("pre", { textContent: readings.join("\n") })) : "";
    return [new Date(one.time * 1000).toLocaleString(), `${ours(one.role)} ${one.worker ?? ""} (${one.pid})`, made("span", {}, made("b", { textContent: one.cause }), ` ${ours(one.sentence)}${one.job ? `${words.semicolon}${words.answeredBy(one.job)}` : ""}`), before];
  });
  put(at("deaths"), table([words.when, words.who, words.ofWhat, words.before], rows));
}

let known = null;
async function models() {
  try { known = await ask("GET", "models"); } catch (error) { return say(error.message); }
  served();
}

function served() {
  if (!known) return;
  const act_ = (text, sure, path, body) => button(text, () => act(sure, "POST", path, body));
  const rows = health.models.map((one) => [one.label, one.model, one.language, `${words.modelStates[one.state] || one.state}${one.reason ? `: ${ours(one.reason)}` : ""}${one.preparing ? ` (${ours(one.preparing)})` : ""}${one.not_prepared ? ` (${ours(one.not_prepared)})` : ""}`, one.form ? `${one.engine}, ${one.form}` : "",
    made("span", { className: "actions" }, act_(words.prepare, words.prepareSure(one.label), `models/${one.label}/prepare`),
      one.state === "unloaded" && act_(words.load, words.loadSure(one.label), `models/${one.label}/load`),
      one.load === "first_use" && one.state !== "unloaded" && act_(words.unload, words.unloadSure(one.label), `models/${one.label}/unload`))]);
  const others = known.models.map((one) => [`${one.chosen ? "★ " : ""}${one.name}`, (words === PHRASES.zh && LANGUAGES[one.language]) || one.language, one.errors, one.memory, ours(one.fits), ours(one.state), one.licence,
    one.installed ? (one.chosen ? "" : act_(words.change, words.changeSure(one.name), "models/change", { name: one.name })) : act_(words.pull, words.pullSure(one.name), "models/pull", { name: one.name })]);
  const far = pulling?.total ? `${ours(pulling.phase)} ${Math.floor((100 * pulling.done) / pulling.total)} %` : ours(pulling?.phase) || "…";
  const said = pulling && { pulling: words.pulling(pulling.name, far), installed: words.pulled(pulling.name), failed: words.notPulled(pulling.name, ours(pulling.reason)) }[pulling.state];
  const key = JSON.stringify([health.models, known, said, words.pull]);
  if (served.key === key) return;
  served.key = key;
  at("models").replaceChildren(made("h2", { textContent: words.served }), table(["", words.name, words.language, words.state, "", ""], rows),
    made("h2", { textContent: words.installed }), made("p", { className: "quiet", textContent: said ? `${said} · ${ours(known.room)}` : ours(known.room) }),
    table([words.name, words.language, words.errors, words.memoryOf, words.fits, words.state, words.license, ""], others));
}

// What a setting is for; `models.NAME.load` is the same for all models.
function about({ name, about: english }) {
  if (words !== PHRASES.zh) return english;
  return SETTINGS[name] || SETTINGS[name.replace(/^models\.[^.]+\./, "")] || ours(english);
}

async function settings() {
  let rows;
  try { rows = await ask("GET", "settings"); } catch (error) { return say(error.message); }
  at("settings").replaceChildren(table([words.setting, words.value, words.from, ""], rows.map((one) => [made("code", { textContent: one.name }), made("code", { textContent: one.value }), ours(one.origin), made("span", { className: "quiet", textContent: about(one) })])));
}

function log() {
  const list = at("events");
  const wanted = at("filter").value.toLowerCase();
  const bottom = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
  const texts = events.map(({ number, timestamp, level, event, ...rest }) => {
    const meaning = words === PHRASES.zh && EVENTS[event];
    const values = Object.entries(rest).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`);
    return [level, [(timestamp || "").slice(11, 19), words.levels[level] || level, event, meaning, ...values].filter(Boolean).join(" ")];
  });
  list.replaceChildren(...texts.filter((parts) => parts.join(" ").toLowerCase().includes(wanted)).map(([level, text]) => made("li", { className: level, textContent: text })));
  list.tabIndex = 0;
  if (bottom) list.scrollTop = list.scrollHeight;
}

// --- tabs, words, login -------------------------------------------------------------------------

function choose(name, focus) {
  tab = name;
  window.history.replaceState(null, "", `#${name}`);
  for (const one of TABS) {
    at(one).hidden = one !== name;
    const head = at(`tab-${one}`);
    head.setAttribute("aria-selected", String(one === name));
    head.tabIndex = one === name ? 0 : -1;
  }
  if (focus) at(`tab-${name}`).focus();
  if (name === "models") models();
  if (name === "settings") settings();
  if (name === "log") log();
  show();
}

function spoken() {
  document.documentElement.lang = words === PHRASES.zh ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
  at("tabs").replaceChildren(...TABS.map((name) => {
    const head = button(words.tabs[name], () => choose(name), { id: `tab-${name}`, role: "tab" });
    head.setAttribute("role", "tab");
    head.setAttribute("aria-controls", name);
    at(name).setAttribute("aria-labelledby", `tab-${name}`);
    return head;
  }));
  at("ranges").replaceChildren(...[["short", words.threeMinutes], ["long", words.threeHours]].map(([name, text]) => {
    const one = button(text, () => { range = name; spoken(); show(); });
    one.setAttribute("aria-pressed", String(range === name));
    return one;
  }));
  at("tongue").value = words === PHRASES.zh ? "zh" : "en";
  for (const option of at("level").options) option.textContent = words.levels[option.value];
  served.key = null;
  for (const name of TABS) delete at(name).dataset.shown;
  delete at("answers").dataset.shown;
  delete at("actions").dataset.shown;
  choose(tab);
}

at("tabs").onkeydown = (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) choose(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length], true);
};
at("tongue").onchange = () => { words = PHRASES[at("tongue").value]; localStorage.setItem("modelserver.tongue", at("tongue").value); spoken(); };
at("filter").oninput = log;
at("level").onchange = () => {
  const wanted = at("level").value;
  ask("GET", "log").then((now) => { at("level").value = now.level; act(words.levelSure(words.levels[wanted]), "POST", "log/level", { level: wanted }); at("confirm").addEventListener("close", () => { if (at("confirm").returnValue === "yes") at("level").value = wanted; }, { once: true }); });
};
at("login").onsubmit = async (event) => {
  event.preventDefault();
  const token = at("token").value;
  at("token").value = "";
  const answer = await fetch("login", { method: "POST", body: JSON.stringify({ token }), headers: { "Content-Type": "application/json" } });
  at("login-problem").textContent = answer.ok ? "" : words.wrong;
  if (answer.ok) begin();
};
at("logout").onclick = async () => { await ask("POST", "logout").catch(() => {}); loggedOut(); };

spoken();
begin();
document.documentElement.dataset.ready = "true";
