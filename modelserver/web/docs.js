// The page of the HTTP API: Swagger UI, with this server's document and nothing from elsewhere.
"use strict";

// Optional fields of forms begin empty: Swagger UI fills in samples, and a model called "string" or
// a language "string" is not found.
function withoutSamples(description) {
  for (const path of Object.values(description.paths)) {
    for (const operation of Object.values(path)) {
      const form = operation.requestBody?.content["multipart/form-data"]?.schema;
      for (const [name, field] of Object.entries(form?.properties || {})) {
        if (field.contentMediaType || form.required?.includes(name)) continue;
        field.example = field.type === "array" ? [] : "";
      }
    }
  }
  return description;
}

// An empty field of a form is one that is not meant; Swagger UI sends it nevertheless.
function withoutEmptyFields(request) {
  if (request.body instanceof FormData) {
    const body = new FormData();
    for (const [name, value] of request.body) if (value !== "") body.append(name, value);
    request.body = body;
  }
  return request;
}

async function show() {
  const place = document.getElementById("operations");
  try {
    const answer = await fetch("openapi.json");
    const description = withoutSamples(await answer.json());
    // "." in the document: its own folder, which Swagger UI knows only of documents that it fetches.
    description.servers = [{ url: new URL(".", answer.url).href.replace(/\/$/, "") }];
    window.ui = SwaggerUIBundle({
      spec: description,
      domNode: place,
      deepLinking: true,
      tryItOutEnabled: true,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      requestInterceptor: withoutEmptyFields,
      // Otherwise the document of a server that is not local is sent to a validator of Swagger's.
      validatorUrl: null,
    });
  } catch (error) {
    place.textContent = `The API cannot be shown: ${error.message}`;
  }
}

show();
