// SPDX-License-Identifier: Apache-2.0
/**
 * What an ONNX file says about itself: its metadata, its inputs and outputs, first states.
 *
 * Weights are skipped, and every part is counted. The numbers of fields are those of onnx.proto.
 */

import type { Tensor } from "onnxruntime-common";

import type { Axis } from "./contract.ts";
import { FileError } from "./errors.ts";
import { bytes, entry, fields, integer, integers, Malformed, text, type Value } from "./protobuf.ts";
import { elements, fromBytes, isDtype, itemSize, MOST_DIMENSIONS, shapeProblem } from "./tensor.ts";
import { shown } from "./words.ts";

/** This and the name of a state input is the name of the initializer with its first value. */
const INITIAL_PREFIX = "stateport.initial.";
/** The most bytes of all first values. */
export const MOST_STATE: number = 2 ** 28;
const MOST_PORTS = 4096;
const DEEPEST = 32;
/** The most nodes, attributes, tensors and the like, and one more per this many bytes. */
const MOST_MESSAGES = 100_000;
const BYTES_PER_MESSAGE = 24;

/** The names of ONNX's dtypes, by number. */
const DTYPES = (
  "unknown float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 " +
  "complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 " +
  "int4 float4e2m1"
).split(" ");

/** An input or output of the graph. */
export interface Port {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly Axis[];
}

/** The outline of an ONNX file. */
export interface Outline {
  readonly source: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** By state input, the first values of the state. */
  readonly initial: ReadonlyMap<string, Tensor>;
  /** By the name of a file that holds weights, the least number of bytes that it must have. */
  readonly external: ReadonlyMap<string, number>;
  /** Whether some weights are float16. */
  readonly hasHalf: boolean;
}

/** What is collected while the fields of the file are read. */
interface Found {
  readonly metadata: Map<string, string>;
  readonly inputs: Port[];
  readonly outputs: Port[];
  readonly weights: Set<string>;
  readonly initial: Map<string, Weight>;
  readonly external: Map<string, number>;
  hasHalf: boolean;
  version: number;
  graphs: number;
  opsets: number;
  messages: number;
  readonly mostMessages: number;
}

interface Weight {
  name: string;
  dtype: string;
  dims: number[];
  raw: Uint8Array;
  external: Map<string, string>;
}

/**
 * Reads the outline of an ONNX file.
 *
 * @param data the content of the file.
 * @param source what it is, as the subject of a message.
 * @throws FileError the content is empty, truncated or not ONNX.
 */
export async function readOutline(data: Uint8Array, source: string): Promise<Outline> {
  if (!data.length) {
    throw new FileError(`${source} is empty; an ONNX file was expected. Export it again.`);
  }
  try {
    return readWhole(data, source);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    const { otherFormat } = await import("./formats.ts");
    const problem =
      otherFormat(data) ??
      `is not a whole ONNX file (${error.message}). It may be truncated or of another format; ` +
        "export or copy it again.";
    throw new FileError(`${source} ${problem}`);
  }
}

function readWhole(data: Uint8Array, source: string): Outline {
  const found: Found = {
    metadata: new Map(),
    inputs: [],
    outputs: [],
    weights: new Set(),
    initial: new Map(),
    external: new Map(),
    hasHalf: false,
    version: 0,
    graphs: 0,
    opsets: 0,
    messages: 0,
    mostMessages: MOST_MESSAGES + Math.floor(data.length / BYTES_PER_MESSAGE),
  };
  readModel(found, data);
  const { metadata, external, hasHalf } = found;
  // Before IR version 4 every initializer was an input too.
  const inputs = found.inputs.filter((port) => !found.weights.has(port.name));
  for (const ports of [inputs, found.outputs]) checkPorts(ports);
  const initial = firstValues(found.initial, source);
  return { source, metadata, inputs, outputs: found.outputs, initial, external, hasHalf };
}

