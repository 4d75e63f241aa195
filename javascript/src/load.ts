// SPDX-License-Identifier: Apache-2.0
/** Loading a model file. */

import type { InferenceSession } from "onnxruntime-common";

import { contractOf } from "./contract.ts";
import { type EngineOptions, openEngine } from "./engines.ts";
import { FileError, InputError, reasonOf } from "./errors.ts";
import { Model } from "./model.ts";
import { type Outline, readOutline } from "./outline.ts";
import { kindOf } from "./tensor.ts";
import { shown } from "./words.ts";

/** What `load` reads: the content of a file, its URL or, in Node, its path. */
export type Source = Uint8Array | ArrayBuffer | URL | string;

/** A file that was read: its content, and where it is. */
interface Found {
  data: Uint8Array;
  source: string;
  path?: string;
}

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
export async function load(source: Source, options: EngineOptions): Promise<Model> {
  const found = await readSource(source);
  const outline = readOutline(found.data, found.source);
  const contract = contractOf(outline);
  const defaults: InferenceSession.SessionOptions = {
    // Some fusions of float16 operators crash, or leave operators without a kernel on the CPU.
    ...(outline.hasHalf ? { graphOptimizationLevel: "basic" as const } : {}),
  };
  const isPath = found.path !== undefined && options.engine === "node";
  checkExternal(outline, isPath, options);
  const file = isPath ? found.path! : found.data;
  return new Model(
    contract,
    await openEngine(file, found.source, options, defaults),
    outline.initial,
  );
}

async function readSource(source: Source): Promise<Found> {
  if (source instanceof ArrayBuffer) return readSource(new Uint8Array(source));
  if (source instanceof Uint8Array) return { data: source, source: "The model" };
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new InputError(
      `The model is ${kindOf(source)}; the bytes of an ONNX file, its URL or its path were ` +
        "expected.",
    );
  }
  const address = String(source);
  const isFile = address.startsWith("file:") || !/^[a-z][a-z\d+.-]+:/i.test(address);
  if (isFile && typeof process === "object" && process.versions?.node) return readFile(source);
  return { data: await fetched(address), source: address };
}

async function readFile(source: URL | string): Promise<Found> {
  const { fileURLToPath } = process.getBuiltinModule("node:url");
  const isUrl = source instanceof URL || source.startsWith("file:");
  const path = isUrl ? fileURLToPath(source) : source;
  try {
    const data = await process.getBuiltinModule("node:fs/promises").readFile(path);
    return { data, source: path, path };
  } catch (error) {
    const isAbsent = (error as { code?: string }).code === "ENOENT";
    const reason = isAbsent ? "No such file or directory" : reasonOf(error);
    throw new FileError(`${path} could not be read: ${reason}.`);
  }
}

async function fetched(address: string): Promise<Uint8Array> {
  let reason: string;
  try {
    const response = await fetch(address);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    reason = `the server answers ${response.status} ${response.statusText}`.trim();
  } catch (error) {
    reason = reasonOf(error);
  }
  throw new FileError(`${address} could not be read: ${reason}.`);
}

/** Refuses weights in other files, where ONNX Runtime does not find them by itself. */
function checkExternal({ source, external }: Outline, isPath: boolean, options: EngineOptions): void {
  const [name] = external;
  if (name === undefined || isPath || options.session?.externalData) return;
  throw new FileError(
    `${source} keeps weights in ${shown(name)}, which is not part of it. Pass that file too: ` +
      "session: {externalData: [{path, data}]}.",
  );
}
