// One utterance, from audio to text. The audio is buffered until the text has arrived: when the
// connection is lost, all of it is sent again, with what was recorded meanwhile.

import { PIECE_MS } from "./microphone.js";

const WAITS_MS = [300, 600, 1200, 2500, 5000];
const ANSWER_MS = 20000;

export function joined(parts) {
  const wide = /[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]/;
  return parts.filter(Boolean).reduce((all, part) =>
    !all ? part : wide.test(all.at(-1)) || wide.test(part[0]) ? all + part : `${all} ${part}`, "");
}

export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export class Utterance {
  // `endpointMs`: the silence that ends a segment. `told`: { partial(text, endMs), lost(), back(),
  // busy(seconds) }; `endMs`: where a segment has ended, if one has.
  constructor({ rate, model, key, endpointMs, told }) {
    const query = new URLSearchParams({ encoding: "s16le", rate: Math.round(rate), endpoint_ms: endpointMs });
    if (model) query.set("model", model);
    const url = new URL(`api/audio/stream?${query}`, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    this.url = url.href;
    this.protocols = key ? ["modelserver", `bearer.${key}`] : [];
    this.told = told;
    this.pieces = [];
    this.sent = 0;
    this.finals = [];
    this.ended = this.closing = this.over = false;
    this.tries = 0;
    this.text = new Promise((resolve, reject) => { this.resolve = resolve; this.reject = reject; });
    this.text.catch(() => {});
    this.connect();
  }

  add(piece) {
    this.pieces.push(piece);
    this.flush();
  }

  get durationMs() {
    return this.pieces.length * PIECE_MS;
  }

  // End the utterance. `this.text` resolves to its text.
  end() {
    this.ended = true;
    this.flush();
  }

  // Cancel the utterance.
  drop() {
    this.over = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  connect() {
    if (this.over) return;
    this.sent = 0;
    this.finals = [];
    this.closing = false;
    const socket = this.socket = new WebSocket(this.url, this.protocols);
    socket.onmessage = ({ data }) => socket === this.socket && this.take(JSON.parse(data));
    socket.onclose = () => socket === this.socket && this.lost();
    this.watch();
  }

  take(message) {
    this.watch();
    switch (message.type) {
      case "begin":
        this.open = true;
        this.language = message.language;
        if (this.tries) this.told.back();
        this.tries = 0;
        this.flush();
        break;
      case "partial":
        this.told.partial(joined([...this.finals, message.text]));
        break;
      case "final":
        this.finals.push(message.text);
        this.language = message.language || this.language;
        this.told.partial(joined(this.finals), message.end * 1000);
        break;
      case "end":
        if (!this.ended) break; // the server ends: it is said again when it is back
        this.over = true;
        clearTimeout(this.timer);
        this.resolve({ text: joined(this.finals), language: this.language });
        this.socket.close();
        break;
      case "error":
        if (message.retry_after) this.again(message.retry_after * 1000, true);
        else if (!["shutting_down", "stream_lost", "internal"].includes(message.error.code)) this.fail(message.error);
        break;
    }
  }

  fail(error) {
    this.over = true;
    clearTimeout(this.timer);
    this.reject(new Refused(error.code, error.message));
  }

  flush() {
    if (!this.open || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.sent < this.pieces.length) this.socket.send(this.pieces[this.sent++]);
    if (this.ended && !this.closing) {
      this.closing = true;
      this.socket.send(JSON.stringify({ type: "close" }));
    }
  }

  lost() {
    this.open = false;
    if (this.over || this.waiting) return;
    this.told.lost();
    this.again(WAITS_MS[Math.min(this.tries, WAITS_MS.length - 1)], false);
  }

  again(wait, busy) {
    this.open = false;
    this.tries += 1;
    this.waiting = true;
    clearTimeout(this.timer);
    if (busy) this.told.busy(Math.ceil(wait / 1000));
    this.timer = setTimeout(() => { this.waiting = false; this.connect(); }, wait);
  }

  // A server that sends nothing counts as lost.
  watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const socket = this.socket;
      this.socket = null;
      socket?.close();
      this.lost();
    }, ANSWER_MS);
  }
}
