// SPDX-License-Identifier: Apache-2.0
/** The format of saved states: a length, a JSON header, and the bytes of the arrays. */

import type { Tensor } from "onnxruntime-common";

import { FileError, reasonOf } from "./errors.ts";
import {
  type ArrayLike,
  BY_SAFETENSORS,
  bytesOf,
  DTYPE_NAMES,
  elements,
  fromBytes,
  itemSize,
  safetensorsName,
} from "./tensor.ts";
import { byCodePoint, shown } from "./words.ts";

const MOST_JSON = 16 << 20;

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
  const { __metadata__: metadata = {}, ...entries } = header(content, source);
  const start = 8 + Number(view(content).getBigUint64(0, true));
  const parts = Object.entries(entries).map(([name, entry]) => readEntry(name, entry, source));
  parts.sort((a, b) => a.start - b.start || a.end - b.end);

  const arrays = new Map<string, Tensor>();
  let at = 0;
  for (const { name, dtype, shape, start: first, end } of parts) {
    const size = elements(shape) * itemSize(dtype);
    if (first !== at || end - at !== size) throw refusal(source, `${shown(name)} is not in its place`);
    at = end;
    const bytes = content.subarray(start + first, start + end);
    if (bytes.length !== size) throw refusal(source, "it is cut off");
    arrays.set(name, fromBytes(dtype, bytes, shape));
  }
  if (start + at !== content.length) throw refusal(source, "it has more bytes than its arrays");
  return { arrays, metadata: metadata as Record<string, unknown> };
}

function header(content: Uint8Array, source: string): Record<string, unknown> {
  const length = content.length < 8 ? 0n : view(content).getBigUint64(0, true);
  if (length > MOST_JSON) {
    throw new FileError(
      `${source} is not a safetensors file: its header claims to have ${length} bytes.`,
    );
  }
  try {
    const bytes = content.subarray(8, 8 + Number(length));
    const document: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof document !== "object" || document === null || Array.isArray(document)) {
      throw new Error("there is no object");
    }
    return document as Record<string, unknown>;
  } catch (error) {
    throw refusal(source, `in its header, ${reasonOf(error)}`);
  }
}

function readEntry(
  name: string,
  entry: unknown,
  source: string,
): { name: string; dtype: string; shape: number[]; start: number; end: number } {
  const { dtype, shape, data_offsets: span } = (entry ?? {}) as Record<string, unknown>;
  const known = BY_SAFETENSORS.get(dtype as string);
  if (!known || !isSizes(shape) || !isSizes(span) || span.length !== 2) {
    throw refusal(source, `in its header, ${shown(name)} has no dtype and shape that are read`);
  }
  return { name, dtype: known, shape, start: span[0]!, end: span[1]! };
}

function isSizes(value: unknown): value is number[] {
  const isSize = (size: unknown) => Number.isSafeInteger(size) && (size as number) >= 0;
  return Array.isArray(value) && value.every(isSize);
}

function refusal(source: string, reason: string): FileError {
  return new FileError(`${source} is not a safetensors file: ${reason}.`);
}

function view(content: Uint8Array): DataView {
  return new DataView(content.buffer, content.byteOffset, content.byteLength);
}
