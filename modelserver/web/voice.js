// The voice page: a dialogue with the server's language model, or dictation.
import { askInWriting, hearFile } from "./asking.js";
import { Refused, Utterance } from "./hearing.js";
import { Answer } from "./markdown.js";
import { Microphone, PIECE_MS, SpeechDetector } from "./microphone.js";
import { canSpeak, prime, Reader, silence, speaking } from "./speaking.js";
import { preferred, WORDS } from "./words.js";

const at = (id) => document.getElementById(id);
const STORED = "modelserver.dialogue";
const CHOSEN = "modelserver.choices";
const NOTHING_MS = 12000;
// Where it does not become quiet, as with a television on, an utterance ends at this length,
const LONGEST_UTTERANCE_MS = 30000;
// when it has no words, or when no new words came: in as much as the end of a question and this more.
const WORDLESS_MS = 10000;
const WORDS_LATE_MS = 1000;
const MOST_TURNS = 200;
const LONGEST_TURN = 30000; // characters
const LONGEST_HISTORY = 200000;
const SHOWN_EVERY_MS = 50; // while an answer comes,
const SHOWING_SHARE = 5; // and a fifth of the time at most goes into showing it

const read = (name, otherwise) => {
  try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; }
};
const keep = (name, value) => {
  try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* it is forgotten then */ }
};

const chosen = { tongue: preferred(), key: "", model: "", review: false, aloud: false, ...read(CHOSEN, {}) };
let dialogue = read(STORED, []);
let about = { models: [], keys: false, assistant: false, endpoint_ms: 600 };
let words = WORDS[chosen.tongue] || WORDS.en;
let inChinese = (text) => text; // until its texts are loaded, which other pages do not need
let session = null; // while the microphone is open
let answering = null; // while an answer comes
const views = new WeakMap(); // what shows each turn

// --- display ------------------------------------------------------------------------------

function state(text) { at("state").textContent = text; }

function notice(text, link) {
  at("notice").replaceChildren(text || "");
  if (link) at("notice").append(" ", link);
  at("notice").hidden = !text;
}

function partial(text) {
  at("partial").textContent = text;
  at("partial").hidden = !text;
  if (text) scroll();
}

function scroll() { document.querySelector("main").scrollTop = 1e9; }

function bubble(turn) {
  const element = document.createElement("div");
  element.className = `turn ${turn.role}`;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = turn.role === "assistant" ? words.assistant : turn.role === "user" ? words.you : "";
  const text = document.createElement("div");
  text.className = "text";
  element.append(who, text);
  if (turn.role === "assistant") {
    const thoughts = document.createElement("details");
    thoughts.append(document.createElement("summary"), document.createElement("div"));
    text.before(thoughts);
    views.set(turn, { element, thoughts, answer: new Answer(text, words) });
    showAnswer(turn);
  } else {
    text.textContent = turn.text;
    showNote(turn, element);
  }
  return element;
}

function showNote(turn, element) {
  if (!turn.note || element.querySelector(".note")) return;
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = words[turn.note] || turn.note;
  element.append(note);
}

// Returns what of the answer can be read aloud.
function showAnswer(turn) {
  const { element, thoughts, answer } = views.get(turn);
  const open = answering?.turn === turn;
  element.classList.toggle("open", open);
  thoughts.hidden = !turn.thoughts;
  thoughts.firstChild.textContent = open && !turn.text ? words.thinking : words.thoughts;
  thoughts.lastChild.textContent = turn.thoughts || "";
  showNote(turn, element);
  return answer.show(turn.text);
}

function show() {
  document.documentElement.lang = chosen.tongue === "zh" ? "zh-CN" : "en";
  if (chosen.tongue === "zh") import("./translate.js").then((loaded) => { inChinese = loaded.inChinese; });
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
  const title = about.assistant ? words.title : words.titleAlone;
  document.title = title;
  document.querySelector("h1").textContent = title;
  at("empty").textContent = about.assistant ? words.empty : words.emptyAlone;
  const tongues = spokenLanguages();
  if (tongues) at("empty").append(document.createElement("br"), words.understands(tongues));
  at("text").placeholder = words.placeholder;
  at("talk-label").textContent = session ? words.stop : words.talk;
  at("tongue").value = chosen.tongue;
  at("key-row").hidden = !about.keys;
  at("aloud-row").hidden = !about.assistant || !canSpeak;
  at("model-row").hidden = about.models.length < 2;
  at("dialogue").replaceChildren(...dialogue.map(bubble));
  at("empty").hidden = dialogue.length > 0;
  for (const id of ["copy", "download", "clear"]) at(id).disabled = !dialogue.length;
  scroll();
}

