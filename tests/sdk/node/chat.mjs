// The official Node SDK against a running server: does everything once and prints what it saw as one JSON object.
import OpenAI from "openai";

const [, , baseURL] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "sk-test", maxRetries: 0 });
const said = (content) => [{ role: "user", content }];
const create = (content, more = {}) => client.chat.completions.create({ model: "scripted", messages: said(content), ...more });
const tools = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: { name, parameters: { type: "object", properties: { city: { type: "string" } } } },
}));

async function raised(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return {
      name: error.constructor.name,
      status: error.status ?? null,
      code: error.code ?? null,
      param: error.param ?? null,
      message: error.message,
      requestID: error.requestID ?? null,
    };
  }
}

async function streamed(content, more = {}) {
  const chunks = [];
  for await (const chunk of await create(content, { stream: true, ...more })) chunks.push(chunk);
  return chunks;
}

const seen = {};
const whole = await create("hello there");
seen.create = { completion: whole, requestID: whole._request_id };
seen.stream = await streamed("one two three", { stream_options: { include_usage: true } });

const helper = client.chat.completions.stream({ model: "scripted", messages: said("the weather in Paris"), tools });
seen.helper = { content: [] };
helper.on("content", (delta) => seen.helper.content.push(delta));
seen.helper.final = await helper.finalChatCompletion();

const agent = client.chat.completions.stream({
  model: "scripted",
  messages: said("use a tool"),
  stream_options: { include_tool_events: true },
});
seen.agent = { meanwhile: [] };
for await (const chunk of agent) {
  if (chunk.choices.length === 0) seen.agent.meanwhile.push(chunk.tool ?? chunk.approval.status);
}
seen.agent.final = await agent.finalChatCompletion();

seen.n = (await create("same", { n: 2 })).choices.map((choice) => [choice.index, choice.message.content]);
seen.logprobs = (await create("one two", { logprobs: true, top_logprobs: 1 })).choices[0].logprobs;

const parsed = await client.chat.completions.parse({
  model: "scripted",
  messages: said("as json"),
  response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema: { type: "object" } } },
});
seen.parsed = JSON.parse(parsed.choices[0].message.content);

const called = [];
const runner = client.chat.completions.runTools({
  model: "scripted",
  messages: said("run the tool"),
  tools: [
    {
      type: "function",
      function: {
        name: "add",
        parse: JSON.parse,
        function: ({ a, b }) => {
          called.push([a, b]);
          return String(a + b);
        },
        parameters: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } } },
      },
    },
  ],
});
seen.runTools = { content: await runner.finalContent(), called, roles: runner.messages.map((message) => message.role) };

seen.errors = {
  bad: await raised(() => client.chat.completions.create({ model: "scripted", messages: [] })),
  unknown: await raised(() => client.chat.completions.create({ model: "gpt-9", messages: said("x") })),
  unauthorized: await raised(() => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list()),
  busy: await raised(() => create("be busy")),
  broken: await raised(() => create("break")),
  midway: await raised(() => streamed("fail midway")),
};

seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.model = await client.models.retrieve("scripted");

const { response } = await create("hi", { temperature: 0.5 }).withResponse();
seen.headers = Object.fromEntries(response.headers.entries());

const turn = { model: "scripted", messages: said("once") };
const keyed = (options) => client.chat.completions.create(turn, options).withResponse();
seen.keyed = [];
for (const options of [{ headers: { "Idempotency-Key": "order-17" } }, { idempotencyKey: "order-18" }]) {
  const answers = [await keyed(options), await keyed(options)];
  seen.keyed.push(answers.map(({ response }) => response.headers.get("x-trunkline-idempotent")));
}

const leaving = await create("hang", { stream: true });
for await (const chunk of leaving) {
  seen.left = chunk.choices[0].delta.content;
  break;
}

console.log(JSON.stringify(seen));
