// What LibreChat makes of an agent's own tools where it speaks Responses; prints it as JSON. usage: server_tools.mjs BASE_URL
import { createContentAggregator, GraphEvents, Run } from '@librechat/agents';
import { AIMessage, HumanMessage } from '@librechat/agents/langchain/messages';

const [baseURL] = process.argv.slice(2);

async function chat(messages) {
  const { contentParts, aggregateContent } = createContentAggregator();
  const customHandlers = {};
  for (const name of ['RUN_STEP', 'RUN_STEP_DELTA', 'RUN_STEP_COMPLETED', 'MESSAGE_DELTA', 'REASONING_DELTA']) {
    customHandlers[GraphEvents[`ON_${name}`]] = { handle: (event, data) => aggregateContent({ event, data }) };
  }
  const clientOptions = {
    provider: 'openAI',
    model: 'bot',
    apiKey: 'none',
    maxRetries: 0,
    streaming: true,
    useResponsesApi: true,
    configuration: { baseURL },
  };
  const run = await Run.create({
    runId: crypto.randomUUID(),
    graphConfig: { type: 'standard', agents: [{ agentId: 'ephemeral', provider: 'openAI', clientOptions }] },
    customHandlers,
    returnContent: true,
  });
  await run.processStream({ messages }, { configurable: { thread_id: 't' }, version: 'v2', recursionLimit: 10 });
  return contentParts.filter(Boolean).map((part) => part[part.type]?.name ?? part[part.type]);
}

const first = await chat([new HumanMessage('cats')]);
const second = await chat([new HumanMessage('cats'), new AIMessage(first.join('')), new HumanMessage('history')]);
console.log(JSON.stringify({ first, second }));