// What the chosen model understands, in the page's language.
function spokenLanguages() {
  const model = about.models.find((one) => one.name === chosen.model) || about.models[0];
  if (!model || !model.language || model.language === "und") return "";
  try {
    return new Intl.DisplayNames([chosen.tongue], { type: "language" }).of(model.language);
  } catch {
    return model.language;
  }
}

function store(...more) { keep(STORED, [...dialogue.filter((one) => one.role !== "problem"), ...more]); }

function add(turn) {
  dialogue.push(Object.assign(turn, { at: new Date().toISOString() }));
  if (turn.role === "user") store();
  const element = bubble(turn);
  at("dialogue").append(element);
  at("empty").hidden = true;
  for (const id of ["copy", "download", "clear"]) at(id).disabled = false;
  scroll();
  return element;
}

// The error in words, followed by the server's message.
function told(error) {
  if (!(error instanceof Refused)) return words.unreachable;
  const message = chosen.tongue === "zh" ? inChinese(error.message) : error.message;
  const known = words.codes[error.code];
  return [known, message === known ? "" : message].filter(Boolean).join(words.colon);
}

function problem(text, again) {
  const element = add({ role: "problem", text });
  if (again) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = words.again;
    button.onclick = () => { dialogue = dialogue.filter((one) => one.text !== text); element.remove(); again(); };
    element.append(button);
  }
}

// --- questions and answers ----------------------------------------------------------------------

// The latest turns: the server refuses a question with more than a megabyte of them.
function history() {
  const told = [];
  let length = 0;
  for (const one of [...dialogue].reverse()) {
    if (one.role !== "user" && !(one.role === "assistant" && one.text)) continue;
    const content = one.text.slice(0, LONGEST_TURN);
    length += content.length;
    if (told.length === MOST_TURNS || length > LONGEST_HISTORY) break;
    told.unshift({ role: one.role, content });
  }
  return told;
}

function said(text, language) {
  partial("");
  if (!text.trim()) { state(words.nothingSaid); return; }
  if (chosen.review) {
    at("text").value = text;
    at("text").focus();
    state(words.review_it);
    return;
  }
  question(text, language);
}

function question(text, language) {
  const before = history();
  add({ role: "user", text });
  if (about.assistant) answer(text, before, language);
  else state(session ? words.listening : "");
}

async function answer(text, before, language) {
  answering?.abort();
  silence();
  state(words.answering);
  const turn = { role: "assistant", text: "", thoughts: "" };
  const mine = answering = Object.assign(new AbortController(), { turn });
  const voice = new Reader(language);
  let timer = 0;
  let wait = 0;
  const show = (over) => {
    clearTimeout(timer);
    timer = 0;
    const started = performance.now();
    const speech = showAnswer(turn);
    if (chosen.aloud && !mine.signal.aborted) voice.take(speech, over);
    scroll();
    wait = Math.max(SHOWN_EVERY_MS, SHOWING_SHARE * (performance.now() - started));
  };
  let failed = null;
  try {
    for await (const { event, data } of askInWriting(text, before, chosen.key, mine.signal)) {
      if (event === "answer.thinking" || event === "answer.delta") {
        if (event === "answer.delta") turn.text += data.text;
        else turn.thoughts = (turn.thoughts + data.text).slice(0, LONGEST_TURN).trimStart();
        if (!views.has(turn)) add(turn);
        timer ||= setTimeout(show, wait, false);
      } else if (event === "answer.done") {
        if (data.answer.finish !== "stop") turn.note = data.answer.finish;
      } else if (event === "error") {
        throw new Refused(data.error.code, data.error.message);
      }
    }
  } catch (error) {
    failed = error;
  }
  const latest = answering === mine;
  if (latest) answering = null;
  if (views.has(turn)) {
    show(true);
    store();
  }
  if (!latest) return;
  state(session ? words.listening : "");
  if (failed && failed.name !== "AbortError") problem(told(failed), () => answer(text, before, language));
}

