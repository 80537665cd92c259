// What LibreChat does with the recipe of docs/chat-uis.md, by the packages that it is made of: librechat-data-provider reads it and
// @librechat/agents makes the requests, set up as LibreChat does that for a custom endpoint. Prints what came of it as JSON.
// usage: trial.mjs LIBRECHAT_YAML BASE_URL
import { readFileSync } from 'node:fs';
import { createContentAggregator, createMetadataAggregator, createTokenCounter, Run } from '@librechat/agents';
import { GraphEvents, ModelEndHandler } from '@librechat/agents';
import { AIMessage, HumanMessage } from '@librechat/agents/langchain/messages';
import { load } from 'js-yaml';
import { configSchema, Constants, endpointSchema } from 'librechat-data-provider';

const [file, baseURL] = process.argv.slice(2);
const config = configSchema.strict().parse(load(readFileSync(file, 'utf8')));
const endpoint = endpointSchema.strict().parse(config.endpoints.custom[0]);
const seen = { version: config.version === Constants.CONFIG_VERSION };
const VALUES = { '{{LIBRECHAT_BODY_CONVERSATIONID}}': 'talk-1', '{{LIBRECHAT_USER_ID}}': 'ada' };
const PARTS = ['RUN_STEP', 'RUN_STEP_DELTA', 'RUN_STEP_COMPLETED', 'MESSAGE_DELTA', 'REASONING_DELTA', 'SUMMARIZE_COMPLETE'];

// LibreChat's server fills the placeholders in.
function client(model, { apiKey = 'sk-mine', headers = endpoint.headers } = {}) {
  const filled = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, VALUES[value] ?? value]));
  const configuration = { baseURL, defaultHeaders: filled };
  const options = { provider: 'openAI', streaming: true, streamUsage: false, usage: true, user: 'ada', maxRetries: 0 };
  return { ...options, ...endpoint.addParams, model, apiKey, configuration };
}

async function chat(model, messages, { agent, execute, onText, signal, ...options } = {}) {
  const { contentParts, aggregateContent } = createContentAggregator();
  const usage = [];
  const customHandlers = { [GraphEvents.CHAT_MODEL_END]: new ModelEndHandler(usage) };
  for (const name of PARTS) {
    customHandlers[GraphEvents[`ON_${name}`]] = {
      handle(event, data) {
        aggregateContent({ event, data });
        if (name === 'MESSAGE_DELTA') onText?.();
      },
    };
  }
  customHandlers[GraphEvents.ON_TOOL_EXECUTE] = {
    handle: (_, { toolCalls, resolve }) =>
      resolve(toolCalls.map((call) => ({ toolCallId: call.id, content: execute(call.args), status: 'success' }))),
  };
  const tokenCounter = await createTokenCounter('o200k_base');
  const one = { agentId: 'ephemeral', provider: 'openAI', clientOptions: client(model, options), instructions: 'Be kind.' };
  const run = await Run.create({
    runId: crypto.randomUUID(),
    graphConfig: {
      type: 'standard',
      signal,
      agents: [{ ...one, reasoningKey: 'reasoning_content', useLegacyContent: true, maxContextTokens: 18_000, ...agent }],
    },
    tokenCounter,
    indexTokenCountMap: Object.fromEntries(messages.map((message, index) => [index, tokenCounter(message)])),
    customHandlers,
    returnContent: true,
  });
  let error;
  const configurable = { thread_id: 'talk-1', user_id: 'ada' };
  try {
    await run.processStream({ messages }, { configurable, signal, streamMode: 'values', version: 'v2', recursionLimit: 25 });
  } catch (raised) {
    error = [raised.status ?? null, typeof raised.code === 'string' ? raised.code : raised.name, raised.message.split('\n')[0]];
  }
  const parts = contentParts.filter(Boolean).map((part) => part[part.type] ?? part.content[0].text);
  return { run, parts, error, usage: usage.map((one) => [one.input_tokens, one.output_tokens]) };
}

async function title(run, parts, titleMethod) {
  const { handleLLMEnd, collected } = createMetadataAggregator();
  const { streaming, ...clientOptions } = client(endpoint.titleModel);
  const chainOptions = { callbacks: [{ handleLLMEnd }], configurable: { thread_id: 'talk-1', user_id: 'ada' } };
  const contentParts = parts.map((text) => ({ type: 'text', text }));
  const asked = { provider: 'openAI', clientOptions, inputText: 'hello', contentParts, titleMethod, chainOptions };
  try {
    return [(await run.generateTitle(asked)).title, collected[0].tokenUsage.completionTokens];
  } catch (error) {
    return error.status;
  }
}

const said = (...texts) => texts.map((text, index) => new [HumanMessage, AIMessage][index % 2](text));
const model = endpoint.models.default[0];

const first = await chat(model, said('hello'));
seen.first = [first.parts, first.usage];
seen.title = await title(first.run, first.parts, endpoint.titleMethod);
seen.structured = await title(first.run, first.parts, 'structured');
seen.second = (await chat(model, said('hello', first.parts.at(-1), 'and now?'))).parts;
const long = 'cats and dogs '.repeat(200);
const summarized = { maxContextTokens: 1500, summarizationEnabled: true, summarizationConfig: { provider: 'openAI', model } };
seen.summarized = (await chat(model, said(long, long, long, long, long, 'ho', 'and then?'), { agent: summarized })).parts;

const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const tools = { agent: { toolDefinitions: [{ name: 'weather', description: 'The weather in a city', parameters }] }, headers: {} };
const execute = ({ city }) => `sunny in ${city}`;
const called = await chat('scripted', said('weather'), { ...tools, execute });
seen.tools = called.parts.map((part) => (part.output === undefined ? part : [part.name, part.args, part.output]));
seen.thought = (await chat('scripted', said('think'), { headers: {} })).parts;

seen.refused = (await chat(model, said('weather'), { ...tools, execute })).error;
seen.stranger = (await chat(model, said('hello'), { apiKey: 'wrong' })).error;
seen.unknown = (await chat('nobody', said('hello'))).error;
seen.limited = (await chat('scripted', said('too much'), { headers: {} })).error;
seen.broken = (await chat('broken', said('hello'), { headers: {} })).error;
const midway = await chat('broken', said('midway'), { headers: {} });
seen.midway = [midway.parts, midway.error];

const stop = new AbortController();
const left = await chat('endless', said('hello'), { headers: {}, signal: stop.signal, onText: () => stop.abort() });
seen.left = [left.parts, left.error[1]];
console.log(JSON.stringify(seen));
