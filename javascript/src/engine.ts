// SPDX-License-Identifier: Apache-2.0
/** ONNX Runtime in Node and in the browser, imported only when a model is loaded. */

import type { InferenceSession, Tensor } from "onnxruntime-common";
import { describe, sameShape } from "./arrays.js";
import { EngineError, EngineUnavailable, InputError, reasonOf } from "./errors.js";
import { quoted, shown } from "./text.js";

type Ort = typeof import("onnxruntime-common");
type Arrays = ReadonlyMap<string, Tensor>;

/** "web" is onnxruntime-web on WebAssembly, "node" is onnxruntime-node on the CPU. */
export type EngineName = "web" | "node";

export interface EngineOptions {
  /** How many threads one call may use; 1 is the fastest for all but very large networks. */
  readonly threads?: number;
  /** Where onnxruntime-web finds its .wasm files: a folder's URL, or each file's. */
  readonly wasmPaths?: string | { mjs?: string; wasm?: string };
  /** Further options of ONNX Runtime's session. */
  readonly session?: InferenceSession.SessionOptions;
}

/** The file: its bytes, or its path where weights stand beside it. */
export interface Source {
  readonly name: string;
  readonly model: Uint8Array | string;
  /** Whether the file has float16 weights. */
  readonly half: boolean;
}

const MOST_THREADS = 1024;
const TELEMETRY = "ORT_DISABLE_TELEMETRY";

export const isNode: boolean =
  typeof process !== "undefined" && typeof process.versions?.node === "string";

/** One graph in ONNX Runtime. */
export class Engine {
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    readonly name: string,
    readonly version: string,
    private readonly session: InferenceSession,
    private readonly inTurns: boolean,
  ) {}

  /** Runs the graph once on all of its inputs, and returns the outputs with these names. */
  async run(inputs: Arrays, outputs: readonly string[]): Promise<Map<string, Tensor>> {
    // onnxruntime-web refuses a call of a session that is running already.
    if (!this.inTurns) return this.runOnce(inputs, outputs);
    const call = this.last.then(() => this.runOnce(inputs, outputs));
    this.last = call.catch(() => undefined);
    return call;
  }

  private async runOnce(inputs: Arrays, outputs: readonly string[]): Promise<Map<string, Tensor>> {
    const feeds: Record<string, Tensor> = Object.create(null);
    for (const [name, tensor] of inputs) feeds[name] = tensor;

    let results: InferenceSession.OnnxValueMapType;
    try {
      results = await this.session.run(feeds, outputs);
    } catch (error) {
      throw new EngineError(`ONNX Runtime failed: ${reasonOf(error)}`, { cause: error });
    }

    const named = new Map<string, Tensor>();
    for (const name of outputs) {
      const result = Object.hasOwn(results, name) ? (results[name] as Tensor) : undefined;
      if (result === undefined) {
        throw new EngineError(
          `${this.name} gave ${Object.keys(results).length} outputs; ${outputs.length} were asked ` +
            `for: ${outputs.join(", ")}.`,
        );
      }
      named.set(name, result);
    }
    return named;
  }

  /** Frees the graph. */
  async release(): Promise<void> {
    await this.last;
    await this.session.release();
  }
}

/** Refuses a result of another dtype or shape than was promised. */
export function checkSame(engine: Engine, name: string, actual: Tensor, promised: Tensor): void {
  if (sameShape(actual, promised)) return;
  const [came, expected] = [actual, promised].map(({ type, dims }) => describe(type, dims));
  throw new EngineError(
    `${engine.name} gave ${came} for ${quoted(name)}, where ${expected} was promised.`,
  );
}

/** Loads a file into an engine. */
export async function openEngine(
  engine: EngineName,
  source: Source,
  options: EngineOptions,
): Promise<Engine> {
  if (engine !== "web" && engine !== "node") {
    throw new EngineUnavailable(`There is no engine ${shown(engine)}; web and node are known.`);
  }
  const { threads = 1, wasmPaths, session = {} } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new InputError(
      `threads is ${shown(threads)}; a whole number from 1 to ${MOST_THREADS} was expected.`,
    );
  }

  const ort = engine === "web" ? await importWeb() : await importNode(engine);
  if (engine === "web") {
    ort.env.wasm.numThreads = threads;
    if (wasmPaths !== undefined) ort.env.wasm.wasmPaths = wasmPaths;
  }
  const settings: InferenceSession.SessionOptions = {
    executionProviders: [engine === "web" ? "wasm" : "cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 4,
    // On the CPU, some fusions of float16 crash (onnxruntime#26717, #32186).
    ...(source.half ? { graphOptimizationLevel: "basic" } : {}),
    ...session,
  };

  try {
    const loaded = await ort.InferenceSession.create(source.model as never, settings);
    const { versions } = ort.env;
    const version = `onnxruntime-${engine} ${versions[engine] ?? versions.common}`;
    return new Engine(`ort-${engine}`, version, loaded, engine === "web");
  } catch (error) {
    throw new EngineError(`ONNX Runtime cannot load ${source.name}: ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

async function importWeb(): Promise<Ort> {
  try {
    return usable(await import("onnxruntime-web/wasm"));
  } catch (error) {
    throw notInstalled("web", error);
  }
}

async function importNode(engine: EngineName): Promise<Ort> {
  if (!isNode) {
    throw new EngineUnavailable("ort-node needs Node. In a browser, say engine: 'web'.");
  }

  // Not a constant, which a minifier would write into the import: bundlers for the browser must not
  // look for the package.
  const name = `onnxruntime-${engine}`;
  const { env } = process;
  const decided = TELEMETRY in env;
  if (!decided) env[TELEMETRY] = "1";
  try {
    return usable(await import(/* @vite-ignore */ /* webpackIgnore: true */ name));
  } catch (error) {
    throw notInstalled("node", error);
  } finally {
    if (!decided) delete env[TELEMETRY];
  }
}

/** The module's own names; where it is CommonJS, Node may keep them under `default`. */
function usable(module: unknown): Ort {
  const { default: inner, ...names } = module as { default?: Ort } & Partial<Ort>;
  return (names.InferenceSession ? names : inner) as Ort;
}

function notInstalled(engine: EngineName, error: unknown): EngineError {
  const library = `onnxruntime-${engine}`;
  const code = (error as { code?: string } | null)?.code ?? "";
  if (engine === "web" || code.endsWith("MODULE_NOT_FOUND")) {
    return new EngineUnavailable(
      `ort-${engine} needs ${library}, which is not installed. Install it: npm install ${library}.`,
      { cause: error },
    );
  }
  return new EngineError(
    `ort-${engine}: ${library} is installed and cannot be imported: ${reasonOf(error)}.`,
    { cause: error },
  );
}
