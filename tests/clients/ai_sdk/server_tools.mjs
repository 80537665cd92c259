// What the AI SDK makes of an agent's own tools; prints it as JSON. usage: server_tools.mjs BASE_URL
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const [baseURL] = process.argv.slice(2);
const model = createOpenAI({ baseURL, apiKey: 'none' })('bot');
const tools = {
  weather: tool({ description: 'The weather', inputSchema: z.object({ city: z.string() }), execute: async () => 'sunny' }),
};
const asked = { model, tools, stopWhen: stepCountIs(3), maxRetries: 0 };
const cats = { role: 'user', content: 'cats' };
const history = { role: 'user', content: 'history' };
const seen = {};

const first = await generateText({ ...asked, messages: [cats] });
seen.generate = [first.text, first.steps.length, first.toolResults.map((one) => [one.toolName, one.output.output ?? one.output.error.type])];
const replayed = [cats, ...first.response.messages, history];
seen.sentBack = (await generateText({ ...asked, messages: replayed })).text;
const providerOptions = { openai: { previousResponseId: first.providerMetadata.openai.responseId } };
seen.chained = (await generateText({ ...asked, messages: [history], providerOptions })).text;
const stateless = { ...asked, providerOptions: { openai: { store: false } } };
const own = await generateText({ ...stateless, messages: [cats] });
seen.stateless = (await generateText({ ...stateless, messages: [cats, ...own.response.messages, history] })).text;
const both = await generateText({ ...asked, messages: [{ role: 'user', content: 'weather' }] });
seen.both = [both.text, both.steps.length];

const streamed = streamText({ ...asked, messages: [cats] });
const kinds = [];
for await (const part of streamed.fullStream) if (/^tool-|error/.test(part.type)) kinds.push(part.type);
seen.stream = [await streamed.text, (await streamed.steps).length, kinds];
console.log(JSON.stringify(seen));
