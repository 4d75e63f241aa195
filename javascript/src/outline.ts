// SPDX-License-Identifier: Apache-2.0
/**
 * What an ONNX file says about itself, read without ONNX.
 *
 * Only names, types, shapes, metadata and the first values of states are read; weights are skipped.
 * The field numbers are those of onnx.proto.
 */

import type { Tensor } from "onnxruntime-common";
import {
  type Axis,
  MOST_DIMENSIONS,
  fromBytes,
  isDtype,
  itemSize,
  product,
  shapeProblem,
} from "./arrays.js";
import { type ArraySpec, INITIAL_PREFIX, MOST_ARRAYS, MOST_STATE } from "./contract.js";
import { FileError } from "./errors.js";
import { otherFormat } from "./formats.js";
import { MalformedError, bytesOf, entryOf, fields, intOf, intsOf, textOf } from "./protobuf.js";
import type { Value } from "./protobuf.js";
import { shown } from "./text.js";

/** TensorProto.DataType, with NumPy's names. */
const DTYPES = (
  "unknown float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 " +
  "complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 " +
  "float4e2m1"
).split(" ");
const DEEPEST = 32;
/** The most nodes, attributes, tensors and the like, and one more per this many bytes. */
const MOST_MESSAGES = 100_000;
const BYTES_PER_MESSAGE = 24;

/** The outline of an ONNX file. */
export interface Outline {
  readonly metadata: ReadonlyMap<string, string>;
  readonly inputs: readonly ArraySpec[];
  readonly outputs: readonly ArraySpec[];
  /** By state input, the first values of the state. */
  readonly initial: ReadonlyMap<string, Tensor>;
  /** By the name of a file beside this one, the least number of bytes that it must have. */
  readonly external: ReadonlyMap<string, number>;
  /** Whether a weight is float16. */
  readonly half: boolean;
}

interface RawTensor {
  name: string;
  dtype: string;
  dims: number[];
  raw: Uint8Array;
  entries: Map<string, string>;
}

/** Reads the outline of an ONNX file; `source` is what messages call it. */
export function readOutline(data: Uint8Array, source: string): Outline {
  if (!data.length) {
    throw new FileError(`${source} is empty; an ONNX file was expected. Export it again.`);
  }

  const reader = new Reader(data.length);
  try {
    reader.readModel(data);
    return reader.result(source);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    const other = otherFormat(data);
    const problem = other
      ? other
      : `is not a whole ONNX file (${error.message}). It may be truncated or of another format; ` +
        "export or copy it again.";
    throw new FileError(`${source} ${problem}`);
  }
}

class Reader {
  private readonly metadata = new Map<string, string>();
  private readonly inputs: ArraySpec[] = [];
  private readonly outputs: ArraySpec[] = [];
  private readonly weights = new Set<string>();
  private readonly initial = new Map<string, RawTensor>();
  private readonly external = new Map<string, number>();
  private half = false;
  private irVersion = 0;
  private opsets = 0;
  private graphs = 0;
  private messages = 0;
  private readonly mostMessages: number;

  constructor(nbytes: number) {
    this.mostMessages = MOST_MESSAGES + Math.floor(nbytes / BYTES_PER_MESSAGE);
  }

  readModel(data: Uint8Array): void {
    for (const [number, value] of fields(data)) {
      if (number === 1) this.irVersion = intOf(value);
      else if (number === 2 || number === 3) textOf(value);
      else if (number === 7) this.readGraph(bytesOf(value), 0);
      else if (number === 8) this.readOpset(bytesOf(value));
      else if (number === 14) this.readMetadata(value);
      else if (number === 25) this.readFunction(bytesOf(value));
    }
    if (this.irVersion <= 0 || this.graphs !== 1 || !this.opsets) {
      throw new MalformedError("it has no IR version, no graph or no opset");
    }
  }

  result(source: string): Outline {
    // Before IR version 4 every initializer was an input too.
    const inputs = this.inputs.filter(({ name }) => !this.weights.has(name));
    return {
      metadata: this.metadata,
      inputs: checkPorts(inputs),
      outputs: checkPorts(this.outputs),
      initial: this.readInitial(source),
      external: this.external,
      half: this.half,
    };
  }

