// SPDX-License-Identifier: Apache-2.0
/** Arrays: ONNX Runtime's tensors in the host's memory. */

import { Tensor } from "onnxruntime-common";
import { FileError } from "./errors.js";
import { shown } from "./text.js";

/** A size, or the name of a dynamic axis. */
export type Axis = number | string;

/** The most dimensions of an array. */
export const MOST_DIMENSIONS = 32;
const MOST_ELEMENTS = 2 ** 58;

type Maker = new (buffer: ArrayBuffer) => ArrayBufferView;

const float16 = (globalThis as { Float16Array?: Maker }).Float16Array ?? Uint16Array;

/** By dtype: safetensors' name of it, the bytes of an element, and the class of its data. */
const DTYPES: ReadonlyMap<string, readonly [string, number, Maker]> = new Map<
  string,
  readonly [string, number, Maker]
>([
  // In the order in which safetensors writes them.
  ["uint64", ["U64", 8, BigUint64Array]],
  ["int64", ["I64", 8, BigInt64Array]],
  ["float64", ["F64", 8, Float64Array]],
  ["float32", ["F32", 4, Float32Array]],
  ["uint32", ["U32", 4, Uint32Array]],
  ["int32", ["I32", 4, Int32Array]],
  ["float16", ["F16", 2, float16]],
  ["uint16", ["U16", 2, Uint16Array]],
  ["int16", ["I16", 2, Int16Array]],
  ["int8", ["I8", 1, Int8Array]],
  ["uint8", ["U8", 1, Uint8Array]],
  ["bool", ["BOOL", 1, Uint8Array]],
]);

/** The dtypes, in the order in which safetensors writes them. */
export const DTYPE_ORDER: readonly string[] = [...DTYPES.keys()];

export function isDtype(dtype: string): boolean {
  return DTYPES.has(dtype);
}

/** The bytes of one element. */
export function itemSize(dtype: string): number {
  return DTYPES.get(dtype)?.[1] ?? 1;
}

/** safetensors' name of a dtype. */
export function safeName(dtype: string): string {
  return DTYPES.get(dtype)?.[0] as string;
}

/** The class of the data of a dtype; Uint8Array for one that is not known. */
export function makerOf(dtype: string): Maker {
  return DTYPES.get(dtype)?.[2] ?? Uint8Array;
}

/** The number of elements of a shape. */
export function product(shape: Iterable<number>): number {
  let elements = 1;
  for (const size of shape) elements *= size;
  return elements;
}

/** A dtype and a shape as text: `float32[batch, time, 5]`. */
export function describe(dtype: string, shape: readonly Axis[]): string {
  return `${dtype}[${shape.join(", ")}]`;
}

/** The same data as a tensor of the class that this package exports: engines bring their own. */
export function own(tensor: Tensor): Tensor {
  if (tensor instanceof Tensor) return tensor;
  const { type, data, dims } = tensor as Tensor;
  return new Tensor(type, data as never, dims);
}

/** Whether two tensors have the same dtype and shape. */
export function sameShape(a: Tensor, b: Tensor): boolean {
  if (a.type !== b.type || a.dims.length !== b.dims.length) return false;
  return a.dims.every((size, axis) => size === b.dims[axis]);
}

/** Whether a value is used like a tensor of ONNX Runtime, whichever copy of it made it. */
export function isTensor(value: unknown): value is Tensor {
  const { type, dims } = (value ?? {}) as Partial<Tensor>;
  return typeof value === "object" && typeof type === "string" && Array.isArray(dims);
}

/** A copy of a tensor; an `Error` says why its data do not fit its type and shape. */
export function copied(tensor: Tensor): Tensor {
  if (!ArrayBuffer.isView(tensor.data)) throw new Error("its data are no numbers");
  const bytes = bytesIn(tensor);
  if (product(tensor.dims) * itemSize(tensor.type) !== bytes.length) {
    throw new Error("its data have another size than its dims");
  }
  return fromBytes(tensor.type, tensor.dims, bytes);
}

/** A tensor of bytes, which are copied. */
export function fromBytes(dtype: string, dims: readonly number[], bytes: Uint8Array): Tensor {
  // Not bytes.slice(): of a Buffer, that is a view.
  const data = new (makerOf(dtype))(new Uint8Array(bytes).buffer);
  return new Tensor(dtype as Tensor.Type, data as never, [...dims]);
}

/** The bytes of a tensor's data, not copied. */
export function bytesIn(tensor: Tensor): Uint8Array {
  const { buffer, byteOffset, byteLength } = tensor.data as unknown as ArrayBufferView;
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Zeros. */
export function zeros(dtype: string, dims: readonly number[]): Tensor {
  return fromBytes(dtype, dims, new Uint8Array(product(dims) * itemSize(dtype)));
}

/** A tensor repeated along the axes where it has the size 1 and the shape has another. */
export function repeated(tensor: Tensor, shape: readonly number[]): Tensor {
  let bytes = bytesIn(tensor);
  let inner = itemSize(tensor.type);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] as number;
    if (tensor.dims[axis] !== size) bytes = repeatBlocks(bytes, inner, size);
    inner *= size;
  }
  return fromBytes(tensor.type, shape, bytes);
}

function repeatBlocks(bytes: Uint8Array, block: number, times: number): Uint8Array {
  const result = new Uint8Array(bytes.length * times);
  for (let at = 0, to = 0; at < bytes.length; at += block) {
    for (let i = 0; i < times; i++, to += block) result.set(bytes.subarray(at, at + block), to);
  }
  return result;
}

/** Why no array can have this shape; undefined where one can. */
export function shapeProblem(shape: readonly unknown[]): string | undefined {
  if (shape.length > MOST_DIMENSIONS) {
    return `${shape.length} dimensions; an array has at most ${MOST_DIMENSIONS}`;
  }

  let elements = 1;
  for (const size of shape) {
    if (typeof size !== "number" || !Number.isInteger(size) || size < 0 || size >= 2 ** 63) {
      return `a dimension of ${shown(size)}; a size was expected`;
    }
    elements *= Math.max(size, 1);
  }
  if (elements > MOST_ELEMENTS) {
    return `the shape ${shown(shape)}; no array has that many elements`;
  }
  return undefined;
}

/** The dtype with this name in safetensors. */
export function dtypeOf(safe: string, name: string, source: string): string {
  for (const [dtype, [known]] of DTYPES) if (known === safe) return dtype;
  throw new FileError(
    `${source} holds ${shown(name)} as ${shown(safe)}, which NumPy has no numbers for; BOOL, U8, ` +
      "I8, U16, I16, U32, I32, U64, I64, F16, F32, F64 are read.",
  );
}
