// The voice page: a dialogue with whoever the server asks, or a sheet for dictation.
import { askInWriting, hearFile } from "./asking.js";
import { Refused, Utterance } from "./hearing.js";
import { Microphone, SpeechDetector } from "./microphone.js";
import { preferred, WORDS } from "./words.js";

const at = (id) => document.getElementById(id);
const STORED = "modelserver.dialogue";
const CHOSEN = "modelserver.choices";
const NOTHING_MS = 12000;
const MOST_TURNS = 200;
const LONGEST_TURN = 30000; // characters
const LONGEST_HISTORY = 200000;
const SENTENCE_END = /[.!?。！？…\n]+/;

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
let session = null; // while the microphone is open
let answering = null; // while an answer comes

// --- what is shown ------------------------------------------------------------------------------

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
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = turn.text;
  element.append(who, text);
  if (turn.note) {
    const note = document.createElement("span");
    note.className = "note";
    note.textContent = words[turn.note] || turn.note;
    element.append(note);
  }
  return element;
}

function show() {
  document.documentElement.lang = chosen.tongue === "zh" ? "zh-CN" : "en";
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
  at("aloud-row").hidden = !about.assistant || !("speechSynthesis" in window);
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

function add(turn) {
  dialogue.push({ ...turn, at: new Date().toISOString() });
  if (turn.role !== "problem") keep(STORED, dialogue.filter((one) => one.role !== "problem"));
  const element = bubble(turn);
  at("dialogue").append(element);
  at("empty").hidden = true;
  for (const id of ["copy", "download", "clear"]) at(id).disabled = false;
  scroll();
  return element;
}

// What went wrong, in words, with what the server says of it behind them.
function told(error) {
  const known = error instanceof Refused && words.codes[error.code];
  if (known) return error.message ? `${known}: ${error.message}` : known;
  return error instanceof Refused ? error.message : words.unreachable;
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
  const mine = answering = new AbortController();
  silence();
  state(words.answering);
  const turn = { role: "assistant", text: "" };
  const voice = new Reader(language);
  let element = null;
  const place = () => element ||= Object.assign(bubble(turn), {});
  let failed = null;
  try {
    for await (const { event, data } of askInWriting(text, before, chosen.key, mine.signal)) {
      if (event === "answer.delta") {
        turn.text += data.text;
        if (!place().isConnected) { place().classList.add("open"); at("dialogue").append(place()); }
        place().querySelector(".text").textContent = turn.text;
        voice.take(data.text);
        scroll();
      } else if (event === "answer.done") {
        if (data.answer.finish !== "stop") turn.note = data.answer.finish;
        voice.finish();
      } else if (event === "error") {
        throw new Refused(data.error.code, data.error.message);
      }
    }
  } catch (error) {
    failed = error;
  }
  element?.remove();
  if (turn.text) add(turn);
  if (answering !== mine) return;
  answering = null;
  state(session ? words.listening : "");
  if (failed && failed.name !== "AbortError") problem(told(failed), () => answer(text, before, language));
}

// Reads aloud, sentence by sentence, as they come.
class Reader {
  constructor(language) {
    this.language = language;
    this.text = "";
  }

  take(text) {
    if (!chosen.aloud || !("speechSynthesis" in window)) return;
    this.text += text;
    let end;
    while ((end = this.text.search(SENTENCE_END)) >= 0) {
      const length = end + this.text.slice(end).match(SENTENCE_END)[0].length;
      if (length === this.text.length) return; // more of its end may come
      this.say(this.text.slice(0, length));
      this.text = this.text.slice(length);
    }
  }

  finish() { if (chosen.aloud) this.say(this.text); }

  say(text) {
    if (!text.trim() || this.silent) return;
    const sentence = new SpeechSynthesisUtterance(text);
    if (this.language && this.language !== "und") sentence.lang = this.language;
    reader = this;
    speechSynthesis.speak(sentence);
  }
}
let reader = null;

function silence() {
  if (reader) reader.silent = true;
  reader = null;
  if ("speechSynthesis" in window) speechSynthesis.cancel();
}

// --- the microphone -----------------------------------------------------------------------------

class Session {
  constructor() {
    this.detector = new SpeechDetector(about.endpoint_ms);
    this.microphone = new Microphone((piece, level) => this.heard(piece, level), () => this.lost());
    this.heardNothingMs = 0;
  }

  async open() {
    await this.microphone.open();
    at("meter").classList.add("on");
    state(words.listening);
  }

  heard(piece, level) {
    at("meter").firstElementChild.style.transform = `scaleX(${Math.min(1, level * 6)})`;
    // While we speak ourselves some of it comes back.
    const above = "speechSynthesis" in window && speechSynthesis.speaking ? 6 : 3;
    const what = this.detector.take(piece, level, above);
    if (what === "begins") {
      silence();
      this.begin([...this.detector.before]);
    } else if (what === "goes on") {
      this.utterance?.add(piece);
    } else if (what === "ends") {
      this.end();
    }
    this.heardNothingMs = what === "quiet" && !this.said ? this.heardNothingMs + 50 : 0;
    if (this.heardNothingMs === NOTHING_MS) state(words.nothing);
  }

  begin(pieces) {
    this.said = true;
    state(words.hearing);
    this.utterance = new Utterance({
      rate: this.microphone.rate, model: chosen.model, key: chosen.key,
      told: {
        partial,
        lost: () => notice(words.lost),
        back: () => { notice(""); state(words.back); },
        busy: (seconds) => countDown(seconds),
      },
    });
    pieces.forEach((piece) => this.utterance.add(piece));
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

  // The microphone has gone: what was said until then is understood, and nothing more is awaited.
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
    const link = Object.assign(document.createElement("a"), { href: "voice/https", textContent: words.insecureLink });
    notice(words.insecure, link);
    return;
  }
  notice("");
  silence();
  state(words.starting);
  const opened = session = new Session();
  pressed();
  try {
    await opened.open();
    if (session !== opened) opened.microphone.close();
  } catch (error) {
    if (session === opened) session = null;
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

async function hear(file) {
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
    problem(told(error), () => hear(file));
    if (error.code === "unauthorized") askKey();
  }
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
  question(text);
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("write").requestSubmit(); }
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
at("file").onchange = () => { for (const file of at("file").files) hear(file); at("file").value = ""; };
at("copy").onclick = async () => {
  await navigator.clipboard?.writeText(asText());
  at("copy").textContent = words.copied;
  setTimeout(() => { at("copy").textContent = words.copy; }, 1500);
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
  for (const file of event.dataTransfer.files) hear(file);
});
addEventListener("pagehide", () => { silence(); session?.microphone.close(); });

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