  private readInitial(source: string): Map<string, Tensor> {
    const arrays = new Map<string, Tensor>();
    let total = 0;
    for (const [name, tensor] of this.initial) {
      const nbytes = product(tensor.dims) * itemSize(tensor.dtype);
      total += nbytes;
      if (total > MOST_STATE) {
        throw new FileError(
          `${source} holds first states of more than ${MOST_STATE} bytes; this stateport carries ` +
            "no more.",
        );
      }
      if (!isDtype(tensor.dtype) || tensor.raw.length !== nbytes) {
        throw new FileError(`${source} holds no values for ${shown(tensor.name)}. Export it again.`);
      }
      arrays.set(name, fromBytes(tensor.dtype, tensor.dims, tensor.raw));
    }
    return arrays;
  }

  /** Counts a part of the file, so that a small file cannot take long to read. */
  private count(): void {
    this.messages += 1;
    if (this.messages > this.mostMessages) {
      throw new MalformedError(
        `it has more than ${this.mostMessages} parts, too many for its size`,
      );
    }
  }

  private readFunction(data: Uint8Array): void {
    this.count();
    for (const [number, value] of fields(data)) {
      if (number === 7) this.readNode(bytesOf(value), 1);
    }
  }

  private readOpset(data: Uint8Array): void {
    this.count();
    for (const [number, value] of fields(data)) {
      if (number === 1) textOf(value);
      else if (number === 2) intOf(value);
    }
    this.opsets += 1;
  }

  private readMetadata(value: Value): void {
    this.count();
    const [key, text] = entryOf(value);
    if (this.metadata.has(key)) {
      throw new MalformedError(`its metadata have the key ${shown(key)} twice`);
    }
    this.metadata.set(key, text);
  }

  /** Reads a GraphProto; `depth` is 0 for the model's graph, more for a subgraph. */
  private readGraph(data: Uint8Array, depth: number): void {
    this.count();
    if (depth > DEEPEST) throw new MalformedError("its graphs are nested too deeply");

    if (depth === 0) this.graphs += 1;
    for (const [number, value] of fields(data)) {
      if (number === 1) this.readNode(bytesOf(value), depth);
      else if (number === 5) this.readInitializer(bytesOf(value), depth);
      else if (number === 15) this.readSparse(bytesOf(value));
      else if (depth === 0 && (number === 11 || number === 12)) {
        this.count();
        const ports = number === 11 ? this.inputs : this.outputs;
        ports.push(readValueInfo(bytesOf(value)));
      }
    }
  }

  private readNode(data: Uint8Array, depth: number): void {
    this.count();
    for (const [number, value] of fields(data)) {
      if (number === 4 || number === 7) textOf(value);
      else if (number === 5) this.readAttribute(bytesOf(value), depth);
    }
  }

  /** Reads an AttributeProto: only its tensors and graphs. */
  private readAttribute(data: Uint8Array, depth: number): void {
    this.count();
    for (const [number, value] of fields(data)) {
      if (number === 5 || number === 10) this.readTensor(bytesOf(value));
      else if (number === 6 || number === 11) this.readGraph(bytesOf(value), depth + 1);
      else if (number === 22 || number === 23) this.readSparse(bytesOf(value));
    }
  }

  /** Reads a SparseTensorProto: its values and its indices are tensors. */
  private readSparse(data: Uint8Array): void {
    this.count();
    for (const [number, value] of fields(data)) {
      if (number === 1 || number === 2) this.readTensor(bytesOf(value));
    }
  }

  private readInitializer(data: Uint8Array, depth: number): void {
    const tensor = this.readTensor(data);
    if (depth !== 0) return;

    this.weights.add(tensor.name);
    if (!tensor.name.startsWith(INITIAL_PREFIX)) return;
    const name = tensor.name.slice(INITIAL_PREFIX.length);
    if (this.initial.has(name)) {
      throw new MalformedError(`it has the weight ${shown(tensor.name)} twice`);
    }
    this.initial.set(name, tensor);
  }

