// SPDX-License-Identifier: Apache-2.0
/** ONNX Runtime, in Node and in the browser. */

import type { InferenceSession, Tensor } from "onnxruntime-common";

import { EngineError, EngineUnavailable, InputError, reasonOf, StateportError } from "./errors.ts";
import type { ArrayLike } from "./tensor.ts";
import { quoted } from "./words.ts";

/** What stateport uses of the module `onnxruntime-node` or `onnxruntime-web`. */
export interface Runtime {
  readonly InferenceSession: Pick<typeof InferenceSession, "create">;
  readonly Tensor: new (type: never, data: never, dims: readonly number[]) => Tensor;
  readonly env: {
    readonly versions?: { readonly [name: string]: string | undefined };
    readonly wasm?: { numThreads?: number; wasmPaths?: unknown };
  };
}

/** An engine, and how it runs a file. */
export interface EngineOptions {
  /** "node" for onnxruntime-node, "web" for onnxruntime-web (WebAssembly). */
  engine: "node" | "web";
  /** The threads that one call may use; by default 1, which is the fastest for single steps. */
  threads?: number;
  /** The module of ONNX Runtime, where the page or the application has imported it already. */
  runtime?: Runtime;
  /** For "web": where the .wasm files are, as `env.wasm.wasmPaths` of onnxruntime-web. */
  wasmPaths?: string | { wasm?: string; mjs?: string };
  /** Further options of ONNX Runtime's sessions. */
  session?: InferenceSession.SessionOptions;
}

/** A graph in ONNX Runtime. */
export interface Engine {
  readonly name: string;
  readonly version: string;
  run(
    feeds: Readonly<Record<string, ArrayLike>>,
    outputs: readonly string[],
  ): Promise<Record<string, ArrayLike>>;
  dispose(): Promise<void>;
}

const PACKAGES = { node: "onnxruntime-node", web: "onnxruntime-web" };
const MOST_THREADS = 1024;

/**
 * Loads a file into ONNX Runtime.
 *
 * @param file its path, for onnxruntime-node, or its content.
 * @param source what the file is, for messages.
 * @throws EngineUnavailable ONNX Runtime is not installed.
 * @throws EngineError it refuses the file.
 */
export async function openEngine(
  file: string | Uint8Array,
  source: string,
  options: EngineOptions,
  defaults: InferenceSession.SessionOptions,
): Promise<Engine> {
  checkOptions(options);
  const { engine, threads = 1 } = options;
  const runtime = options.runtime ?? (await importRuntime(engine));
  if (engine === "web" && runtime.env.wasm) {
    runtime.env.wasm.numThreads = threads;
    if (options.wasmPaths !== undefined) runtime.env.wasm.wasmPaths = options.wasmPaths;
  }
  const settings: InferenceSession.SessionOptions = {
    executionProviders: [engine === "node" ? "cpu" : "wasm"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 4,
    ...defaults,
    ...options.session,
  };
  try {
    const session = await runtime.InferenceSession.create(file as Uint8Array, settings);
    return new OrtEngine(runtime, session, `ort-${engine}`);
  } catch (error) {
    throw new EngineError(`ONNX Runtime cannot load ${source}: ${ortReason(error)}`, {
      cause: error,
    });
  }
}

class OrtEngine implements Engine {
  readonly name: string;
  readonly version: string;
  readonly #runtime: Runtime;
  readonly #session: InferenceSession;
  readonly #running = new Set<Promise<unknown>>();
  #ended: Promise<void> | undefined;

  constructor(runtime: Runtime, session: InferenceSession, name: string) {
    this.name = name;
    const { node, web, common } = runtime.env.versions ?? {};
    this.version = `onnxruntime ${(name === "ort-node" ? node : web) ?? common ?? ""}`.trim();
    this.#runtime = runtime;
    this.#session = session;
  }

  async run(
    feeds: Readonly<Record<string, ArrayLike>>,
    outputs: readonly string[],
  ): Promise<Record<string, ArrayLike>> {
    if (this.#ended) {
      throw new StateportError("The model has been disposed of; load it again to call it.");
    }
    const call = this.#call(feeds, outputs);
    this.#running.add(call);
    try {
      return await call;
    } finally {
      this.#running.delete(call);
    }
  }

  async #call(
    feeds: Readonly<Record<string, ArrayLike>>,
    outputs: readonly string[],
  ): Promise<Record<string, ArrayLike>> {
    const { Tensor } = this.#runtime;
    const own: Array<[string, Tensor]> = [];
    for (const [name, array] of Object.entries(feeds)) {
      const isOwn = array instanceof Tensor;
      const { type, data, dims } = array;
      own.push([name, isOwn ? array : new Tensor(type as never, data as never, dims)]);
    }
    try {
      const results = await this.#session.run(Object.fromEntries(own), outputs);
      return results as Record<string, ArrayLike>;
    } catch (error) {
      throw new EngineError(`ONNX Runtime failed: ${ortReason(error)}`, { cause: error });
    }
  }

  /** Frees the session, once the calls that run have ended. */
  dispose(): Promise<void> {
    this.#ended ??= Promise.allSettled(this.#running).then(() => this.#session.release());
    return this.#ended;
  }
}

function checkOptions(options: EngineOptions): void {
  const { engine, threads } = options;
  if (!Object.hasOwn(PACKAGES, engine)) {
    throw new EngineUnavailable(
      `There is no engine ${quoted(String(engine))}; known are 'node' and 'web'.`,
    );
  }
  const isCount = Number.isInteger(threads) && threads! >= 1 && threads! <= MOST_THREADS;
  if (threads !== undefined && !isCount) {
    throw new InputError(
      `threads is ${threads}; a whole number from 1 to ${MOST_THREADS} was expected.`,
    );
  }
}

async function importRuntime(engine: "node" | "web"): Promise<Runtime> {
  const name = PACKAGES[engine];
  try {
    // A variable, so that builds for browsers do not look for the package.
    const module: unknown =
      engine === "node"
        ? await import(/* @vite-ignore */ /* webpackIgnore: true */ name)
        : await import("onnxruntime-web/wasm");
    const { default: inner } = module as { default?: Runtime };
    return inner?.InferenceSession ? inner : (module as Runtime);
  } catch (error) {
    throw new EngineUnavailable(
      `ort-${engine} needs ${name}, which cannot be imported (${reasonOf(error)}). Install it: ` +
        `npm install ${name}.`,
      { cause: error },
    );
  }
}

/** ONNX Runtime's message in one line, without its own error code in front. */
function ortReason(error: unknown): string {
  return reasonOf(error).replace(/^\[ONNXRuntimeError\] : /, "");
}
