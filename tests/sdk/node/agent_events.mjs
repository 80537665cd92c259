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
const asked = { model: "bot", input: "ask", stream: true, stream_options: { include_tool_events: true } };
for await (const event of await client.responses.create(asked)) {
  kinds.push(event.type);
  if (event.progress) progress.push(event.progress.status);
  await answer(event);
  if (event.type === "response.output_text.delta") text += event.delta;
}

// The helper throws on events it does not know, as a question is. It asks for none, so it gets none: the agent is denied at once.
const stream = client.responses.stream({ model: "bot", input: "ask" });
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
