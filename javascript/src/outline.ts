// SPDX-License-Identifier: Apache-2.0
/** What an ONNX file says about itself: its metadata, its inputs and outputs, first states. */

import type { Axis } from "./contract.ts";
import { FileError } from "./errors.ts";
import { bytes, entry, fields, integer, integers, Malformed, text, type Value } from "./protobuf.ts";
import { DTYPE_NAMES, elements, itemSize } from "./tensor.ts";
import { shown } from "./words.ts";

/** This and the name of a state input is the name of the initializer with its first value. */
const INITIAL_PREFIX = "stateport.initial.";
const MOST_DIMENSIONS = 32;

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

/** The first value of a state: its dtype, shape and bytes, if the file itself holds them. */
export interface FirstValue {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** The outline of an ONNX file. */
export interface Outline {
  readonly source: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly initial: ReadonlyMap<string, FirstValue>;
  /** The names of the external files that hold weights. */
  readonly external: readonly string[];
  /** Whether some weights are float16. */
  readonly hasHalf: boolean;
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
export function readOutline(data: Uint8Array, source: string): Outline {
  if (!data.length) {
    throw new FileError(`${source} is empty; an ONNX file was expected. Export it again.`);
  }
  try {
    return readModel(data, source);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new FileError(
      `${source} is not a whole ONNX file (${error.message}). It may be truncated or of another ` +
        "format; export or copy it again.",
    );
  }
}

function readModel(data: Uint8Array, source: string): Outline {
  const metadata = new Map<string, string>();
  let version = 0n;
  const opsets: Uint8Array[] = [];
  const graphs: Uint8Array[] = [];
  for (const [number, value] of fields(data)) {
    if (number === 1) version = integer(value);
    else if (number === 7) graphs.push(bytes(value));
    else if (number === 8) opsets.push(bytes(value));
    else if (number === 14) addMetadata(metadata, value);
  }

  const [graph] = graphs;
  const parts = graph && readGraph(graph);
  if (version <= 0n || !parts || graphs.length !== 1 || !opsets.length) {
    throw new Malformed("it has no IR version, no graph or no opset");
  }
  const { inputs, outputs, weights } = parts;
  const names = new Set(weights.map((weight) => weight.name));
  return {
    source,
    metadata,
    // Before IR version 4 every initializer was an input too.
    inputs: inputs.filter((port) => !names.has(port.name)),
    outputs,
    initial: firstValues(weights, source),
    external: [...new Set(weights.flatMap((weight) => weight.external.get("location") ?? []))],
    hasHalf: weights.some((weight) => weight.dtype === "float16"),
  };
}

function addMetadata(metadata: Map<string, string>, value: Value): void {
  const [key, content] = entry(value);
  // Readers differ in which of the two they take.
  if (metadata.has(key)) throw new Malformed(`its metadata have the key ${shown(key)} twice`);
  metadata.set(key, content);
}

function readGraph(data: Uint8Array): { inputs: Port[]; outputs: Port[]; weights: Weight[] } {
  const parts = { inputs: [] as Port[], outputs: [] as Port[], weights: [] as Weight[] };
  for (const [number, value] of fields(data)) {
    if (number === 1) bytes(value);
    else if (number === 5) parts.weights.push(readWeight(bytes(value)));
    else if (number === 11) parts.inputs.push(readPort(bytes(value)));
    else if (number === 12) parts.outputs.push(readPort(bytes(value)));
  }
  return parts;
}

function readWeight(data: Uint8Array): Weight {
  const external = new Map<string, string>();
  const raw = new Uint8Array();
  const weight: Weight = { name: "", dtype: "unknown", dims: [], raw, external };
  for (const [number, value] of fields(data)) {
    if (number === 1) weight.dims.push(...integers(value, MOST_DIMENSIONS).map(Number));
    else if (number === 2) weight.dtype = dtypeOf(value);
    else if (number === 8) weight.name = text(value);
    else if (number === 9) weight.raw = bytes(value);
    else if (number === 13) external.set(...entry(value));
  }
  return weight;
}

function firstValues(weights: readonly Weight[], source: string): Map<string, FirstValue> {
  const values = new Map<string, FirstValue>();
  for (const { name, dtype, dims, raw, external } of weights) {
    if (!name.startsWith(INITIAL_PREFIX)) continue;
    const size = DTYPE_NAMES.includes(dtype) ? elements(dims) * itemSize(dtype) : -1;
    if (external.size || raw.length !== size) {
      throw new FileError(`${source} holds no values for ${shown(name)}. Export it again.`);
    }
    values.set(name.slice(INITIAL_PREFIX.length), { dtype, shape: dims, bytes: raw });
  }
  return values;
}

function readPort(data: Uint8Array): Port {
  const port = { name: "", dtype: "unknown", shape: [] as Axis[] };
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
    }
  }
}

/** A size or a name; "?" where there is none, or 0 or -1, which other exporters write then. */
function readAxis(data: Uint8Array): Axis {
  let axis: Axis = "?";
  for (const [number, value] of fields(data)) {
    if (number === 1) axis = integer(value) > 0n ? Number(integer(value)) : "?";
    else if (number === 2) axis = text(value) || "?";
  }
  return axis;
}

function dtypeOf(value: Value): string {
  return DTYPES[Number(integer(value))] ?? "unknown";
}
