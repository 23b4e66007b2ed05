// The server's sentences in the language of the page. The server writes them in English, and puts one
// into another: a reason into the sentence that a model cannot be loaded.
import { CHINESE, LANGUAGES } from "./chinese.js";

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const fixed = (template) => template.split("{}").join("").length;
// Additions to a sentence are tried first, then templates with a fixed beginning: a value may be
// a sentence itself, whose beginning must not be cut off.
const rank = (template) => (template.startsWith("; ") ? 2 : template.startsWith("{}") ? 0 : 1);
const PATTERNS = Object.entries(CHINESE)
  .filter(([english]) => english.includes("{}") || rank(english) === 2)
  .sort(([one], [other]) => rank(other) - rank(one) || fixed(other) - fixed(one))
  .map(([english, chinese]) => [
    new RegExp(`^${rank(english) === 2 ? "([^]*?)" : "()"}${english.split("{}").map(escaped).join("([^]*?)")}$`),
    `{0}${chinese}`,
  ]);
const MOST_KNOWN = 500;
const known = new Map();

// Between which sentences are put together without a template.
const SEAMS = [["; ", "；"], [": ", "："], [" and ", "和"], [", ", "，"]];

export function inChinese(text) {
  if (!/[A-Za-z]{2}/.test(text)) return text;
  if (!known.has(text)) {
    if (known.size >= MOST_KNOWN) known.clear();
    known.set(text, translated(text));
  }
  return known.get(text);
}

function translated(text) {
  const whole = CHINESE[text] || LANGUAGES[text];
  if (whole) return whole;
  for (const [pattern, chinese] of PATTERNS) {
    const values = pattern.exec(text);
    if (values) return chinese.replace(/\{(\d)\}/g, (_, number) => inChinese(values[Number(number) + 1]));
  }
  for (const [seam, ours] of SEAMS) {
    const parts = text.split(seam);
    const translations = parts.length > 1 ? parts.map(inChinese) : parts;
    if (translations.some((one, n) => one !== parts[n])) return translations.join(ours);
  }
  return text;
}
