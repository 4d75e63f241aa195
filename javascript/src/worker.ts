// SPDX-License-Identifier: Apache-2.0
/** The worker of `load(..., { worker: true })`: an engine that is asked in messages. */

import type { Answered, Asked, Opening } from "./channel.ts";
import { type Engine, openEngine, type Runtime } from "./engines.ts";
import type { ArrayLike } from "./tensor.ts";

/** What a worker of a page and one of Node have in common. */
interface Port {
  postMessage(message: Answered, transfer?: Transferable[]): void;
}

const threads =
  typeof process === "object" ? process.getBuiltinModule?.("node:worker_threads") : undefined;
const parent = threads?.parentPort;
const port = (parent ?? globalThis) as unknown as Port;
let engine: Promise<Engine> | undefined;

async function open({ file, source, options, hasHalf, runtime }: Opening): Promise<Engine> {
  const module = runtime && (await import(/* @vite-ignore */ /* webpackIgnore: true */ runtime));
  return openEngine(file, source, module ? { ...options, runtime: module as Runtime } : options, hasHalf);
}

async function answer(message: Opening | Asked): Promise<void> {
  const number = "number" in message ? message.number : 0;
  try {
    if ("file" in message) {
      engine = open(message);
      const { name, version } = await engine;
      port.postMessage({ number, value: { name, version } });
      return;
    }
    const results = await (await engine!).run(message.feeds, message.outputs);
    const { arrays, memory } = plain(results);
    port.postMessage({ number, value: arrays }, memory);
  } catch (error) {
    const { name, message: text } = error as Error;
    port.postMessage({ number, error: { name, message: text } });
  }
}

/** Arrays as plain objects, and the memory that can be given away. Node's stays in its engine. */
function plain(results: Readonly<Record<string, ArrayLike>>): {
  arrays: Record<string, ArrayLike>;
  memory: Transferable[];
} {
  const arrays: Record<string, ArrayLike> = {};
  const memory = new Set<ArrayBuffer>();
  for (const [name, { type, dims, data }] of Object.entries(results)) {
    arrays[name] = { type, dims: [...dims], data };
    if (!parent) memory.add((data as ArrayBufferView).buffer as ArrayBuffer);
  }
  return { arrays, memory: [...memory] };
}

if (parent) parent.on("message", (message: Opening | Asked) => void answer(message));
else globalThis.addEventListener("message", (event) => void answer((event as MessageEvent).data));
