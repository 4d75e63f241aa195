// SPDX-License-Identifier: Apache-2.0
/** Arrays: ONNX Runtime's tensors, and what any object has to have to be taken for one. */

import { Tensor } from "onnxruntime-common";

import { describe, kindOf, shown } from "./words.ts";

/** An array: a `Tensor` of ONNX Runtime, or any object with the same three properties. */
export interface ArrayLike {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: unknown;
}

/** The memory of an array. */
export type Values =
  | Float32Array
  | Float64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array;

type ValuesOf = {
  new (size: number): Values;
  new (values: never): Values;
  new (buffer: ArrayBuffer): Values;
  readonly BYTES_PER_ELEMENT: number;
};

/** The most dimensions of an array. */
export const MOST_DIMENSIONS = 32;
const MOST_ELEMENTS = 2 ** 58;

/** By dtype, the class of its memory and safetensors' name. The order is safetensors' own. */
const DTYPES: ReadonlyMap<string, readonly [ValuesOf, string]> = new Map(
  Object.entries({
    bool: [Uint8Array, "BOOL"],
    uint8: [Uint8Array, "U8"],
    int8: [Int8Array, "I8"],
    int16: [Int16Array, "I16"],
    uint16: [Uint16Array, "U16"],
    float16: [Uint16Array, "F16"],
    int32: [Int32Array, "I32"],
    uint32: [Uint32Array, "U32"],
    float32: [Float32Array, "F32"],
    float64: [Float64Array, "F64"],
    int64: [BigInt64Array, "I64"],
    uint64: [BigUint64Array, "U64"],
  } as unknown as Record<string, readonly [ValuesOf, string]>),
);

/** The names of the dtypes that arrays may have, smallest first, as safetensors orders them. */
export const DTYPE_NAMES: readonly string[] = [...DTYPES.keys()];

/** By safetensors' name of a dtype, its name. */
export const BY_SAFETENSORS: ReadonlyMap<string, string> = new Map(
  DTYPE_NAMES.map((name) => [safetensorsName(name), name]),
);

/** safetensors' name of a dtype. */
export function safetensorsName(dtype: string): string {
  return DTYPES.get(dtype)![1];
}

/** The bytes of one number. */
export function itemSize(dtype: string): number {
  return DTYPES.get(dtype)![0].BYTES_PER_ELEMENT;
}

/** Whether arrays may have this dtype. */
export function isDtype(dtype: string): boolean {
  return DTYPES.has(dtype);
}

/** The number of elements of a shape. */
export function elements(shape: Iterable<number>): number {
  let product = 1;
  for (const size of shape) product *= size;
  return product;
}

/** An array of zeros. */
export function zeros(dtype: string, shape: readonly number[]): Tensor {
  return tensor(dtype, new (DTYPES.get(dtype)![0])(elements(shape)), shape);
}

/** An array from its bytes, which are copied. */
export function fromBytes(dtype: string, bytes: Uint8Array, shape: readonly number[]): Tensor {
  const copy = new Uint8Array(bytes).buffer;
  return tensor(dtype, new (DTYPES.get(dtype)![0])(copy), shape);
}

/** A copy of an array, whose memory nothing else refers to. */
export function copied(array: ArrayLike): Tensor {
  const { type, data, dims } = array;
  const Class = DTYPES.get(type)![0];
  if (data instanceof Class) return tensor(type, new Class(data as never), dims);
  return fromBytes(type, bytesOf(array), dims);
}

/** The same memory as a `Tensor` of the class that this package exports: engines bring their own. */
export function own(array: ArrayLike): Tensor {
  return array instanceof Tensor ? array : tensor(array.type, array.data as Values, array.dims);
}

/** The memory of an array as bytes, without a copy. */
export function bytesOf(array: ArrayLike): Uint8Array {
  const { buffer, byteOffset, byteLength } = array.data as ArrayBufferView;
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

/** An array repeated along the axes where it has the size 1 and the shape has another. */
export function repeated(array: ArrayLike, shape: readonly number[]): Tensor {
  let bytes = bytesOf(array);
  let block = itemSize(array.type);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis]!;
    if (array.dims[axis] !== size) bytes = repeatedBlocks(bytes, block, size);
    block *= size;
  }
  return fromBytes(array.type, bytes, shape);
}

function repeatedBlocks(bytes: Uint8Array, block: number, times: number): Uint8Array {
  const result = new Uint8Array(bytes.length * times);
  for (let from = 0, to = 0; from < bytes.length; from += block) {
    for (let time = 0; time < times; time++, to += block) {
      result.set(bytes.subarray(from, from + block), to);
    }
  }
  return result;
}

/** Whether two arrays have the same dtype and shape. */
export function isAlike(a: ArrayLike, b: ArrayLike): boolean {
  if (a.type !== b.type || a.dims.length !== b.dims.length) return false;
  return a.dims.every((size, axis) => size === b.dims[axis]);
}

/** Why no array can have this shape; undefined where one can. */
export function shapeProblem(shape: readonly unknown[]): string | undefined {
  if (shape.length > MOST_DIMENSIONS) {
    return `${shape.length} dimensions; an array has at most ${MOST_DIMENSIONS}`;
  }
  let count = 1;
  for (const size of shape) {
    if (!Number.isInteger(size) || (size as number) < 0 || (size as number) >= 2 ** 63) {
      return `a dimension of ${shown(size)}; a size was expected`;
    }
    count *= Math.max(size as number, 1);
  }
  if (count > MOST_ELEMENTS) return `the shape ${shown(shape)}; no array has that many elements`;
  return undefined;
}

/** Whether a value has the properties of an array. */
export function isArray(value: unknown): value is ArrayLike {
  if (typeof value !== "object" || value === null) return false;
  const { type, dims } = value as Partial<ArrayLike>;
  return typeof type === "string" && Array.isArray(dims);
}

/** What is wrong with the memory of an array; undefined where it fits its dtype and shape. */
export function memoryProblem(array: ArrayLike): string | undefined {
  const { type, dims, data } = array;
  const known = DTYPES.get(type);
  if (!known || !ArrayBuffer.isView(data)) return `its data are ${kindOf(data)}`;
  let size = 1;
  for (let axis = 0; axis < dims.length; axis++) size *= dims[axis]!;
  const wanted = size * known[0].BYTES_PER_ELEMENT;
  if (!Number.isSafeInteger(size) || data.byteLength !== wanted) {
    return `its data have ${data.byteLength} bytes, and ${describe(type, dims)} has ${wanted}`;
  }
  const isHalf = type === "float16" && data.constructor.name === "Float16Array";
  return data instanceof known[0] || isHalf ? undefined : `its data are ${kindOf(data)}`;
}

function tensor(dtype: string, data: Values, shape: readonly number[]): Tensor {
  return new Tensor(dtype as Tensor.Type, data as Tensor.DataType, shape);
}
