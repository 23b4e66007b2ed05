// The page of the HTTP API: what openapi.json describes, each with a form to try it.
"use strict";

const made = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const resolved = (schema, documentation) =>
  schema.$ref ? documentation.components.schemas[schema.$ref.split("/").pop()] : schema;

// What is between backticks is code.
const prose = (text) => (text || "").split("`").map((part, at) =>
  at % 2 ? made("code", {}, part) : part);

function field(name, schema, text, required) {
  let input;
  if (schema.contentMediaType) {
    input = made("input", { type: "file", name, required });
  } else if (schema.enum) {
    const options = schema.enum.map((value) => made("option", { value }, value));
    input = made("select", { name }, made("option", { value: "" }, "—"), ...options);
  } else {
    input = made("input", { name, required, spellcheck: false });
  }
  return made("label", {}, made("code", {}, name), input, made("small", {}, ...prose(text)));
}

function fieldsOf(operation) {
  const forms = operation.requestBody?.content["multipart/form-data"];
  const parameters = (operation.parameters || []).filter((one) => one.in !== "header");
  const found = parameters.map((one) => ({ ...one, text: one.description }));
  const known = new Set(found.map((one) => one.name));
  for (const [name, schema] of Object.entries(forms?.schema.properties || {})) {
    if (known.has(name)) continue;
    const required = forms.schema.required.includes(name) && Boolean(schema.contentMediaType);
    const plain = schema.type === "array" ? schema.items : schema;
    found.unshift({ name, in: "form", schema: plain, text: schema.description, required });
  }
  return found.sort((a, b) => (b.required ? 1 : 0) - (a.required ? 1 : 0));
}

async function ask(method, path, fields, form, output, button) {
  const query = new URLSearchParams();
  const body = new FormData();
  let hasBody = false;
  for (const one of fields) {
    const input = form.elements[one.name];
    const value = input.type === "file" ? input.files[0] : input.value.trim();
    if (!value) continue;
    if (one.in === "path") path = path.replace(`{${one.name}}`, encodeURIComponent(value));
    else if (one.in === "query") query.append(one.name, value);
    else { body.append(one.name, value); hasBody = true; }
  }
  const key = document.getElementById("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const url = path + (query.size ? `?${query}` : "");
  button.disabled = true;
  output.hidden = false;
  output.textContent = "…";
  try {
    const started = performance.now();
    const answer = await fetch(url, { method, headers, body: hasBody ? body : undefined });
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* it is text */ }
    const took = Math.round(performance.now() - started);
    output.textContent = `${method} ${url}\n${answer.status} ${answer.statusText} (${took} ms)\n\n${shown}`;
  } catch (error) {
    output.textContent = `The server cannot be reached: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

function section(path, method, operation, documentation) {
  const body = made("div", { className: "body" });
  const summary = made("summary", {},
    made("span", { className: "method" }, method.toUpperCase()),
    made("span", { className: "path" }, path),
    made("span", {}, ...prose(operation.summary)));
  const rows = Object.entries(operation.responses).map(([status, answer]) =>
    made("tr", {}, made("td", {}, made("code", {}, status)), made("td", {}, ...prose(answer.description))));
  if (!operation.responses["101"]) {
    const fields = fieldsOf(operation);
    const button = made("button", { type: "submit" }, "Try it");
    const output = made("pre", { hidden: true });
    output.setAttribute("role", "status");
    const inputs = fields.map((one) => field(one.name, resolved(one.schema, documentation), one.text, one.required));
    const form = made("form", {}, ...inputs, button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask(method.toUpperCase(), path, fields, form, output, button);
    });
    body.append(form, output);
  }
  const head = made("tr", {}, made("th", { scope: "col" }, "Status"), made("th", { scope: "col" }, "Answer"));
  body.append(made("table", {}, made("thead", {}, head), made("tbody", {}, ...rows)));
  return made("details", {}, summary, body);
}

async function show() {
  const place = document.getElementById("operations");
  try {
    const documentation = await (await fetch("/openapi.json")).json();
    const sections = Object.entries(documentation.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, one]) => section(path, method, one, documentation)));
    sections[0].open = true;
    place.replaceChildren(...sections);
  } catch (error) {
    document.getElementById("loading").textContent = `The document cannot be read: ${error.message}`;
  }
}

document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
show();
