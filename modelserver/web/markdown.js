// Answers as Markdown. markdown-it parses them; elements are made one by one, so that nothing of what a
// model writes is taken for HTML. The parser's time grows with the text alone; `WINDOW` bounds each call.
import MarkdownIt from "./markdown-it.js";

const WINDOW = 20000; // characters of blocks that are parsed at once; a longer block is plain text
const LONGEST = 200000; // characters of an answer; the rest is plain text

const parser = new MarkdownIt({ html: false, linkify: true, maxNesting: 20 });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
parser.validateLink = (url) => /^https?:\/\//i.test(url);

const made = (name, ...children) => {
  const element = document.createElement(name);
  element.append(...children);
  return element;
};

function link(url, ...children) {
  return Object.assign(made("a", ...children), { href: url, target: "_blank", rel: "noopener noreferrer" });
}

function codeBlock(text, words) {
  const button = Object.assign(made("button", words.copy), { type: "button", className: "copy-code" });
  const pre = made("pre", made("code", text.replace(/\n$/, "")));
  pre.tabIndex = 0; // it scrolls
  return Object.assign(made("div", button, pre), { className: "code" });
}

function opened(token) {
  switch (token.tag) {
    case "a":
      return link(token.attrGet("href"));
    case "ol":
      return Object.assign(made("ol"), { start: Number(token.attrGet("start") ?? 1) });
    case "table":
      return Object.assign(made("table"), { tabIndex: 0 });
    case "h1": case "h2": case "h3": case "h4": case "h5": case "h6":
      return made(`h${Math.min(6, Number(token.tag[1]) + 2)}`); // below those of the page
    default:
      return made(token.tag);
  }
}

function built(tokens, words) {
  const root = document.createDocumentFragment();
  const inside = [root];
  for (const token of tokens) {
    const place = inside[inside.length - 1];
    if (token.hidden) continue; // a paragraph of a tight list
    if (token.nesting === 1) {
      const element = opened(token);
      place.append(element);
      inside.push(element);
    } else if (token.nesting === -1) inside.pop();
    else if (token.type === "inline") place.append(built(token.children, words));
    else if (token.type === "code_inline") place.append(made("code", token.content));
    else if (token.type === "fence" || token.type === "code_block") place.append(codeBlock(token.content, words));
    else if (token.type === "image") place.append(link(token.attrGet("src"), token.content || token.attrGet("src")));
    else if (token.type === "softbreak" || token.type === "hardbreak") place.append(made("br"));
    else if (token.type === "hr") place.append(made("hr"));
    else place.append(token.content);
  }
  return root;
}

// Changes `old` into `wanted` where they differ, so that what is selected, focused or open stays.
function patch(old, wanted) {
  if (old.isEqualNode(wanted)) return;
  const same = old.nodeName === wanted.nodeName && old.cloneNode(false).isEqualNode(wanted.cloneNode(false));
  if (old.nodeType === Node.TEXT_NODE && wanted.nodeType === Node.TEXT_NODE) old.data = wanted.data;
  else if (same) patchChildren(old, [...wanted.childNodes], 0);
  else old.replaceWith(wanted);
}

function patchChildren(parent, wanted, from) {
  wanted.forEach((node, n) => {
    const old = parent.childNodes[from + n];
    if (old) patch(old, node);
    else parent.append(node);
  });
  while (parent.childNodes.length > from + wanted.length) parent.lastChild.remove();
}

// The text of blocks without code, as it may be read aloud: a line for each paragraph, item or cell.
function spoken(tokens) {
  return tokens.filter((token) => token.type === "inline").map((token) =>
    token.children.map(({ type, content }) => ({ image: "", softbreak: " ", hardbreak: " " })[type] ?? content).join("")).join("\n");
}

// An answer that grows inside an element.
export class Answer {
  constructor(element, words) {
    this.element = element;
    this.words = words;
    this.done = 0; // characters of blocks that do not change any more,
    this.nodes = 0; // their elements,
    this.speech = ""; // and what of them can be read aloud
    this.openSpeech = "";
  }

  // `text`: the one before, and more. Returns what of it can be read aloud.
  show(text) {
    text = text.replace(/\r\n?/g, "\n");
    while (!this.plain) {
      const whole = text.length <= Math.min(this.done + WINDOW, LONGEST);
      const part = text.slice(this.done, this.done + WINDOW);
      const end = this.done + part.length;
      const tokens = parser.parse(part, {});
      // The last two blocks may change: "2" after a list becomes its next item with the full stop.
      const starts = tokens.flatMap((token, n) => (token.level === 0 && token.nesting >= 0 ? [n] : []));
      const at = starts.length > 2 ? starts[starts.length - 2] : 0;
      const finished = built(tokens.slice(0, at), this.words).childNodes;
      const open = built(tokens.slice(at), this.words).childNodes;
      const count = finished.length;
      patchChildren(this.element, [...finished, ...open], this.nodes);
      this.openSpeech = spoken(tokens.slice(at));
      if (at) {
        this.done += part.split("\n", tokens[at].map[0]).join("\n").length + 1;
        this.nodes += count;
        this.speech += `${spoken(tokens.slice(0, at))}\n`;
      }
      if (whole) break;
      if (!at || this.done + WINDOW > LONGEST) this.endMarkdown(end);
    }
    if (this.plain) {
      this.plain.append(text.slice(this.done));
      this.done = text.length;
    }
    return this.speech + this.openSpeech;
  }

  endMarkdown(at) {
    this.done = at;
    this.plain = Object.assign(made("div"), { className: "plain" });
    this.element.append(this.plain);
  }
}
