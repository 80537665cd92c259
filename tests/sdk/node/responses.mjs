// The official Node SDK's Responses against a running server: does everything once and prints what it saw as one JSON object.
import OpenAI from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "sk-test", maxRetries: 0 });
const create = (input, more = {}) => client.responses.create({ model: "scripted", input, ...more });

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const seen = {};
const whole = await create("hello there");
seen.create = { text: whole.output_text, same: (await client.responses.retrieve(whole.id)).output_text };

const stream = client.responses.stream({ model: "scripted", input: "one two three" });
let text = "";
stream.on("response.output_text.delta", (event) => (text += event.delta));
const final = await stream.finalResponse();
seen.helper = { text, final: final.output_text };

const chained = await create("again", { previous_response_id: whole.id });
seen.chained = chained.previous_response_id === whole.id;

const events = await all(await create("one two three", { background: true, stream: true }));
const { id } = events.at(-1).response;
const rest = await all(await client.responses.retrieve(id, { stream: true, starting_after: 3 }));
seen.resumed = JSON.stringify(rest) === JSON.stringify(events.slice(4));

const running = await create("hang", { background: true });
seen.cancelled = (await client.responses.cancel(running.id)).status;

seen.items = [];
for await (const item of client.responses.inputItems.list(whole.id)) seen.items.push(item.content[0].text);

await client.responses.delete(whole.id);
seen.gone = await client.responses.retrieve(whole.id).then(
  () => null,
  (error) => [error.constructor.name, error.code],
);
console.log(JSON.stringify(seen));
