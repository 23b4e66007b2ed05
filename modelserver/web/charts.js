// Charts of what was, drawn as SVG: a stack for memory, lines for the rest.

const NS = "http://www.w3.org/2000/svg";
const LEFT = 58;

const made = (name, attributes, text) => {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

export const bytes = (n) => {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (Math.abs(n) >= size) return `${(n / size).toFixed(n / size < 10 ? 2 : n / size < 100 ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(n)} B`;
};

// Of the scale: the next round number, and steps to it.
function steps(most) {
  const rough = Math.max(most, 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, n) => n * step);
}

function frame(W, height, from, to, most, shown, title) {
  const svg = made("svg", { viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": title });
  const x = (time) => LEFT + ((time - from) / Math.max(1e-9, to - from)) * (W - LEFT - 6);
  const y = (value) => height - 20 - (value / Math.max(most, 1e-9)) * (height - 30);
  for (const value of steps(most)) {
    svg.append(made("line", { class: "axis", x1: LEFT, x2: W - 6, y1: y(value), y2: y(value) }),
      made("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, shown(value)));
  }
  const parts = W < 300 ? 1 : W < 500 ? 2 : 4;
  for (let n = 0; n <= parts; n += 1) {
    const time = from + ((to - from) * n) / parts;
    const text = new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: to - from < 600 ? "2-digit" : undefined });
    svg.append(made("text", { x: x(time), y: height - 4, "text-anchor": n === 0 ? "start" : n === parts ? "end" : "middle" }, text));
  }
  return { svg, x, y };
}

// `layers`: [name, class, (sample) => bytes], from below.
export function memory(W, samples, layers, deaths, words, span) {
  const height = W < 500 ? 220 : 300;
  const to = samples.at(-1).time;
  const from = Math.min(samples[0].time, to - span);
  const last = samples.at(-1);
  const used = Math.max(...samples.map((s) => s.used));
  // Where the limit is far away, what is used would be a line at the bottom.
  const near = used > 0.2 * last.limit;
  const most = (near ? last.limit : used) * 1.06;
  const { svg, x, y } = frame(W, height, from, to, most, bytes, `${words.memory}: ${bytes(last.used)}`);
  let begin = null;
  samples.forEach((sample, at) => {
    if (sample.level && begin === null) begin = at;
    const next = samples[at + 1];
    if (begin !== null && (!next || next.level !== samples[begin].level)) {
      svg.append(made("rect", { class: `level${samples[begin].level}`, x: x(samples[begin].time), y: 8, width: Math.max(2, x((next || sample).time) - x(samples[begin].time)), height: height - 28 }));
      begin = next && next.level ? at + 1 : null;
    }
  });
  let below = samples.map(() => 0);
  for (const [, kind, value] of layers) {
    const above = samples.map((sample, at) => below[at] + Math.max(0, value(sample)));
    const path = [...samples.map((s, at) => `${x(s.time).toFixed(1)},${y(above[at]).toFixed(1)}`), ...samples.map((s, at) => `${x(s.time).toFixed(1)},${y(below[at]).toFixed(1)}`).reverse()];
    svg.append(made("polygon", { class: kind, points: path.join(" ") }));
    below = above;
  }
  if (near) {
    for (const [kind, value] of [["limit", last.limit], ["reserve", last.limit - last.reserve]]) {
      svg.append(made("line", { class: kind, x1: LEFT, x2: W - 6, y1: y(value), y2: y(value) }));
    }
  }
  for (const death of deaths.filter((one) => one.time >= from)) {
    const mark = made("g", {});
    mark.append(made("line", { class: "death", x1: x(death.time), x2: x(death.time), y1: 14, y2: height - 20 }),
      made("text", { class: "death", x: x(death.time), y: 12, "text-anchor": "middle" }, "✕"), made("title", {}, death.sentence));
    svg.append(mark);
  }
  return svg;
}

// `kinds`: [class, (sample) => number or null]
export function lines(W, samples, kinds, shown, title, span) {
  const height = 140;
  const to = samples.at(-1).time;
  const from = Math.min(samples[0].time, to - span);
  const most = Math.max(...samples.flatMap((s) => kinds.map(([, value]) => value(s) ?? 0)), 0) * 1.1 || 1;
  const { svg, x, y } = frame(W, height, from, to, most, shown, title);
  for (const [kind, value] of kinds) {
    let path = "";
    let drawing = false;
    for (const sample of samples) {
      const v = value(sample);
      if (v === null) { drawing = false; continue; }
      path += `${drawing ? "L" : "M"}${x(sample.time).toFixed(1)} ${y(v).toFixed(1)}`;
      drawing = true;
    }
    svg.append(made("path", { class: kind, d: path }));
  }
  return svg;
}
