// SPDX-License-Identifier: Apache-2.0
/** ONNX Runtime, in Node and in the browser. */

import type { InferenceSession, Tensor } from "onnxruntime-common";

import { EngineError, EngineUnavailable, InputError, reasonOf, StateportError } from "./errors.ts";
import type { ArrayLike } from "./tensor.ts";
import { didYouMean, quoted, shown } from "./words.ts";

/** What stateport uses of the module `onnxruntime-node` or `onnxruntime-web`. */
export interface Runtime {
  readonly InferenceSession: Pick<typeof InferenceSession, "create">;
  readonly env: {
    readonly versions?: { readonly [name: string]: string | undefined };
    readonly wasm?: { numThreads?: number; wasmPaths?: unknown };
  };
}

/** An engine, and how it runs a file. */
export interface EngineOptions {
  /**
   * "node" for onnxruntime-node, "web" for onnxruntime-web (WebAssembly). By default "node" in Node
   * and "web" elsewhere; stateport never falls back to the other.
   */
  engine?: "node" | "web";
  /** The threads that one call may use; by default 1, which is the fastest for single steps. */
  threads?: number;
  /** The module of ONNX Runtime, where the page or the application has imported it already. */
  runtime?: Runtime;
  /** For "web": where the .wasm files are, as `env.wasm.wasmPaths` of onnxruntime-web. */
  wasmPaths?: string | { wasm?: string; mjs?: string };
  /**
   * Whether ONNX Runtime computes in a worker of its own, so that a long call does not stop the page
   * or the service. Disposing of the model ends the worker.
   */
  worker?: boolean;
  /** Further options of ONNX Runtime's sessions. */
  session?: InferenceSession.SessionOptions;
}

/** Arrays by name: tensors of any copy of ONNX Runtime's class. */
export type Feeds = Readonly<Record<string, ArrayLike>>;

/** A graph in ONNX Runtime. */
export interface Engine {
  readonly name: string;
  readonly version: string;
  run(feeds: Feeds, outputs: readonly string[]): Promise<Record<string, ArrayLike>>;
  dispose(): Promise<void>;
}

const OPTIONS = ["engine", "threads", "runtime", "wasmPaths", "worker", "session"];
const MOST_THREADS = 1024;
const TELEMETRY = "ORT_DISABLE_TELEMETRY";

/**
 * Loads a file into ONNX Runtime.
 *
 * @param file its path, for onnxruntime-node, or its content.
 * @param source what the file is, for messages.
 * @param hasHalf whether some weights are float16.
 * @throws EngineUnavailable ONNX Runtime is not installed.
 * @throws EngineError it refuses the file.
 */
export async function openEngine(
  file: string | Uint8Array,
  source: string,
  options: EngineOptions,
  hasHalf: boolean,
): Promise<Engine> {
  const { engine = "web", threads = 1 } = options;
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
    // On the CPU, some fusions of float16 crash (onnxruntime#26717, #32186).
    ...(hasHalf ? { graphOptimizationLevel: "basic" } : {}),
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
  readonly #session: InferenceSession;
  /** The calls that run, and what is told when the last of them has ended. */
  #running = 0;
  #idle: (() => void) | undefined;
  #last: Promise<unknown> | undefined;
  #ended: Promise<void> | undefined;

  constructor(runtime: Runtime, session: InferenceSession, name: string) {
    this.name = name;
    const { node, web, common } = runtime.env.versions ?? {};
    this.version = `onnxruntime ${(name === "ort-node" ? node : web) ?? common ?? ""}`.trim();
    this.#session = session;
    // onnxruntime-web refuses a call of a session that runs already.
    if (name === "ort-web") this.#last = Promise.resolve();
  }

  run(feeds: Feeds, outputs: readonly string[]): Promise<Record<string, ArrayLike>> {
    const call = this.#call(feeds, outputs, this.#last);
    if (this.#last) this.#last = call.catch(() => undefined);
    return call;
  }

  async #call(
    feeds: Feeds,
    outputs: readonly string[],
    before: Promise<unknown> | undefined,
  ): Promise<Record<string, ArrayLike>> {
    if (this.#ended) {
      throw new StateportError("The model has been disposed of; load it again to call it.");
    }
    this.#running++;
    try {
      if (before) await before;
      return (await this.#session.run(feeds as Record<string, Tensor>, outputs)) as never;
    } catch (error) {
      throw new EngineError(`ONNX Runtime failed: ${ortReason(error)}`, { cause: error });
    } finally {
      this.#running--;
      if (!this.#running) this.#idle?.();
    }
  }

  /** Frees the session, once the calls that run have ended. */
  dispose(): Promise<void> {
    this.#ended ??= this.#release();
    return this.#ended;
  }

  async #release(): Promise<void> {
    if (this.#running) {
      await new Promise<void>((idle) => {
        this.#idle = idle;
      });
    }
    await this.#session.release();
  }
}

/**
 * Refuses options that there are not, or that have no such value.
 *
 * @throws InputError an option is unknown, or the number of threads is none.
 * @throws EngineUnavailable the engine is unknown.
 */
export function checkOptions(options: EngineOptions): void {
  for (const option of Object.keys(options).sort()) {
    if (OPTIONS.includes(option)) continue;
    throw new InputError(
      `load has no option ${quoted(option)}; it takes ${OPTIONS.join(", ")}.` +
        didYouMean(option, OPTIONS),
    );
  }
  const { engine, threads = 1, worker = false } = options;
  if (typeof worker !== "boolean") {
    throw new InputError(`worker is ${shown(worker)}; true or false was expected.`);
  }
  if (engine !== "node" && engine !== "web") {
    throw new EngineUnavailable(`There is no engine ${shown(engine)}; known are 'node' and 'web'.`);
  }
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new InputError(
      `threads is ${shown(threads)}; a whole number from 1 to ${MOST_THREADS} was expected.`,
    );
  }
}

async function importRuntime(engine: "node" | "web"): Promise<Runtime> {
  try {
    const module: unknown =
      engine === "node" ? await importNode() : await import("onnxruntime-web/wasm");
    const { default: inner } = module as { default?: Runtime };
    return inner?.InferenceSession ? inner : (module as Runtime);
  } catch (error) {
    const name = `onnxruntime-${engine}`;
    throw new EngineUnavailable(
      `ort-${engine} needs ${name}, which cannot be imported (${reasonOf(error)}). Install it: ` +
        `npm install ${name}.`,
      { cause: error },
    );
  }
}

/** Imports onnxruntime-node, without its reports to its makers unless somebody asked for them. */
async function importNode(): Promise<unknown> {
  // Not a constant, so that builds for browsers do not look for the package.
  const name = ["onnxruntime", "node"].join("-");
  const { env } = process;
  const isDecided = TELEMETRY in env;
  if (!isDecided) env[TELEMETRY] = "1";
  try {
    return await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
  } finally {
    if (!isDecided) delete env[TELEMETRY];
  }
}

/** ONNX Runtime's message in one line, without its own error code in front. */
function ortReason(error: unknown): string {
  return reasonOf(error).replace(/^\[ONNXRuntimeError\] : /, "");
}