  /** Reads a TensorProto; its values remain where they are. */
  private readTensor(data: Uint8Array): RawTensor {
    this.count();
    const raw = new Uint8Array();
    const tensor: RawTensor = { name: "", dtype: "unknown", dims: [], raw, entries: new Map() };
    for (const [number, value] of fields(data)) {
      if (number === 1) addDims(tensor, value);
      else if (number === 2) tensor.dtype = DTYPES[intOf(value)] ?? "unknown";
      else if (number === 8) tensor.name = textOf(value);
      else if (number === 9) tensor.raw = bytesOf(value);
      else if (number === 13) addEntry(tensor.entries, value);
    }

    const problem = shapeProblem(tensor.dims);
    if (problem) throw new MalformedError(`the weight ${shown(tensor.name)} has ${problem}`);
    this.addExternal(tensor);
    this.half ||= tensor.dtype === "float16";
    return tensor;
  }

  private addExternal({ name, entries }: RawTensor): void {
    if (!entries.size) return;

    let end = 0;
    for (const key of ["offset", "length"]) {
      const text = entries.get(key) ?? "0";
      if (!/^\d{1,19}$/.test(text)) {
        throw new MalformedError(
          `the weight ${shown(name)} has the ${key} ${shown(text)}; a number of bytes was expected`,
        );
      }
      end += Number(text);
    }
    const file = entries.get("location") ?? "";
    this.external.set(file, Math.max(this.external.get(file) ?? 0, end));
  }
}

/** The inputs, or the outputs, of the graph, if they are not too many and have unique names. */
function checkPorts(specs: readonly ArraySpec[]): readonly ArraySpec[] {
  if (specs.length > 2 * MOST_ARRAYS) {
    throw new MalformedError(`its graph has ${specs.length} inputs or outputs`);
  }

  const names = new Set<string>();
  for (const { name } of specs) {
    if (names.has(name)) {
      throw new MalformedError(`its graph has an input or output ${shown(name)} twice`);
    }
    names.add(name);
  }
  return specs;
}

function addDims(tensor: RawTensor, value: Value): void {
  tensor.dims.push(...intsOf(value, MOST_DIMENSIONS + 1));
  if (tensor.dims.length > MOST_DIMENSIONS) {
    throw new MalformedError(`the weight ${shown(tensor.name)} has too many dimensions`);
  }
}

function addEntry(entries: Map<string, string>, value: Value): void {
  const [key, text] = entryOf(value);
  if (entries.has(key)) {
    throw new MalformedError(`the external data of a weight have ${shown(key)} twice`);
  }
  entries.set(key, text);
}

function readValueInfo(data: Uint8Array): ArraySpec {
  let name = "";
  let type: Omit<ArraySpec, "name"> = { dtype: "unknown", shape: [] };
  for (const [number, value] of fields(data)) {
    if (number === 1) name = textOf(value);
    if (number !== 2) continue;
    for (const [kind, content] of fields(bytesOf(value))) {
      // A tensor; sequences, maps and optionals remain "unknown".
      if (kind === 1) type = readTensorType(bytesOf(content));
    }
  }
  return { name, ...type };
}

function readTensorType(data: Uint8Array): Omit<ArraySpec, "name"> {
  let dtype = "unknown";
  let shape: Axis[] = [];
  for (const [number, value] of fields(data)) {
    if (number === 1) dtype = DTYPES[intOf(value)] ?? "unknown";
    else if (number === 2) shape = readAxes(bytesOf(value));
  }
  return { dtype, shape };
}

function readAxes(data: Uint8Array): Axis[] {
  const shape: Axis[] = [];
  for (const [number, value] of fields(data)) {
    if (number === 1) shape.push(readAxis(bytesOf(value)));
    if (shape.length > MOST_DIMENSIONS) {
      throw new MalformedError("an array has too many dimensions");
    }
  }
  return shape;
}

/** A size or a name; "?" where there is none, or 0 or -1, which other exporters write then. */
function readAxis(data: Uint8Array): Axis {
  let axis: Axis = "?";
  for (const [number, value] of fields(data)) {
    if (number === 1) axis = intOf(value) > 0 ? intOf(value) : "?";
    else if (number === 2) axis = textOf(value) || "?";
  }
  return axis;
}