// --- the microphone -----------------------------------------------------------------------------

class Session {
  constructor() {
    this.detector = new SpeechDetector(about.endpoint_ms);
    this.microphone = new Microphone((piece, level) => this.take(piece, level), () => this.lost());
    this.quietMs = 0;
  }

  async open() {
    await this.microphone.open();
    at("meter").classList.add("on");
    state(words.listening);
  }

  take(piece, level) {
    at("meter").firstElementChild.style.transform = `scaleX(${Math.min(1, level * 6)})`;
    // While we speak ourselves some of it comes back.
    const what = this.detector.take(piece, level, speaking() ? 6 : 3);
    if (what === "begins") {
      silence();
      this.begin([...this.detector.before]);
    } else if (what === "continues" && this.utterance) {
      this.utterance.add(piece);
      this.spokenMs += PIECE_MS;
      this.level += (level - this.level) / 20;
      if (!this.utterance.open) this.wordsUntilMs = this.spokenMs + WORDLESS_MS; // they come later
      const long = this.utterance.open && this.spokenMs >= LONGEST_UTTERANCE_MS;
      if (this.spokenMs >= this.wordsUntilMs || (long && about.assistant)) {
        this.detector.ignore(this.level);
        this.end();
      } else if (long) { // dictation continues
        this.end();
        this.begin([]);
      }
    } else if (what === "ends") {
      this.end();
    }
    this.quietMs = what === "quiet" && !this.said ? this.quietMs + 50 : 0;
    if (this.quietMs === NOTHING_MS) state(words.nothing);
  }

  begin(pieces) {
    this.said = true;
    this.spokenMs = this.level = 0;
    this.wordsUntilMs = WORDLESS_MS;
    let last = "";
    state(words.hearing);
    const utterance = this.utterance = new Utterance({
      rate: this.microphone.rate, model: chosen.model, key: chosen.key, endpointMs: about.endpoint_ms,
      told: {
        partial: (text, endMs) => {
          partial(text);
          if (this.utterance !== utterance) return; // the next one has begun
          const lateMs = about.endpoint_ms + WORDS_LATE_MS;
          // The server found silence behind the noise, and not in what it has yet to catch up with.
          if (text && utterance.durationMs - endMs < lateMs) this.wordsUntilMs = this.spokenMs;
          else if (text !== last) this.wordsUntilMs = this.spokenMs + lateMs;
          last = text;
        },
        lost: () => notice(words.lost),
        back: () => { notice(""); state(words.back); },
        busy: (seconds) => countDown(seconds),
      },
    });
    pieces.forEach((piece) => utterance.add(piece));
  }

  // The turn is over: its text is awaited, and the next one may begin.
  end() {
    const utterance = this.utterance;
    this.utterance = null;
    if (!utterance) return;
    utterance.end();
    state(words.understanding);
    utterance.text.then(({ text, language }) => {
      if (session === this) notice("");
      if (session === this && !answering) state(words.listening);
      said(text, language);
    }, (error) => {
      partial("");
      problem(told(error));
      if (error.code === "unauthorized") { stop(); askKey(); }
    });
  }

  // The microphone is lost: what was said until then is understood, and nothing more is awaited.
  lost() {
    if (session !== this) return;
    stop();
    notice(words.gone);
  }

  close() {
    this.end();
    this.microphone.close();
    at("meter").classList.remove("on");
  }
}

function countDown(seconds) {
  clearInterval(countDown.timer);
  let left = seconds;
  const tick = () => { notice(words.busy(left)); if (left-- <= 0) { clearInterval(countDown.timer); notice(""); } };
  tick();
  countDown.timer = setInterval(tick, 1000);
}

function askKey() {
  notice(words.needKey);
  at("settings").showModal();
  at("key").focus();
}

async function start() {
  if (about.keys && !chosen.key) { askKey(); return; }
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    const link = Object.assign(document.createElement("a"), { href: `voice/https${chosen.tongue === "zh" ? "#zh" : ""}`, textContent: words.insecureLink });
    notice(words.insecure, link);
    return;
  }
  if (!window.AudioWorkletNode) { notice(words.tooOld); return; }
  notice("");
  silence();
  if (chosen.aloud) prime();
  state(words.starting);
  const opened = session = new Session();
  pressed();
  try {
    await opened.open();
    if (session !== opened) opened.microphone.close();
  } catch (error) {
    if (session !== opened) return;
    session = null;
    pressed();
    state("");
    const why = { NotAllowedError: words.refused, SecurityError: words.refused, NotFoundError: words.none, OverconstrainedError: words.none };
    notice(why[error.name] || `${words.taken} (${error.message})`);
  }
}

