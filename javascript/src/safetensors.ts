// SPDX-License-Identifier: Apache-2.0
/** The format of saved states: a length, a JSON header, and the bytes of the arrays. */

import type { Tensor } from "onnxruntime-common";

import { FileError, reasonOf } from "./errors.ts";
import { isObject, MOST_JSON, parseJson } from "./json.ts";
import {
  type ArrayLike,
  BY_SAFETENSORS,
  bytesOf,
  DTYPE_NAMES,
  elements,
  fromBytes,
  itemSize,
  safetensorsName,
  shapeProblem,
} from "./tensor.ts";
import { byCodePoint, shown } from "./words.ts";

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The content of a safetensors file; byte by byte what the safetensors library writes. */
export function write(
  arrays: ReadonlyMap<string, ArrayLike>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  // The library puts large dtypes first, so that all arrays are aligned.
  const rank = ({ type }: ArrayLike) => DTYPE_NAMES.indexOf(type);
  const ordered = [...arrays].sort(
    ([a, left], [b, right]) => rank(right) - rank(left) || byCodePoint(a, b),
  );

  // Not one object: it would put names that look like numbers first.
  const entries = [`"__metadata__":${JSON.stringify(metadata)}`];
  let end = 0;
  for (const [name, { type, dims, data }] of ordered) {
    const start = end;
    end += (data as ArrayBufferView).byteLength;
    const entry = { dtype: safetensorsName(type), shape: dims, data_offsets: [start, end] };
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
  }

  const header = new TextEncoder().encode(`{${entries.join(",")}}`);
  const length = Math.ceil(header.length / 8) * 8;
  const content = new Uint8Array(8 + length + end).fill(0x20, 8, 8 + length);
  new DataView(content.buffer).setBigUint64(0, BigInt(length), true);
  content.set(header, 8);
  let at = 8 + length;
  for (const [, array] of ordered) {
    content.set(bytesOf(array), at);
    at += (array.data as ArrayBufferView).byteLength;
  }
  return content;
}

/** One array in the header. */
interface Entry {
  name: string;
  dtype: string;
  shape: number[];
  start: number;
  end: number;
}

/**
 * The arrays and the metadata in the content of a safetensors file.
 *
 * @param source what the content is, as the subject of a message.
 * @throws FileError it is no safetensors file, or is cut off.
 */
export function read(
  content: Uint8Array,
  source: string,
): { arrays: Map<string, Tensor>; metadata: Record<string, unknown> } {
  const [header, body] = split(content, source);
  try {
    const { __metadata__: metadata = {}, ...others } = header;
    if (!isObject(metadata) || Object.values(metadata).some((text) => typeof text !== "string")) {
      throw new Error("the metadata are no texts");
    }
    const entries = Object.entries(others).map(([name, entry]) => readEntry(name, entry));
    entries.sort((a, b) => a.start - b.start || a.end - b.end);
    return { arrays: readArrays(entries, body, source), metadata };
  } catch (error) {
    if (error instanceof FileError) throw error;
    throw refusal(source, `in its header, ${reasonOf(error)}`);
  }
}

/** The header, and the bytes behind it. */
function split(content: Uint8Array, source: string): [Record<string, unknown>, Uint8Array] {
  let length = 0n;
  for (let at = 0; at < 8; at++) length |= BigInt(content[at] ?? 0) << BigInt(8 * at);
  if (length > MOST_JSON) {
    throw new FileError(
      `${source} is not a safetensors file: its header claims to have ${length} bytes.`,
    );
  }
  const end = 8 + Number(length);
  try {
    const document = parseJson(UTF8.decode(content.subarray(8, end)));
    if (!isObject(document)) throw new Error("there is no object");
    return [document, content.subarray(end)];
  } catch (error) {
    throw refusal(source, `in its header, ${reasonOf(error)}`);
  }
}

function readEntry(name: string, entry: unknown): Entry {
  if (!isObject(entry)) throw new Error(`${shown(name)} is no object`);
  const { dtype, shape, data_offsets: span } = entry;
  if (typeof dtype !== "string" || !Array.isArray(shape)) {
    throw new Error(`${shown(name)} has no dtype and shape`);
  }
  const problem = shapeProblem(shape);
  if (problem) throw new Error(`${shown(name)} has ${problem}`);
  if (!Array.isArray(span) || span.length !== 2 || shapeProblem(span)) {
    throw new Error(`${shown(name)} has no data_offsets`);
  }
  return { name, dtype, shape, start: span[0], end: span[1] };
}

/** The arrays, which lie one behind the other; the words are those of the safetensors library. */
function readArrays(entries: Entry[], body: Uint8Array, source: string): Map<string, Tensor> {
  const arrays = new Map<string, Tensor>();
  let at = 0;
  for (const { name, dtype, shape, start, end } of entries) {
    const known = BY_SAFETENSORS.get(dtype);
    if (!known) {
      throw new FileError(
        `${source} holds ${shown(name)} as ${shown(dtype)}, which NumPy has no numbers for; BOOL, ` +
          "U8, I8, U16, I16, U32, I32, U64, I64, F16, F32, F64 are read.",
      );
    }
    if (start !== at || end < start) throw broken(source, `invalid offset for tensor \`${name}\``);
    if (end - start !== elements(shape) * itemSize(known)) {
      throw broken(source, "invalid shape, data type, or offset for tensor");
    }
    if (end <= body.length) arrays.set(name, fromBytes(known, body.subarray(start, end), shape));
    at = end;
  }
  if (at !== body.length) throw broken(source, "incomplete metadata, file not fully covered");
  return arrays;
}

function broken(source: string, reason: string): FileError {
  return refusal(source, `Error while deserializing: ${reason}`);
}

function refusal(source: string, reason: string): FileError {
  return new FileError(`${source} is not a safetensors file: ${reason}.`);
}
