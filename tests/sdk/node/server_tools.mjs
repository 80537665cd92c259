// The official Node SDK with an agent's own tools as items: its streams, its stream helper, and its items sent back.
import OpenAI from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const asked = { model: "bot", input: "cats" };

const kinds = [];
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  if (event.type.includes("mcp_call")) kinds.push([event.type.replace("response.", ""), event.output_index]);
}
const stream = client.responses.stream(asked);
for await (const _ of stream);
const final = await stream.finalResponse();
const input = [{ role: "user", content: "cats" }, ...final.output, { role: "user", content: "history" }];
const again = await client.responses.create({ model: "bot", input });

console.log(
  JSON.stringify({
    kinds,
    text: final.output_text,
    items: final.output.map((item) => [item.type, item.status]),
    failed: final.output.find((item) => item.status === "failed").error.content[0].text,
    told: again.output_text,
  }),
);
