// The official Node SDK with an agent that fails: left to itself, it would have it run three times.
import OpenAI from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none" });

const asked = { model: "bot", messages: [{ role: "user", content: "raise" }] };
const status = await client.chat.completions.create(asked).then(
  () => 200,
  (error) => error.status,
);
console.log(JSON.stringify(status));
