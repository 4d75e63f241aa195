// SPDX-License-Identifier: Apache-2.0
/** Loading a model file. */

import { contractOf } from "./contract.ts";
import { checkOptions, type EngineOptions, openEngine } from "./engines.ts";
import { FileError, reasonOf } from "./errors.ts";
import { Model } from "./model.ts";
import { type Outline, readOutline } from "./outline.ts";
import { kindOf, shown } from "./words.ts";

/** What `load` reads: the content of a file, its URL or, in Node, its path. */
export type Source = Uint8Array | ArrayBuffer | URL | string;

/** A file that was read: its content, and where it is. */
interface Found {
  data: Uint8Array;
  source: string;
  /** Its path, if it came from a disk. */
  path?: string;
}

const isNode = typeof process === "object" && typeof process.versions?.node === "string";

/**
 * Loads a model file, as `stateport export` writes it, into an engine.
 *
 * @param source the content of the file, its URL or, in Node, its path.
 * @param options the engine and its options.
 * @throws FileError the file cannot be read, is truncated or not ONNX.
 * @throws ContractError the file has no contract, or one that contradicts its graph.
 * @throws EngineUnavailable ONNX Runtime is not installed.
 * @throws EngineError ONNX Runtime refuses the file.
 */
export async function load(source: Source, options: EngineOptions = {}): Promise<Model> {
  const engine = options.engine ?? (isNode ? "node" : "web");
  const chosen = { ...options, engine };
  checkOptions(chosen);
  const found = await readSource(source);
  const outline = await readOutline(found.data, found.source);
  const contract = contractOf(outline);
  // The path alone tells ONNX Runtime where the files beside it are.
  const file = (await weightsBeside(outline, found, chosen)) ? found.path! : found.data;
  const open = options.worker ? (await import("./in_worker.ts")).openInWorker : openEngine;
  const opened = await open(file, found.source, chosen, outline.hasHalf);
  return new Model(contract, opened, outline.initial);
}

async function readSource(source: Source): Promise<Found> {
  if (source instanceof ArrayBuffer) return readSource(new Uint8Array(source));
  if (source instanceof Uint8Array) return { data: source, source: "The content" };
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new FileError(
      `The model is ${kindOf(source)}; its bytes, its URL or its path was expected.`,
    );
  }
  const address = String(source);
  const isFile = /^file:/i.test(address) || !/^[a-z][a-z\d+.-]+:/i.test(address);
  if (isFile && isNode) return (await import("./disk.ts")).readFile(source);
  return { data: await fetched(address), source: address };
}

async function fetched(address: string): Promise<Uint8Array> {
  try {
    const response = await fetch(address);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    throw new Error(`the server answered ${response.status} ${response.statusText}`.trim());
  } catch (error) {
    throw new FileError(`${address} could not be read: ${reasonOf(error)}.`, { cause: error });
  }
}

/** Whether weights are in files beside the model, which are checked. */
async function weightsBeside(
  { source, external }: Outline,
  { path }: Found,
  options: EngineOptions,
): Promise<boolean> {
  const [name] = external.keys();
  if (name === undefined || options.session?.externalData) return false;
  if (path === undefined || options.engine !== "node") {
    throw new FileError(
      `${source} keeps weights in ${shown(name)}, which is not part of it. Pass that file too: ` +
        "session: {externalData: [{path, data}]}.",
    );
  }
  await (await import("./disk.ts")).checkBeside(path, external);
  return true;
}
