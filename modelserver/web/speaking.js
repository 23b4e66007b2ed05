// Reads answers aloud, sentence by sentence, as they come.

const LONGEST = 300; // characters that are spoken at once: some voices stop in long texts
const END = /[。！？…\n]+|[.!?]+(?=\s)/;
const UNFINISHED = /(\[[^\][]{0,500}(\](\([^()\s]{0,2000})?)?|https?:\S{0,2000})$/; // a link that is still coming
const NOT_SPOKEN = [
  [/https?:\/\/\S+/g, ""],
  [/<\/?[a-z][^<>]{0,200}>/gi, ""],
  [/[\p{Extended_Pictographic}\u{1F1E6}-\u{1F1FF}\u{1F3FB}-\u{1F3FF}\uFE0F\u200D\u20E3]/gu, ""],
  [/^#+\s|[*~`]|={2,}|-{2,}/gm, ""],
  [/[_|]/g, " "],
];
const there = "speechSynthesis" in window;
let reader = null;

export class Reader {
  constructor(language) {
    this.language = language;
    this.at = 0;
    reader = this;
  }

  // `text`: all that can be read so far; `over`: nothing more comes.
  take(text, over) {
    if (!there || this.silent) return;
    let rest = text.slice(this.at);
    if (!over) rest = rest.replace(UNFINISHED, "");
    for (;;) {
      const found = END.exec(rest);
      let length = found ? found.index + found[0].length : 0;
      if (length === rest.length && !over) length = 0; // more of its end may come
      if ((length || rest.length) > LONGEST) length = Math.max(...[..." ,，、;；"].map((mark) => rest.lastIndexOf(mark, LONGEST - 1) + 1)) || LONGEST;
      if (!length && over) length = rest.length;
      if (!length) return;
      this.say(rest.slice(0, length));
      rest = rest.slice(length);
      this.at += length;
    }
  }

  say(text) {
    const clean = NOT_SPOKEN.reduce((all, [what, instead]) => all.replace(what, instead), text).replace(/\s+/g, " ").trim();
    if (!/[\p{L}\p{N}]/u.test(clean)) return;
    const sentence = new SpeechSynthesisUtterance(clean);
    if (this.language && this.language !== "und") sentence.lang = this.language;
    speechSynthesis.speak(sentence);
  }
}

export function silence() {
  if (reader) reader.silent = true;
  reader = null;
  if (there) speechSynthesis.cancel();
}

export const speaking = () => there && speechSynthesis.speaking;

// Safari lets a page speak only once something was spoken while its visitor pressed a button.
export function prime() {
  if (!there || prime.done) return;
  prime.done = true;
  speechSynthesis.speak(Object.assign(new SpeechSynthesisUtterance(" "), { volume: 0 }));
}

export const canSpeak = there;
