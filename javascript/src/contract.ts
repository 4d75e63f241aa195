// SPDX-License-Identifier: Apache-2.0
/** The contract: what a model file promises about its inputs, outputs and states. */

import { ContractError, InputError, reasonOf, StreamingError } from "./errors.ts";
import { isObject, parseJson } from "./json.ts";
import { MOST_STATE, type Outline, type Port } from "./outline.ts";
import { elements, isDtype, itemSize, MOST_DIMENSIONS } from "./tensor.ts";
import { byCodePoint, describe, quoted, shown } from "./words.ts";

const CONTRACT_KEY = "stateport.contract";
const VERSION = 1;
const SIZE_LIMIT = 2 ** 31;
const MOST_ARRAYS = 2048;
const LONGEST_NAME = 1024;

/** A size, or the name of a dynamic axis, or an expression of names. */
export type Axis = number | string;

/** One input or output. */
export interface ArraySpec {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly Axis[];
  /** The axis along which this integer input holds the length of each row. */
  readonly lengthsOf?: string;
}

/** One state: an input, and the output that holds its next value. */
export interface StateSpec {
  readonly input: string;
  readonly output: string;
  readonly dtype: string;
  readonly shape: readonly Axis[];
  readonly initial: "zeros" | "file";
}

/** Whether a sequence gives the same outputs chunk by chunk as in one call. */
export interface Streaming {
  readonly ok: boolean;
  readonly reason?: string | undefined;
  /** The number of steps in every chunk is a multiple of this. */
  readonly chunkMultiple: number;
  /** Output step t depends on no input step later than t + lookahead. */
  readonly lookahead: number;
}

type AxisSizes = ReadonlyArray<readonly [axis: string, size: number]>;

/** What a model file promises. */
export interface Contract {
  readonly inputs: readonly ArraySpec[];
  readonly outputs: readonly ArraySpec[];
  readonly states: readonly StateSpec[];
  readonly streaming: Streaming;
  /** The largest, and the smallest, size of an axis in one call; and its multiple. */
  readonly limits: AxisSizes;
  readonly minimums: AxisSizes;
  readonly multiples: AxisSizes;
}

type Entries = Record<string, unknown>;

/** An array of a contract as text: `x: float32[batch, time, 5]`. */
export function specText(spec: ArraySpec | Port): string {
  return `${spec.name}: ${describe(spec.dtype, spec.shape)}`;
}

/** The states as the graph's inputs. */
export function stateInputs(contract: Contract): ArraySpec[] {
  return contract.states.map(({ input: name, dtype, shape }) => ({ name, dtype, shape }));
}

/** The states as the graph's outputs. */
export function stateOutputs(contract: Contract): ArraySpec[] {
  return contract.states.map(({ output: name, dtype, shape }) => ({ name, dtype, shape }));
}

/**
 * The contract in a file, compared with the graph's own inputs and outputs.
 *
 * @throws ContractError there is none, or it is not that of the graph.
 */
export function contractOf(file: Outline): Contract {
  const text = file.metadata.get(CONTRACT_KEY);
  if (text === undefined) {
    throw new ContractError(
      `${file.source} carries no contract (metadata key '${CONTRACT_KEY}'), so which of its ` +
        "inputs are states is unknown. `stateport contract IN.onnx -o OUT.onnx --state " +
        "INPUT=OUTPUT` writes one into a copy; `stateport lift` makes hidden states inputs and " +
        "outputs; `stateport export` exports a PyTorch network.",
    );
  }
  const contract = parseContract(text);
  compare(file.source, "input", [...contract.inputs, ...stateInputs(contract)], file.inputs);
  compare(file.source, "output", [...contract.outputs, ...stateOutputs(contract)], file.outputs);
  for (const state of contract.states) {
    if (state.initial === "file") checkInitial(file, state);
  }
  return contract;
}

/**
 * Reads a contract from its JSON text.
 *
 * @throws ContractError the text is not JSON, or not a valid contract of this version.
 */
export function parseContract(text: string): Contract {
  let document: unknown;
  try {
    document = parseJson(text);
  } catch (error) {
    throw new ContractError(`The contract is not JSON: ${reasonOf(error)}.`);
  }

  const entries = object(document, "it");
  const { version } = entries;
  if (version !== VERSION) {
    throw new ContractError(
      `The contract has version ${shown(version)}; this stateport reads version ${VERSION}. ` +
        "Upgrade stateport, or export the file again.",
    );
  }
  const contract = {
    inputs: list(entries, "inputs", (entry) => readArray(entry)),
    outputs: list(entries, "outputs", (entry) => readArray(entry)),
    states: list(entries, "states", readState),
    streaming: readStreaming(entries.streaming),
    limits: readSizes(entries, "limits"),
    minimums: readSizes(entries, "minimums"),
    multiples: readSizes(entries, "multiples"),
  };
  checkContract(contract);
  return contract;
}

