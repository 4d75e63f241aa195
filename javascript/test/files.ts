// SPDX-License-Identifier: Apache-2.0
/** The files that Python made. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tensor } from "onnxruntime-common";
import { inject } from "vitest";
import { fromBytes, itemSize, product } from "../src/arrays.js";
import { readArrays } from "../src/safetensors.js";

export interface RecordedCase {
  readonly name: string;
  readonly through: string;
  /** For each call, the shape of each input. */
  readonly calls: readonly Record<string, number[]>[];
  readonly initial: readonly string[];
}

export interface Described {
  readonly file: string;
  readonly cases: readonly RecordedCase[];
  readonly handover?: object;
}

/** An array as the table of messages describes it. */
export interface Filled {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly value: number;
}

export function file(name: string): string {
  return join(inject("folder"), name);
}

export function bytes(name: string): Uint8Array {
  return new Uint8Array(readFileSync(file(name)));
}

export function json<T>(name: string): T {
  return JSON.parse(readFileSync(file(name), "utf8")) as T;
}

export function arrays(name: string): Map<string, Tensor> {
  return readArrays(bytes(name), name)[0];
}

export function filled({ dtype, shape, value }: Filled): Tensor {
  const empty = fromBytes(dtype, shape, new Uint8Array(product(shape) * itemSize(dtype)));
  (empty.data as Float32Array).fill((dtype.endsWith("int64") ? BigInt(value) : value) as number);
  return empty;
}

export function tensors(described: Readonly<Record<string, Filled>>): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(described).map(([name, entry]) => [name, filled(entry)]));
}

/** Numbers as doubles; float16 is decoded. */
export function numbers({ type, data }: Tensor): number[] {
  const values = Array.from(data as Iterable<number | bigint>, Number);
  return type === "float16" && data instanceof Uint16Array ? values.map(decodeHalf) : values;
}

function decodeHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