function readModel(found: Found, data: Uint8Array): void {
  for (const [number, value] of fields(data)) {
    if (number === 1) found.version = integer(value);
    else if (number === 2 || number === 3) text(value);
    else if (number === 7) readGraph(found, bytes(value), 0);
    else if (number === 8) readOpset(found, bytes(value));
    else if (number === 14) readMetadata(found, value);
    else if (number === 25) readFunction(found, bytes(value));
  }
  if (found.version <= 0 || found.graphs !== 1 || !found.opsets) {
    throw new Malformed("it has no IR version, no graph or no opset");
  }
}

/** Counts a part of the file, so that a small file cannot take long to read. */
function count(found: Found): void {
  found.messages++;
  if (found.messages > found.mostMessages) {
    throw new Malformed(`it has more than ${found.mostMessages} parts, too many for its size`);
  }
}

function readFunction(found: Found, data: Uint8Array): void {
  count(found);
  for (const [number, value] of fields(data)) {
    if (number === 7) readNode(found, bytes(value), 1);
  }
}

function readOpset(found: Found, data: Uint8Array): void {
  count(found);
  for (const [number, value] of fields(data)) {
    if (number === 1) text(value);
    else if (number === 2) integer(value);
  }
  found.opsets++;
}

function readMetadata(found: Found, value: Value): void {
  count(found);
  const [key, content] = entry(value);
  // Readers differ in which of the two they take.
  if (found.metadata.has(key)) throw new Malformed(`its metadata have the key ${shown(key)} twice`);
  found.metadata.set(key, content);
}

/** Reads a GraphProto; `depth` is 0 for the model's graph, more for a subgraph. */
function readGraph(found: Found, data: Uint8Array, depth: number): void {
  count(found);
  if (depth > DEEPEST) throw new Malformed("its graphs are nested too deeply");
  if (!depth) found.graphs++;
  for (const [number, value] of fields(data)) {
    if (number === 1) readNode(found, bytes(value), depth);
    else if (number === 5) readInitializer(found, bytes(value), depth);
    else if (number === 15) readSparse(found, bytes(value));
    else if (!depth && (number === 11 || number === 12)) {
      count(found);
      (number === 11 ? found.inputs : found.outputs).push(readPort(bytes(value)));
    }
  }
}

function readNode(found: Found, data: Uint8Array, depth: number): void {
  count(found);
  for (const [number, value] of fields(data)) {
    if (number === 4 || number === 7) text(value);
    else if (number === 5) readAttribute(found, bytes(value), depth);
  }
}

/** Reads an AttributeProto: its tensors and graphs alone. */
function readAttribute(found: Found, data: Uint8Array, depth: number): void {
  count(found);
  for (const [number, value] of fields(data)) {
    if (number === 5 || number === 10) readWeight(found, bytes(value));
    else if (number === 6 || number === 11) readGraph(found, bytes(value), depth + 1);
    else if (number === 22 || number === 23) readSparse(found, bytes(value));
  }
}

/** Reads a SparseTensorProto: its values and its indices are tensors. */
function readSparse(found: Found, data: Uint8Array): void {
  count(found);
  for (const [number, value] of fields(data)) {
    if (number === 1 || number === 2) readWeight(found, bytes(value));
  }
}

function readInitializer(found: Found, data: Uint8Array, depth: number): void {
  const weight = readWeight(found, data);
  if (depth) return;
  found.weights.add(weight.name);
  if (!weight.name.startsWith(INITIAL_PREFIX)) return;
  const name = weight.name.slice(INITIAL_PREFIX.length);
  if (found.initial.has(name)) {
    throw new Malformed(`it has the weight ${shown(weight.name)} twice`);
  }
  found.initial.set(name, weight);
}

/** Reads a TensorProto; its values remain where they are. */
function readWeight(found: Found, data: Uint8Array): Weight {
  count(found);
  const raw = new Uint8Array();
  const weight: Weight = { name: "", dtype: DTYPES[0]!, dims: [], raw, external: new Map() };
  for (const [number, value] of fields(data)) {
    if (number === 1) addDims(weight, value);
    else if (number === 2) weight.dtype = dtypeOf(value);
    else if (number === 8) weight.name = text(value);
    else if (number === 9) weight.raw = bytes(value);
    else if (number === 13) addExternal(weight, value);
  }

  const problem = shapeProblem(weight.dims);
  if (problem) throw new Malformed(`the weight ${shown(weight.name)} has ${problem}`);
  if (weight.external.size) addFile(found, weight);
  found.hasHalf ||= weight.dtype === "float16";
  return weight;
}

