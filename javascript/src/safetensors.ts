// SPDX-License-Identifier: Apache-2.0
/** safetensors: a length, a JSON header, and the bytes of the arrays. */

import type { Tensor } from "onnxruntime-common";
import {
  DTYPE_ORDER,
  bytesIn,
  dtypeOf,
  fromBytes,
  itemSize,
  product,
  safeName,
  shapeProblem,
} from "./arrays.js";
import { FileError } from "./errors.js";
import { MOST_JSON, parseJson } from "./json.js";
import { shown } from "./text.js";

type Arrays = ReadonlyMap<string, Tensor>;
type Texts = Readonly<Record<string, string>>;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The content of a safetensors file; the same arrays give the same bytes as in Python. */
export function writeArrays(arrays: Arrays, metadata: Texts): Uint8Array {
  const header = new Map<string, unknown>([["__metadata__", metadata]]);
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, tensor] of inOrder(arrays)) {
    const bytes = bytesIn(tensor);
    const start = end;
    end += bytes.length;
    parts.push(bytes);
    const { type, dims } = tensor;
    header.set(name, { dtype: safeName(type), shape: dims, data_offsets: [start, end] });
  }

  // Written entry by entry: an object would put names such as "0" first.
  const entries = [...header].map(([key, entry]) => `${JSON.stringify(key)}:${JSON.stringify(entry)}`);
  const text = new TextEncoder().encode(`{${entries.join()}}`);
  const length = Math.ceil(text.length / 8) * 8;
  const content = new Uint8Array(8 + length + end).fill(0x20, 8, 8 + length);
  new DataView(content.buffer).setBigUint64(0, BigInt(length), true);
  content.set(text, 8);
  let at = 8 + length;
  for (const part of parts) {
    content.set(part, at);
    at += part.length;
  }
  return content;
}

/** Larger elements first, then by the bytes of the names. */
function inOrder(arrays: Arrays): [string, Tensor][] {
  const rank = ([, { type }]: [string, Tensor]): number => DTYPE_ORDER.indexOf(type);
  return [...arrays].sort((a, b) => rank(a) - rank(b) || byCodePoint(a[0], b[0]));
}

function byCodePoint(a: string, b: string): number {
  const [left, right] = [[...a], [...b]];
  for (let i = 0; i < left.length && i < right.length; i++) {
    const difference =
      (left[i]?.codePointAt(0) as number) - (right[i]?.codePointAt(0) as number);
    if (difference) return difference;
  }
  return left.length - right.length;
}

/** The arrays and the metadata in the content of a safetensors file. */
export function readArrays(content: Uint8Array, source: string): [Map<string, Tensor>, Texts] {
  const [entries, metadata, body] = readHeader(content, source);
  const arrays = new Map<string, Tensor>();
  let end = 0;
  for (const { name, dtype, shape, offsets } of entries) {
    const known = dtypeOf(dtype, name, source);
    const [start, stop] = offsets;
    if (start !== end || stop < start) {
      throw notSafe(source, `Error while deserializing: invalid offset for tensor \`${name}\``);
    }
    if (stop - start !== product(shape) * itemSize(known)) {
      throw notSafe(
        source,
        "Error while deserializing: invalid shape, data type, or offset for tensor",
      );
    }
    if (stop <= body.length) arrays.set(name, fromBytes(known, shape, body.subarray(start, stop)));
    end = stop;
  }
  if (end !== body.length) {
    throw notSafe(
      source,
      "Error while deserializing: incomplete metadata, file not fully covered",
    );
  }
  return [arrays, metadata];
}

interface Entry {
  name: string;
  dtype: string;
  shape: number[];
  offsets: [number, number];
}

function readHeader(content: Uint8Array, source: string): [Entry[], Texts, Uint8Array] {
  let length = 0n;
  for (let i = 0; i < 8; i++) length |= BigInt(content[i] ?? 0) << BigInt(8 * i);
  if (length > MOST_JSON) {
    throw new FileError(
      `${source} is not a safetensors file: its header claims to have ${length} bytes.`,
    );
  }

  const end = 8 + Number(length);
  try {
    const document = parseJson(UTF8.decode(content.subarray(8, end)));
    return [...parseHeader(document), content.subarray(end)];
  } catch (error) {
    throw notSafe(source, `in its header, ${(error as Error).message}`);
  }
}

function parseHeader(document: unknown): [Entry[], Texts] {
  if (!isObject(document)) throw new Error("there is no object");

  const { __metadata__: metadata = {}, ...rest } = document;
  if (!isObject(metadata) || Object.values(metadata).some((text) => typeof text !== "string")) {
    throw new Error("the metadata are no texts");
  }
  const entries = Object.entries(rest).map(([name, entry]) => parseEntry(name, entry));
  entries.sort((a, b) => a.offsets[0] - b.offsets[0] || a.offsets[1] - b.offsets[1]);
  return [entries, metadata as Texts];
}

function parseEntry(name: string, entry: unknown): Entry {
  if (!isObject(entry)) throw new Error(`${shown(name)} is no object`);

  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Array.isArray(shape)) {
    throw new Error(`${shown(name)} has no dtype and shape`);
  }
  const problem = shapeProblem(shape);
  if (problem) throw new Error(`${shown(name)} has ${problem}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || shapeProblem(offsets)) {
    throw new Error(`${shown(name)} has no data_offsets`);
  }
  return { name, dtype, shape, offsets: offsets as [number, number] };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function notSafe(source: string, reason: string): FileError {
  return new FileError(`${source} is not a safetensors file: ${reason}.`);
}
