// The server's sentences in the language of the page. The server writes them in English, and puts one
// into another: a reason into the sentence that a model cannot be loaded.
import { MODELS } from "./chinese-models.js";
import { CHINESE } from "./chinese.js";

const SENTENCES = { ...CHINESE, ...MODELS };
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const fixed = (template) => template.split("{}").join("").length;
// Additions to a sentence are tried first, then templates with a fixed beginning: a value may be
// a sentence itself, whose beginning must not be cut off.
const rank = (template) => (/^(; | \()/.test(template) ? 2 : template.startsWith("{}") ? 0 : 1);
const PATTERNS = Object.entries(SENTENCES)
  .filter(([english]) => english.includes("{}") || rank(english) === 2)
  .sort(([one], [other]) => rank(other) - rank(one) || fixed(other) - fixed(one))
  .map(([english, chinese]) => {
    const parts = english.split("{}");
    return {
      part: parts.reduce((one, other) => (other.length > one.length ? other : one)),
      pattern: new RegExp(`^${rank(english) === 2 ? "([^]*?)" : "()"}${parts.map(escaped).join("([^]*?)")}$`),
      chinese: `{0}${chinese}`,
    };
  });
// Between sentences of a list: sources that were tried, and processes that ended.
const ITEM = /(\n- |; (?=[a-z ]+ process \d))/;
// A space that a template has for a value in Latin letters, around a value in Chinese.
const BETWEEN_HAN = /([\u3001-\u9fff\uff00-\uffef]) (?=[\u3001-\u9fff\uff00-\uffef])/g;
const MOST_KNOWN = 500;
const known = new Map();

// Between which sentences are put together without a template.
const SEAMS = [["; ", "；"], [": ", "："], [" and ", "和"], [", ", "，"]];

export function inChinese(text) {
  if (!/[A-Za-z]{2}/.test(text)) return text;
  if (!known.has(text)) {
    if (known.size >= MOST_KNOWN) known.clear();
    known.set(text, translated(text).replace(BETWEEN_HAN, "$1"));
  }
  return known.get(text);
}

function translated(text) {
  if (SENTENCES[text]) return SENTENCES[text];
  const items = text.split(ITEM);
  if (items.length > 1) return items.map((one) => (one === "; " ? "；" : inChinese(one))).join("");
  for (const { part, pattern, chinese } of PATTERNS) {
    const values = text.includes(part) && pattern.exec(text);
    if (values) return chinese.replace(/\{(\d)\}/g, (_, number) => inChinese(values[Number(number) + 1]));
  }
  for (const [seam, ours] of SEAMS) {
    const parts = text.split(seam);
    const translations = parts.length > 1 ? parts.map(inChinese) : parts;
    if (translations.some((one, n) => one !== parts[n])) return translations.join(ours);
  }
  return text;
}
