// SPDX-License-Identifier: Apache-2.0
/** ONNX Runtime in a worker, so that the page, or the service, has its own thread for itself. */

import type { Answered, Asked, Opening } from "./channel.ts";
import type { Engine, EngineOptions, Feeds } from "./engines.ts";
import * as errors from "./errors.ts";
import type { ArrayLike } from "./tensor.ts";

/** What is used of a worker, a page's or Node's. */
interface Thread {
  post(message: Opening | Asked): void;
  end(): Promise<void>;
}

interface Waiting {
  resolve(value: never): void;
  reject(error: Error): void;
}

const GONE = "The model has been disposed of; load it again to call it.";

/**
 * Loads a file into ONNX Runtime, in a worker of its own.
 *
 * @throws InputError an option cannot be sent to a worker.
 * @throws EngineUnavailable there are no workers, or ONNX Runtime is not installed.
 * @throws EngineError it refuses the file.
 */
export async function openInWorker(
  file: string | Uint8Array,
  source: string,
  { runtime, worker: _, ...options }: EngineOptions,
  hasHalf: boolean,
): Promise<Engine> {
  if (runtime) {
    throw new errors.InputError(
      "A worker cannot take the module that runtime names; leave out runtime, or worker.",
    );
  }
  const engine = new WorkerEngine();
  try {
    await engine.open({ file, source, options, hasHalf, runtime: addressOf(options) });
    return engine;
  } catch (error) {
    await engine.end();
    throw error;
  }
}

/** The address of ONNX Runtime on a page with an import map, which a worker does not see. */
function addressOf({ engine }: EngineOptions): string | undefined {
  if (engine === "node" || typeof document === "undefined") return undefined;
  try {
    // Not a constant, so that bundlers leave it alone: theirs is found by the worker itself.
    const name = ["onnxruntime-web", "wasm"].join("/");
    return import.meta.resolve(name);
  } catch {
    return undefined;
  }
}

class WorkerEngine implements Engine {
  name = "";
  version = "";
  readonly #thread: Thread;
  readonly #waiting = new Map<number, Waiting>();
  #calls = 0;
  #idle: (() => void) | undefined;
  #ended: Promise<void> | undefined;
  #problem: Error | undefined;

  constructor() {
    this.#thread = started(
      (answer) => this.#take(answer),
      (reason) => this.#fail(reason),
    );
  }

  async open(opening: Opening): Promise<void> {
    const told = await this.#ask<{ name: string; version: string }>(0, opening);
    this.name = told.name;
    this.version = told.version;
  }

  run(feeds: Feeds, outputs: readonly string[]): Promise<Record<string, ArrayLike>> {
    if (this.#ended) return Promise.reject(new errors.StateportError(GONE));
    const number = ++this.#calls;
    return this.#ask(number, { number, feeds: plain(feeds), outputs });
  }

  /** Ends the worker, once the calls that run have ended. */
  dispose(): Promise<void> {
    this.#ended ??= this.#release();
    return this.#ended;
  }

  /** Ends the worker at once. */
  end(): Promise<void> {
    return this.#thread.end();
  }

  async #release(): Promise<void> {
    if (this.#waiting.size) {
      await new Promise<void>((idle) => {
        this.#idle = idle;
      });
    }
    await this.end();
  }

  #ask<T>(number: number, message: Opening | Asked): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#problem) throw this.#problem;
      try {
        this.#thread.post(message);
      } catch (error) {
        throw new errors.InputError(
          `A worker cannot take what session holds: ${errors.reasonOf(error)}. Leave it out, or ` +
            "worker.",
          { cause: error },
        );
      }
      this.#waiting.set(number, { resolve, reject });
    });
  }

  #take({ number, value, error }: Answered): void {
    const waiting = this.#waiting.get(number);
    this.#waiting.delete(number);
    if (error) waiting?.reject(made(error.name, error.message));
    else waiting?.resolve(value as never);
    if (!this.#waiting.size) this.#idle?.();
  }

  #fail(reason: string): void {
    this.#problem = new errors.EngineError(`The worker ended: ${reason}. Load the model again.`);
    for (const { reject } of this.#waiting.values()) reject(this.#problem);
    this.#waiting.clear();
    this.#idle?.();
  }
}

/** Arrays as plain objects, which can be sent, and which ONNX Runtime takes for tensors. */
function plain(feeds: Feeds): Feeds {
  const arrays: Record<string, ArrayLike & { location: string }> = {};
  for (const [name, { type, dims, data }] of Object.entries(feeds)) {
    arrays[name] = { type, dims, data, location: "cpu" };
  }
  return arrays;
}

/** The error of a class of this package, by its name. */
function made(name: string, message: string): Error {
  const classes: Readonly<Record<string, unknown>> = { ...errors };
  const Class = name.endsWith("Error") || name === "EngineUnavailable" ? classes[name] : undefined;
  return new ((Class ?? errors.EngineError) as typeof errors.EngineError)(message);
}

function started(take: (answer: Answered) => void, fail: (reason: string) => void): Thread {
  const threads =
    typeof process === "object" ? process.getBuiltinModule?.("node:worker_threads") : undefined;
  if (threads) {
    const worker = new threads.Worker(new URL("./worker.js", import.meta.url));
    worker.on("message", take);
    worker.on("error", (error) => fail(errors.reasonOf(error)));
    worker.on("exit", (code) => fail(`exit code ${code}`));
    return {
      post: (message) => worker.postMessage(message),
      end: async () => {
        await worker.terminate();
      },
    };
  }
  if (typeof Worker === "undefined") {
    throw new errors.EngineUnavailable(
      "There are no workers here; load the model without worker, in a page or in Node.",
    );
  }
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", (event) => take(event.data as Answered));
  worker.addEventListener("error", (event) => {
    fail(event.message || "its script, worker.js beside index.js, could not be loaded");
  });
  return {
    post: (message) => worker.postMessage(message),
    end: async () => worker.terminate(),
  };
}
