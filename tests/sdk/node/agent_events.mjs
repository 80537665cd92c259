// The official Node SDK with what agents say in their streams: reads them to their end and answers what the agent asks.
import OpenAI from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });

async function answer(event) {
  if (event.type !== "trunkline.approval.requested") return;
  const path = `/runs/${event.response_id}/approval`;
  await client.post(path, { body: { choice: "once", call_id: event.approval.call_id } });
}

const kinds = [];
const progress = [];
let text = "";
for await (const event of await client.responses.create({ model: "bot", input: "ask", stream: true })) {
  kinds.push(event.type);
  if (event.progress) progress.push(event.progress.status);
  await answer(event);
  if (event.type === "response.output_text.delta") text += event.delta;
}

// The helper throws on events it does not know, as a question is; an agent's tools say all in events that it knows.
const stream = client.responses.stream({ model: "bot", input: "go" });
for await (const _ of stream);
const final = await stream.finalResponse();

console.log(
  JSON.stringify({
    text,
    progress,
    last: kinds.at(-1),
    helper: final.output_text,
    items: final.output.map((item) => item.type),
  }),
);