/** Refuses a contract that contradicts itself. */
function checkContract(contract: Contract): void {
  const { inputs, outputs, states, streaming, limits, minimums, multiples } = contract;
  const axes = inputs.flatMap((spec) => spec.shape);
  for (const { name, dtype, lengthsOf } of [...inputs, ...outputs]) {
    if (lengthsOf === undefined) continue;
    const isInput = inputs.some((spec) => spec.name === name) && dtype.includes("int");
    need(isInput && axes.includes(lengthsOf), "lengths_of", lengthsOf);
  }

  const given = [...inputs, ...stateInputs(contract)].map((spec) => spec.name);
  for (const { name } of [...outputs, ...stateOutputs(contract)]) {
    need(!given.includes(name), "the name of an output", name);
  }
  const sizes = states.map(({ dtype, shape }) => fixedElements(shape) * itemSize(dtype));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  need(total <= MOST_STATE, "the number of bytes of a state", total);

  for (const [axis] of [...limits, ...minimums, ...multiples]) {
    need(axes.includes(axis), "a limited axis", axis);
  }
  const most = new Map(limits);
  for (const [axis, minimum] of minimums) {
    need(minimum <= (most.get(axis) ?? minimum), "the minimum of an axis", minimum);
  }
  const calls = new Map(multiples).get("time") ?? 1;
  const isMultiple = !streaming.ok || streaming.chunkMultiple % calls === 0;
  need(isMultiple, "the multiple of a chunk", streaming.chunkMultiple);
}

function fixedElements(shape: readonly Axis[]): number {
  // An axis of size 0 counts as 1, so that it does not hide the size of the others.
  return elements(shape.map((axis) => (typeof axis === "number" ? Math.max(axis, 1) : 1)));
}

/** Refuses a network that needs whole sequences. */
export function checkStreaming(contract: Contract): void {
  if (!contract.streaming.ok) {
    throw new StreamingError(
      `This network cannot be run chunk by chunk: ${contract.streaming.reason}. Call the model ` +
        "itself with the whole sequence.",
    );
  }
}

