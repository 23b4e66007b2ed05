// Requests to the server whose answers are events.
import { Refused } from "./hearing.js";

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const event = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) yield { event, data: JSON.parse(data) };
    }
  }
}

async function* ask(path, body, headers, key, signal) {
  const all = { Accept: "text/event-stream", ...headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { method: "POST", body, headers: all, signal });
  if (!response.ok) {
    const document = await response.json().catch(() => ({ error: { code: "internal", message: `HTTP ${response.status}` } }));
    throw new Refused(document.error.code, document.error.message);
  }
  yield* events(response);
}

// "answer.delta" and "answer.done" or "error", for a question in writing.
export const askInWriting = (text, history, key, signal) =>
  ask("api/ask", JSON.stringify({ text, history }), { "Content-Type": "application/json" }, key, signal);

// "progress", "partial", "final", and "done" or "error", for a file.
export function hearFile(file, model, key, signal) {
  const form = new FormData();
  form.append("file", file);
  if (model) form.append("model", model);
  return ask("api/audio/convert", form, {}, key, signal);
}
