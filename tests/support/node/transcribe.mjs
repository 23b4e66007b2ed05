// What an application in Node does: one transcript at once, one as it is made, and the models.
import fs from "node:fs";
import OpenAI from "openai";

const [, , url, file] = process.argv;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const model = "whisper-1";
const said = {};
said.models = (await client.models.list()).data.map((one) => one.id);
said.model = (await client.models.retrieve(said.models[0])).id;
said.json = await client.audio.transcriptions.create({ file: fs.createReadStream(file), model });
said.verbose = await client.audio.transcriptions.create({
  file: fs.createReadStream(file),
  model,
  response_format: "verbose_json",
  timestamp_granularities: ["word", "segment"],
});
said.srt = await client.audio.transcriptions.create({
  file: fs.createReadStream(file),
  model,
  response_format: "srt",
});
said.events = [];
const stream = await client.audio.transcriptions.create({
  file: fs.createReadStream(file),
  model: "gpt-4o-mini-transcribe",
  stream: true,
});
for await (const event of stream) said.events.push(event);
try {
  await client.audio.transcriptions.create({ file: fs.createReadStream(file), model: "nobody" });
} catch (error) {
  said.error = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(said));
