// SPDX-License-Identifier: Apache-2.0
/** Loads a model file into an engine. */

import { readContract } from "./contract.js";
import { type EngineName, type EngineOptions, isNode, openEngine } from "./engine.js";
import { FileError, InputError, reasonOf } from "./errors.js";
import { Model } from "./model.js";
import { type Outline, readOutline } from "./outline.js";
import { didYouMean, kindOf, quoted, shown } from "./text.js";

export interface LoadOptions extends EngineOptions {
  /** By default "node" in Node, and "web" elsewhere. stateport never falls back to the other. */
  readonly engine?: EngineName;
}

interface File {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Its path, if it came from a disk. */
  readonly path?: string;
}

type Fs = typeof import("node:fs/promises");
type Path = typeof import("node:path");

const OPTIONS = ["engine", "threads", "wasmPaths", "session"];

/**
 * Loads a model file that `stateport export`, `lift` or `contract` wrote.
 *
 * @param file - its bytes, its URL, or in Node its path.
 * @param options - the engine and its options.
 * @throws FileError, ContractError, EngineUnavailable, EngineError, InputError
 */
export async function load(
  file: Uint8Array | ArrayBuffer | string | URL,
  options: LoadOptions = {},
): Promise<Model> {
  for (const option of Object.keys(options).sort()) {
    if (OPTIONS.includes(option)) continue;
    throw new InputError(
      `load has no option ${quoted(option)}; it takes ${OPTIONS.join(", ")}.` +
        didYouMean(option, OPTIONS),
    );
  }

  const { engine = isNode ? "node" : "web", ...others } = options;
  const content = await readFile(file);
  const outline = readOutline(content.bytes, content.name);
  const contract = readContract(outline, content.name);
  const hasExternal = await checkExternal(content, outline, engine);
  const model = hasExternal ? (content.path as string) : content.bytes;
  const source = { name: content.name, model, half: outline.half };
  return new Model(contract, await openEngine(engine, source, others), outline.initial);
}

async function readFile(file: unknown): Promise<File> {
  if (file instanceof Uint8Array) return { name: "The content", bytes: file };
  if (file instanceof ArrayBuffer) return { name: "The content", bytes: new Uint8Array(file) };
  if (typeof file !== "string" && !(file instanceof URL)) {
    throw new FileError(
      `The model is ${kindOf(file)}; its bytes, its URL or its path was expected.`,
    );
  }

  const name = String(file);
  const isUrl = /^[a-z][a-z\d+.-]+:/i.test(name) && !/^file:/i.test(name);
  return isNode && !isUrl ? readPath(file) : readUrl(name);
}

async function readUrl(name: string): Promise<File> {
  try {
    const response = await fetch(name);
    if (response.ok) return { name, bytes: new Uint8Array(await response.arrayBuffer()) };
    throw new Error(`the server answered ${response.status} ${response.statusText}`.trim());
  } catch (error) {
    throw new FileError(`${name} could not be read: ${reasonOf(error)}.`, { cause: error });
  }
}

async function readPath(file: string | URL): Promise<File> {
  const fs = builtin<Fs>("node:fs/promises");
  const isUrl = file instanceof URL || /^file:/i.test(file);
  const name = isUrl ? builtin<typeof import("node:url")>("node:url").fileURLToPath(file) : file;
  let kind: string;
  try {
    const info = await fs.stat(name);
    if (info.isFile()) return { name, bytes: await fs.readFile(name), path: name };
    kind = info.isDirectory() ? "a folder" : "a pipe or a device";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reason = code === "ENOENT" ? "No such file or directory" : reasonOf(error);
    throw new FileError(`${name} could not be read: ${reason}.`, { cause: error });
  }
  throw new FileError(`${name} is ${kind}; an ONNX file was expected.`);
}

/** Checks the files beside this one that hold weights, and returns whether there are any. */
async function checkExternal(
  { name, path }: File,
  { external }: Outline,
  engine: EngineName,
): Promise<boolean> {
  for (const [beside, end] of external) {
    if (path === undefined || engine !== "node") {
      throw new FileError(
        `${name} keeps weights in ${shown(beside)}, which is read only in Node, from a path. Load ` +
          "the file by its path with engine: 'node', or export it into one file.",
      );
    }
    const size = await sizeBeside(path, beside, name);
    if (size < end) {
      throw new FileError(
        `${name} keeps weights in ${shown(beside)}, which has ${size} bytes where ${end} are ` +
          "needed. It may be cut off; copy the files together.",
      );
    }
  }
  return external.size > 0;
}

/** The size of a file in the folder of the model's real file, or below. */
async function sizeBeside(model: string, beside: string, name: string): Promise<number> {
  const fs = builtin<Fs>("node:fs/promises");
  const path = builtin<Path>("node:path");
  const folder = path.dirname(await fs.realpath(model));
  const wanted = path.resolve(folder, beside);
  const inside = (file: string): boolean => file.startsWith(folder + path.sep);
  const advice =
    "Its external data must stand beside it: copy the files together, or export it again.";

  let problem = "lies outside its own folder";
  if (inside(wanted) && !path.isAbsolute(beside)) {
    const target = await fs.realpath(wanted).catch(() => undefined);
    const info = target && inside(target) ? await fs.stat(target) : undefined;
    if (info?.isFile()) return info.size;
    if (!target || info) problem = "is not there";
  }
  throw new FileError(`${name} keeps weights in ${shown(beside)}, which ${problem}. ${advice}`);
}

/** A module of Node's own, without an import that bundlers for the browser would look for. */
function builtin<T>(name: string): T {
  return process.getBuiltinModule(name) as T;
}
