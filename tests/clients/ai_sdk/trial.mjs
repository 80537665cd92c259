// What the AI SDK does against a running server; prints what came of it as JSON. usage: trial.mjs BASE_URL responses|chat
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const [baseURL, api] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey: 'sk-test' });
const model = api === 'chat' ? openai.chat('scripted') : openai('scripted');
const weather = tool({
  description: 'The weather in a city',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const person = z.object({ name: z.string(), age: z.number() });
const seen = {};

const plain = await generateText({ model, prompt: 'hello', maxRetries: 0 });
seen.generate = [plain.text, plain.finishReason, plain.usage.outputTokens > 0];
seen.reasoning = plain.reasoningText ?? '';

const tools = await generateText({ model, prompt: 'weather', tools: { weather }, stopWhen: stepCountIs(3) });
seen.tools = [tools.text, tools.steps[0].toolResults.map((result) => result.output)];

const streamed = streamText({ model, system: 'Be kind.', prompt: 'weather', tools: { weather }, stopWhen: stepCountIs(3) });
const kinds = new Set();
for await (const part of streamed.fullStream) kinds.add(part.type);
seen.stream = [await streamed.text, (await streamed.steps).length, kinds.has('tool-input-delta'), kinds.has('error')];

const typed = await generateText({ model, output: Output.object({ schema: person }), prompt: 'as json' });
seen.output = typed.output;
const partly = streamText({ model, output: Output.object({ schema: person }), prompt: 'as json' });
for await (const _ of partly.partialOutputStream);
seen.streamedOutput = await partly.output;

const again = await generateText({
  model,
  messages: [{ role: 'user', content: 'hello' }, ...plain.response.messages, { role: 'user', content: 'hello' }],
  temperature: 0.5,
  maxOutputTokens: 50,
  providerOptions: { openai: { store: false, parallelToolCalls: false, textVerbosity: 'low', promptCacheKey: 'k' } },
});
seen.messages = again.text;

if (api !== 'chat') {
  const previousResponseId = plain.providerMetadata.openai.responseId;
  const next = await generateText({ model, prompt: 'hello', providerOptions: { openai: { previousResponseId } } });
  seen.chained = next.text;
  const search = openai.tools.webSearch({});
  seen.hosted = (await generateText({ model, prompt: 'hello', tools: { web_search: search, weather } })).text;
}

const failing = streamText({ model, prompt: 'fail midway', maxRetries: 0, onError() {} });
const errors = [];
for await (const part of failing.fullStream) if (part.type === 'error') errors.push(part.error.message);
seen.failure = errors;
console.log(JSON.stringify(seen));
