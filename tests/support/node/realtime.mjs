// What an application in Node does: it opens a transcription session, sends audio, and reads events.
// The package asks for TLS, which a gateway would end; here the server is reached without.
import fs from "node:fs";
import net from "node:net";
import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [, , url, apiKey, file, kind] = process.argv;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey });
const model = "gpt-realtime-whisper";
let session;
if (kind === "ws") {
  const createConnection = ({ host, port }) => net.connect({ host, port });
  session = new OpenAIRealtimeWS({ model, options: { createConnection } }, client);
} else {
  const onURL = (url) => {
    url.protocol = "ws:";
    url.searchParams.set("intent", "transcription");
  };
  session = new OpenAIRealtimeWebSocket({ model, onURL }, client);
}
const said = { types: [], errors: [], text: "" };
session.on("event", (event) => said.types.push(event.type));
session.on("error", (error) => {
  said.errors.push(error.error ?? error.message);
  if (!error.error) end();
});
session.on("session.created", () => {
  session.send({ type: "response.create", event_id: "mine" });
  session.send({
    type: "session.update",
    session: {
      type: "transcription",
      audio: { input: { format: { type: "audio/pcm", rate: 24000 }, turn_detection: null } },
    },
  });
});
session.on("session.updated", () => {
  const audio = fs.readFileSync(file);
  for (let at = 0; at < audio.length; at += 9600) {
    session.send({
      type: "input_audio_buffer.append",
      audio: audio.subarray(at, at + 9600).toString("base64"),
    });
  }
  session.send({ type: "input_audio_buffer.commit" });
});
session.on("conversation.item.input_audio_transcription.delta", (event) => {
  said.text += event.delta;
});
session.on("conversation.item.input_audio_transcription.completed", (event) => {
  said.transcript = event.transcript;
  end();
});

function end() {
  session.close();
  console.log(JSON.stringify(said));
  setTimeout(() => process.exit(0), 50);
}