function stop() {
  const closing = session;
  session = null;
  closing?.close();
  pressed();
  if (!closing?.said) state("");
}

function pressed() {
  at("talk").setAttribute("aria-pressed", String(Boolean(session)));
  at("talk-label").textContent = session ? words.stop : words.talk;
}

// --- files --------------------------------------------------------------------------------------

async function transcribe(file) {
  notice("");
  state(words.transcribing(file.name));
  try {
    let finals = [];
    for await (const { event, data } of hearFile(file, chosen.model, chosen.key)) {
      if (event === "progress") state(words.transcribing(`${file.name}, ${Math.round(data.done)} s`));
      else if (event === "final") { finals.push(data.text); partial(finals.join(" ")); }
      else if (event === "partial") partial([...finals, data.text].join(" "));
      else if (event === "error") throw new Refused(data.error.code, data.error.message);
      else if (event === "done") { state(""); said(data.text, data.language); }
    }
  } catch (error) {
    partial("");
    state("");
    problem(told(error), () => transcribe(file));
    if (error.code === "unauthorized") askKey();
  }
}

// --- the clipboard ------------------------------------------------------------------------------

async function copy(text, button) {
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!copied && !copyByCommand(text)) return;
  button.textContent = words.copied;
  setTimeout(() => { button.textContent = words.copy; }, 1500);
}

// Pages that came without https have no `navigator.clipboard`.
function copyByCommand(text) {
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "hidden" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

// --- buttons ------------------------------------------------------------------------------------

const asText = () => dialogue.filter((one) => one.role !== "problem")
  .map((one) => `${one.role === "user" ? words.you : words.assistant}: ${one.text}`).join("\n\n");

at("talk").onclick = () => (session ? stop() : start());
at("write").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text) return;
  at("text").value = "";
  state("");
  if (chosen.aloud) prime();
  question(text);
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("send").click(); }
};
at("tongue").onchange = () => { chosen.tongue = at("tongue").value; words = WORDS[chosen.tongue]; keep(CHOSEN, chosen); show(); };
at("open-settings").onclick = () => at("settings").showModal();
for (const id of ["review", "aloud"]) {
  at(id).checked = chosen[id];
  at(id).onchange = () => { chosen[id] = at(id).checked; keep(CHOSEN, chosen); if (!chosen.aloud) silence(); };
}
at("key").value = chosen.key;
at("key").onchange = () => { chosen.key = at("key").value.trim(); keep(CHOSEN, chosen); notice(""); };
at("model").onchange = () => { chosen.model = at("model").value; keep(CHOSEN, chosen); show(); };
at("file").onchange = () => { for (const file of at("file").files) transcribe(file); at("file").value = ""; };
at("copy").onclick = () => copy(asText(), at("copy"));
at("dialogue").onclick = ({ target }) => {
  if (target.matches(".copy-code")) copy(target.nextElementSibling.textContent, target);
};
at("download").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asText()], { type: "text/plain" }));
  link.download = `dialogue-${new Date().toISOString().slice(0, 10)}.txt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
at("clear").onclick = () => {
  if (!confirm(words.clearSure)) return;
  answering?.abort();
  silence();
  dialogue = [];
  keep(STORED, dialogue);
  notice("");
  state("");
  show();
};
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  for (const file of event.dataTransfer.files) transcribe(file);
});
addEventListener("pagehide", () => {
  silence();
  session?.lost();
  // A page restored from the browser's cache continues; a closed one reads its storage when it opens.
  const text = at("partial").textContent;
  if (text) store({ role: "user", text, note: "left" });
});

show();
try {
  about = await (await fetch("api/about")).json();
  at("model").replaceChildren(...about.models.map((one) =>
    Object.assign(document.createElement("option"), { value: one.name, textContent: `${one.language} (${one.name})` })));
  if (about.models.some((one) => one.name === chosen.model)) at("model").value = chosen.model;
  else chosen.model = "";
} catch {
  notice(words.unreachable);
}
show();
document.documentElement.dataset.ready = "true";