function addDims(weight: Weight, value: Value): void {
  weight.dims.push(...integers(value, MOST_DIMENSIONS + 1));
  if (weight.dims.length > MOST_DIMENSIONS) {
    throw new Malformed(`the weight ${shown(weight.name)} has too many dimensions`);
  }
}

function addExternal(weight: Weight, value: Value): void {
  const [key, content] = entry(value);
  if (weight.external.has(key)) {
    throw new Malformed(`the external data of a weight have ${shown(key)} twice`);
  }
  weight.external.set(key, content);
}

function addFile(found: Found, { name, external }: Weight): void {
  let end = 0;
  for (const key of ["offset", "length"]) {
    const size = external.get(key) ?? "0";
    if (!/^\d{1,19}$/.test(size)) {
      throw new Malformed(
        `the weight ${shown(name)} has the ${key} ${shown(size)}; a number of bytes was expected`,
      );
    }
    end += Number(size);
  }
  const file = external.get("location") ?? "";
  found.external.set(file, Math.max(found.external.get(file) ?? 0, end));
}

/** Refuses inputs, or outputs, that are too many or have the same name. */
function checkPorts(ports: readonly Port[]): void {
  if (ports.length > MOST_PORTS) {
    throw new Malformed(`its graph has ${ports.length} inputs or outputs`);
  }
  const names = new Set<string>();
  for (const { name } of ports) {
    if (names.has(name)) {
      throw new Malformed(`its graph has an input or output ${shown(name)} twice`);
    }
    names.add(name);
  }
}

function firstValues(weights: ReadonlyMap<string, Weight>, source: string): Map<string, Tensor> {
  const values = new Map<string, Tensor>();
  let total = 0;
  for (const [input, { name, dtype, dims, raw }] of weights) {
    const size = isDtype(dtype) ? elements(dims) * itemSize(dtype) : -1;
    total += size;
    if (total > MOST_STATE) {
      throw new FileError(
        `${source} holds first states of more than ${MOST_STATE} bytes; this stateport carries no ` +
          "more.",
      );
    }
    if (raw.length !== size) {
      throw new FileError(`${source} holds no values for ${shown(name)}. Export it again.`);
    }
    values.set(input, fromBytes(dtype, raw, dims));
  }
  return values;
}

/** Reads a ValueInfoProto. */
function readPort(data: Uint8Array): Port {
  const port = { name: "", dtype: DTYPES[0]!, shape: [] as Axis[] };
  for (const [number, value] of fields(data)) {
    if (number === 1) port.name = text(value);
    if (number !== 2) continue;
    for (const [kind, content] of fields(bytes(value))) {
      // Sequences, maps and optionals remain "unknown".
      if (kind === 1) readTensorType(bytes(content), port);
    }
  }
  return port;
}

function readTensorType(data: Uint8Array, port: { dtype: string; shape: Axis[] }): void {
  for (const [number, value] of fields(data)) {
    if (number === 1) port.dtype = dtypeOf(value);
    if (number !== 2) continue;
    port.shape = [];
    for (const [kind, content] of fields(bytes(value))) {
      if (kind === 1) port.shape.push(readAxis(bytes(content)));
      if (port.shape.length > MOST_DIMENSIONS) {
        throw new Malformed("an array has too many dimensions");
      }
    }
  }
}

/** A size or a name; "?" where there is none, or 0 or -1, which other exporters write then. */
function readAxis(data: Uint8Array): Axis {
  let axis: Axis = "?";
  for (const [number, value] of fields(data)) {
    if (number === 1) axis = integer(value) > 0 ? integer(value) : "?";
    else if (number === 2) axis = text(value) || "?";
  }
  return axis;
}

function dtypeOf(value: Value): string {
  return DTYPES[integer(value)] ?? DTYPES[0]!;
}