/** Refuses a call in which an axis has a size that the network does not take. */
export function checkLimits(contract: Contract, sizes: ReadonlyMap<string, number>): void {
  for (const [axis, multiple] of contract.multiples) {
    const size = sizes.get(axis) ?? multiple;
    if (size % multiple) {
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes multiples of ` +
          `${multiple} alone. Others fail in PyTorch too, or do something that is not in the ` +
          `file. ${nearestMultiples(size, multiple)}`,
      );
    }
  }
  for (const [axis, minimum] of contract.minimums) {
    const size = sizes.get(axis) ?? minimum;
    if (size < minimum) {
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes at least ${minimum}. ` +
          "Below that it fails in PyTorch too, or does something that is not in the file. " +
          "Make a larger call.",
      );
    }
  }
  for (const [axis, limit] of contract.limits) {
    const size = sizes.get(axis) ?? 0;
    if (size > limit) {
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes at most ${limit}. ` +
          "Beyond that it fails in PyTorch too, or does something that is not in the file. " +
          howToCallSmaller(contract, axis),
      );
    }
  }
}

/** What to do about a size above the largest. */
function howToCallSmaller(contract: Contract, axis: string): string {
  if (axis !== "time") {
    return "Make a smaller call.";
  }
  return contract.streaming.ok
    ? "Feed it in chunks."
    : "Shorten the sequence; this network cannot be fed in chunks.";
}

/** Refuses a chunk whose number of steps is not a multiple of the contract's. */
export function checkChunk(contract: Contract, sizes: ReadonlyMap<string, number>): void {
  const multiple = contract.streaming.chunkMultiple;
  const time = sizes.get("time") ?? 0;
  if (time % multiple) {
    throw new InputError(
      `This chunk has ${time} steps; the network takes ${multiple} at a time, so that a chunk ` +
        `must be a multiple of ${multiple} steps. Keep the last ${time % multiple} for the next ` +
        "one.",
    );
  }
}

function nearestMultiples(size: number, multiple: number): string {
  const more = multiple - (size % multiple);
  if (size < multiple) return `Fill it up with ${more} more.`;
  return `Cut it to ${size - (size % multiple)}, or fill it up with ${more} more.`;
}

// The contract and the graph.

function compare(
  source: string,
  what: string,
  promised: readonly ArraySpec[],
  actual: readonly Port[],
): void {
  const inContract = new Map(promised.map((spec) => [spec.name, spec]));
  const inGraph = new Map(actual.map((port) => [port.name, port]));
  need(inContract.size === promised.length, `the number of ${what}s`, promised.length);
  for (const name of [...inContract.keys(), ...inGraph.keys()].sort(byCodePoint)) {
    if (inContract.has(name) && inGraph.has(name)) continue;
    const [has, lacks] = inContract.has(name) ? ["contract", "graph"] : ["graph", "contract"];
    throw new ContractError(
      `${source}: the ${has} has an ${what} ${quoted(name)} that the ${lacks} has not. Export ` +
        "the network again.",
    );
  }
  for (const name of [...inContract.keys()].sort(byCodePoint)) {
    const spec = inContract.get(name)!;
    const port = inGraph.get(name)!;
    if (spec.dtype === port.dtype && hasAxes(port, spec)) continue;
    throw new ContractError(
      `${source}: the contract promises the ${what} ${specText(spec)}, but the graph has ` +
        `${specText(port)}. Export the network again.`,
    );
  }
}

/** Whether the graph leaves open what the contract does; it need not know its own shapes. */
function hasAxes(actual: Port, promised: ArraySpec): boolean {
  if (!actual.shape.length) return true;
  if (actual.shape.length !== promised.shape.length) return false;
  return actual.shape.every(
    (size, position) => typeof size === "string" || size === promised.shape[position],
  );
}

function checkInitial(file: Outline, state: StateSpec): void {
  const shape = state.shape.map((axis) => (typeof axis === "number" ? axis : 1));
  const initial = file.initial.get(state.input);
  const wanted = describe(state.dtype, shape);
  if (!initial || describe(initial.type, initial.dims) !== wanted) {
    throw new ContractError(
      `${file.source}: the contract says that the state ${quoted(state.input)} starts from ` +
        `values in the file, but ${wanted} is not there. Export the network again.`,
    );
  }
}

// The document. What it says of the graph is compared with the graph, and so not checked here.

const isText = (value: unknown): value is string =>
  typeof value === "string" && value !== "" && value.length <= LONGEST_NAME;
const isCount = (value: unknown, least: number): value is number =>
  Number.isInteger(value) && (value as number) >= least && (value as number) < SIZE_LIMIT;

/** Refuses a document in which something is not as it must be. */
function need(isRight: boolean, what: string, value: unknown): asserts isRight {
  if (!isRight) {
    throw new ContractError(
      `The contract is malformed: ${what} is ${shown(value)}. Export the network again.`,
    );
  }
}

function object(value: unknown, what: string): Entries {
  need(isObject(value), what, value);
  return value as Entries;
}

function list<T>(entries: Entries, key: string, read: (entry: Entries) => T): T[] {
  const value = entries[key];
  need(Array.isArray(value) && value.length <= MOST_ARRAYS, key, value);
  return (value as unknown[]).map((item) => read(object(item, key)));
}

function text(entry: Entries, key: string): string {
  const value = entry[key];
  need(isText(value), key, value);
  return value;
}

function readArray(entry: Entries, key = "name"): ArraySpec {
  const { shape, lengths_of } = entry;
  const dtype = text(entry, "dtype");
  need(isDtype(dtype), "dtype", dtype);
  const isShape = Array.isArray(shape) && shape.every((axis) => isText(axis) || isCount(axis, 0));
  const isSmall = isShape && shape.length <= MOST_DIMENSIONS && fixedElements(shape) < SIZE_LIMIT;
  need(isSmall, "shape", shape);
  const spec = { name: text(entry, key), dtype, shape };
  return lengths_of === undefined ? spec : { ...spec, lengthsOf: text(entry, "lengths_of") };
}

function readState(entry: Entries): StateSpec {
  const { name, dtype, shape } = readArray(entry, "input");
  const initial = entry.initial as StateSpec["initial"];
  if (initial !== "zeros" && initial !== "file") {
    throw new ContractError(
      `State ${shown(name)} starts from ${shown(initial)}; this stateport knows 'zeros' and ` +
        "'file'. Upgrade stateport, or export the file again.",
    );
  }
  return { input: name, output: text(entry, "output"), dtype, shape, initial };
}

function readSizes(entries: Entries, key: string): AxisSizes {
  const sizes = Object.entries(object(entries[key] ?? {}, key)) as Array<[string, number]>;
  need(sizes.every(([, size]) => isCount(size, 1)), key, entries[key]);
  return sizes.sort(([a], [b]) => byCodePoint(a, b));
}

function readStreaming(value: unknown): Streaming {
  const entry = object(value, "streaming");
  const { ok, because, multiple = 1, delay = 0 } = entry;
  const isReason = ok === true || (ok === false && isText(because));
  need(isReason && isCount(multiple, 1) && isCount(delay, 0), "streaming", entry);
  return { ok, reason: because as string, chunkMultiple: multiple, lookahead: delay };
}
