// SPDX-License-Identifier: Apache-2.0
/** The contract: what a model file promises about its inputs, outputs and states. */

import { type Axis, MOST_DIMENSIONS, describe, isDtype, itemSize, product } from "./arrays.js";
import { ContractError, InputError, StreamingError } from "./errors.js";
import { parseJson } from "./json.js";
import type { Outline } from "./outline.js";
import { quoted, shown } from "./text.js";

export const CONTRACT_KEY = "stateport.contract";
export const INITIAL_PREFIX = "stateport.initial.";
export const MOST_ARRAYS = 2048;
export const MOST_STATE: number = 2 ** 28;
const VERSION = 1;
const SIZE_LIMIT = 2 ** 31;
const LONGEST_NAME = 1024;

/** One input or output. */
export interface ArraySpec {
  readonly name: string;
  /** NumPy's and ONNX Runtime's name: "float32", "int64", "bool". */
  readonly dtype: string;
  /** The size of each fixed axis, and the name of each dynamic one. */
  readonly shape: readonly Axis[];
  /** The axis along which this input holds the length of each row. */
  readonly lengthsOf?: string;
}

/** One state: an input, and the output that holds its next value. */
export interface StateSpec {
  readonly input: string;
  readonly output: string;
  readonly dtype: string;
  readonly shape: readonly Axis[];
  readonly initial: string;
}

/** Whether a sequence gives the same outputs chunk by chunk as in one call. */
export interface Streaming {
  readonly ok: boolean;
  readonly because?: string;
  /** The number of steps in every chunk is a multiple of this. */
  readonly multiple: number;
  /** Output step t depends on no input step later than t + delay. */
  readonly delay: number;
}

/** What a model file promises. docs/contract.md describes the fields. */
export interface Contract {
  readonly inputs: readonly ArraySpec[];
  readonly outputs: readonly ArraySpec[];
  readonly states: readonly StateSpec[];
  readonly streaming: Streaming;
  readonly limits: ReadonlyMap<string, number>;
  readonly minimums: ReadonlyMap<string, number>;
  readonly multiples: ReadonlyMap<string, number>;
}

type Entry = Record<string, unknown>;

/** The states as the graph's inputs. */
export function stateInputs(contract: Contract): ArraySpec[] {
  return contract.states.map(({ input, dtype, shape }) => ({ name: input, dtype, shape }));
}

function stateOutputs(contract: Contract): ArraySpec[] {
  return contract.states.map(({ output, dtype, shape }) => ({ name: output, dtype, shape }));
}

/** A spec as text: `x: float32[batch, time, 5]`. */
export function specText({ name, dtype, shape }: ArraySpec): string {
  return `${name}: ${describe(dtype, shape)}`;
}

/** The contract in a file, compared with the graph's own inputs and outputs. */
export function readContract(file: Outline, source: string): Contract {
  const text = file.metadata.get(CONTRACT_KEY);
  if (text === undefined) {
    throw new ContractError(
      `${source} carries no contract (metadata key '${CONTRACT_KEY}'), so which of its inputs are ` +
        "states is unknown. `stateport contract IN.onnx -o OUT.onnx --state INPUT=OUTPUT` writes " +
        "one into a copy; `stateport lift` makes hidden states inputs and outputs; `stateport " +
        "export` exports a PyTorch network.",
    );
  }

  const contract = parseContract(text);
  compare(source, "input", [...contract.inputs, ...stateInputs(contract)], file.inputs);
  compare(source, "output", [...contract.outputs, ...stateOutputs(contract)], file.outputs);
  for (const state of contract.states) checkInitial(file, source, state);
  return contract;
}

/** Reads a contract from its JSON text. */
export function parseContract(text: string): Contract {
  let document: unknown;
  try {
    document = parseJson(text);
  } catch (error) {
    throw new ContractError(`The contract is not JSON: ${(error as Error).message}.`);
  }

  const entries = asObject(document, "the contract");
  const { version } = entries;
  if (version !== VERSION) {
    throw new ContractError(
      `The contract has version ${shown(version)}; this stateport reads version ${VERSION}. ` +
        "Upgrade stateport, or export the file again.",
    );
  }

  const contract: Contract = {
    inputs: readList(entries, "inputs", readArraySpec),
    outputs: readList(entries, "outputs", readArraySpec),
    states: readList(entries, "states", readStateSpec),
    streaming: readStreaming(entries.streaming),
    limits: readAxisSizes(entries, "limits"),
    minimums: readAxisSizes(entries, "minimums"),
    multiples: readAxisSizes(entries, "multiples"),
  };
  checkContract(contract);
  return contract;
}

function checkInitial(file: Outline, source: string, state: StateSpec): void {
  if (state.initial !== "file") return;

  const shape = state.shape.map((axis) => (typeof axis === "number" ? axis : 1));
  const initial = file.initial.get(state.input);
  if (!initial || describe(initial.type, initial.dims) !== describe(state.dtype, shape)) {
    throw new ContractError(
      `${source}: the contract says that the state ${quoted(state.input)} starts from values in ` +
        `the file, but ${describe(state.dtype, shape)} is not there. Export the network again.`,
    );
  }
}

function compare(
  source: string,
  what: string,
  promised: readonly ArraySpec[],
  actual: readonly ArraySpec[],
): void {
  const inContract = new Map(promised.map((spec) => [spec.name, spec]));
  const inGraph = new Map(actual.map((spec) => [spec.name, spec]));
  const names = [...new Set([...inContract.keys(), ...inGraph.keys()])].sort();

  for (const name of names) {
    if (inContract.has(name) && inGraph.has(name)) continue;
    const [has, lacks] = inGraph.has(name) ? ["graph", "contract"] : ["contract", "graph"];
    throw new ContractError(
      `${source}: the ${has} has an ${what} ${quoted(name)} that the ${lacks} has not. Export the ` +
        "network again.",
    );
  }

  for (const name of names) {
    const spec = inContract.get(name) as ArraySpec;
    const graphSpec = inGraph.get(name) as ArraySpec;
    if (spec.dtype !== graphSpec.dtype || !hasAxes(graphSpec.shape, spec.shape)) {
      throw new ContractError(
        `${source}: the contract promises the ${what} ${specText(spec)}, but the graph has ` +
          `${specText(graphSpec)}. Export the network again.`,
      );
    }
  }
}

/** Whether the graph leaves open what the contract does; it need not know its own shapes. */
function hasAxes(actual: readonly Axis[], promised: readonly Axis[]): boolean {
  if (!actual.length) return true;
  if (promised.length !== actual.length) return false;
  return actual.every((size, i) => typeof size === "string" || size === promised[i]);
}

/** Refuses a network that needs whole sequences. */
export function checkStreaming({ streaming }: Contract): void {
  if (streaming.ok) return;
  throw new StreamingError(
    `This network cannot be run chunk by chunk: ${streaming.because}. Call the model itself with ` +
      "the whole sequence.",
  );
}

/** Refuses a call in which an axis has a size that the network does not take. */
export function checkLimits(contract: Contract, sizes: ReadonlyMap<string, number>): void {
  for (const [axis, multiple] of contract.multiples) {
    const size = sizes.get(axis) ?? multiple;
    if (size % multiple) {
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes multiples of ${multiple} ` +
          `alone, in PyTorch too. ${nearestMultiples(size, multiple)}`,
      );
    }
  }

  for (const [axis, minimum] of contract.minimums) {
    const size = sizes.get(axis) ?? minimum;
    if (size < minimum) {
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes at least ${minimum}. ` +
          "Below that it fails in PyTorch too, or does something that is not in the file. Make a " +
          "larger call.",
      );
    }
  }

  for (const [axis, limit] of contract.limits) {
    const size = sizes.get(axis) ?? 0;
    if (size > limit) {
      const inChunks = axis === "time" && contract.streaming.ok;
      throw new InputError(
        `Axis ${quoted(axis)} is ${size} in this call; the network takes at most ${limit}. Beyond ` +
          "that it fails in PyTorch too, or does something that is not in the file. " +
          (inChunks ? "Feed it in chunks." : "Make a smaller call."),
      );
    }
  }
}

function nearestMultiples(size: number, multiple: number): string {
  const rest = size % multiple;
  const more = multiple - rest;
  if (size < multiple) return `Fill it up with ${more} more.`;
  return `Cut it to ${size - rest}, or fill it up with ${more} more.`;
}

/** Refuses a chunk whose number of steps is not a multiple of the contract's. */
export function checkChunk({ streaming }: Contract, sizes: ReadonlyMap<string, number>): void {
  const { multiple } = streaming;
  const time = sizes.get("time") ?? 0;
  if (time % multiple) {
    throw new InputError(
      `This chunk has ${time} steps; the network takes ${multiple} at a time, so that a chunk must ` +
        `be a multiple of ${multiple} steps. Keep the last ${time % multiple} for the next one.`,
    );
  }
}

function checkContract(contract: Contract): void {
  const inputs = [...contract.inputs, ...stateInputs(contract)];
  const outputs = [...contract.outputs, ...stateOutputs(contract)];
  const inputNames = checkUnique(inputs);
  const outputNames = checkUnique(outputs);
  for (const name of outputNames) {
    if (inputNames.has(name)) {
      throw new ContractError(
        `The contract names ${shown(name)} as an input and as an output. Give the output another ` +
          "name, with an Identity node.",
      );
    }
  }

  for (const spec of [...inputs, ...contract.outputs]) {
    checkDtype(spec);
    checkShape(spec);
  }
  checkLengths(contract);
  checkStates(contract);
  checkLimitedAxes(contract);
  if (!contract.streaming.ok && !contract.streaming.because) {
    throw new ContractError("The contract says that the network cannot stream, but not why.");
  }
}

function checkUnique(specs: readonly ArraySpec[]): Set<string> {
  if (specs.length > 2 * MOST_ARRAYS) {
    throw new ContractError(
      `The contract has ${specs.length} inputs or outputs; this stateport reads ` +
        `${2 * MOST_ARRAYS} at most.`,
    );
  }

  const names = new Set<string>();
  for (const { name } of specs) {
    if (names.has(name)) throw new ContractError(`The contract names ${shown(name)} twice.`);
    names.add(name);
  }
  return names;
}

function checkDtype({ name, dtype }: ArraySpec): void {
  if (!isDtype(dtype)) {
    throw new ContractError(`The contract gives ${shown(name)} the unknown dtype ${shown(dtype)}.`);
  }
}

function fixedSizes(shape: readonly Axis[]): number[] {
  return shape.filter((axis) => typeof axis === "number");
}

function checkShape({ name, shape }: ArraySpec): void {
  // An axis of size 0 counts as 1, so that it does not hide the size of the others.
  const elements = product(fixedSizes(shape).map((size) => Math.max(size, 1)));
  if (shape.length > MOST_DIMENSIONS || elements >= SIZE_LIMIT) {
    throw new ContractError(
      `The contract gives ${shown(name)} the shape ${shown(shape)}; an array has at most ` +
        `${MOST_DIMENSIONS} dimensions, and fewer than ${SIZE_LIMIT} elements along its axes of ` +
        "fixed size.",
    );
  }

  for (const axis of shape) {
    const problem = impossible(axis);
    if (problem) {
      throw new ContractError(
        `The contract computes the axis ${shown(axis)} of ${shown(name)} with ${problem}.`,
      );
    }
  }
}

/** The part of an expression that no size can be computed with. */
function impossible(axis: Axis): string | undefined {
  if (typeof axis === "number" || !/^[\p{L}\p{N}_\s+*/()-]*$/u.test(axis)) return undefined;
  if (/\/\/[\s(]*0+(?![\p{L}\p{N}_])/u.test(axis)) return "a division by 0";
  for (const [digits] of axis.matchAll(/(?<![\p{L}\p{N}_])\d+(?![\p{L}\p{N}_])/gu)) {
    if (Number(digits) >= SIZE_LIMIT) return `a number of ${SIZE_LIMIT} or more`;
  }
  return undefined;
}

function axesOf(specs: readonly ArraySpec[]): Set<Axis> {
  return new Set(specs.flatMap(({ shape }) => shape.filter((axis) => typeof axis === "string")));
}

function checkLengths(contract: Contract): void {
  const axes = axesOf(contract.inputs);
  for (const spec of [...contract.inputs, ...contract.outputs]) {
    if (spec.lengthsOf === undefined) continue;
    const isInput = contract.inputs.includes(spec);
    if (!isInput || !spec.dtype.includes("int") || !axes.has(spec.lengthsOf)) {
      throw new ContractError(
        `The contract says that ${shown(spec.name)} holds the lengths of rows along ` +
          `${shown(spec.lengthsOf)}; that must be an input of integers, and an axis of an input.`,
      );
    }
  }
}

function checkStates({ states }: Contract): void {
  let nbytes = 0;
  for (const { input, initial, dtype, shape } of states) {
    if (initial !== "zeros" && initial !== "file") {
      throw new ContractError(
        `State ${shown(input)} starts from ${shown(initial)}; this stateport knows 'zeros' and ` +
          "'file'. Upgrade stateport, or export the file again.",
      );
    }
    nbytes += product(fixedSizes(shape)) * itemSize(dtype);
  }
  if (nbytes > MOST_STATE) {
    throw new ContractError(
      `The states of the contract take ${nbytes} bytes for each sequence; this stateport supports ` +
        `at most ${MOST_STATE}.`,
    );
  }
}

function checkLimitedAxes({ inputs, limits, minimums, multiples, streaming }: Contract): void {
  const axes = axesOf(inputs);
  for (const [axis, limit] of [...limits, ...minimums, ...multiples]) {
    if (!axes.has(axis) || limit < 1 || limit > SIZE_LIMIT) {
      throw new ContractError(
        `The contract limits the axis ${shown(axis)} to ${shown(limit)}; it must be an axis of an ` +
          "input, and the limit a size of at least 1.",
      );
    }
  }

  for (const [axis, minimum] of minimums) {
    const limit = limits.get(axis) ?? minimum;
    if (minimum > limit) {
      throw new ContractError(
        `The contract says that the axis ${shown(axis)} is at least ${minimum} and at most ` +
          `${limit}.`,
      );
    }
  }

  const calls = multiples.get("time") ?? 1;
  if (streaming.ok && streaming.multiple % calls) {
    throw new ContractError(
      `The contract says that chunks are multiples of ${streaming.multiple} steps and calls ` +
        `multiples of ${calls}; the first must be a multiple of the second.`,
    );
  }
}

function asObject(value: unknown, where: string): Entry {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Entry;
  throw new ContractError(`In the contract, ${where} must be an object; it is ${shown(value)}.`);
}

function readList<T>(entries: Entry, key: string, readItem: (entry: Entry) => T): T[] {
  const value = entries[key];
  if (!Array.isArray(value) || value.length > MOST_ARRAYS) {
    throw new ContractError(
      `In the contract, '${key}' must be a list of at most ${MOST_ARRAYS}; it is ${shown(value)}.`,
    );
  }
  return value.map((item) => readItem(asObject(item, `every entry of '${key}'`)));
}

function isName(value: unknown): value is string {
  return typeof value === "string" && value !== "" && [...value].length <= LONGEST_NAME;
}

function readName(entry: Entry, key: string): string {
  const value = entry[key];
  if (isName(value)) return value;
  throw new ContractError(
    `In the contract, '${key}' must be a name of at most ${LONGEST_NAME} characters; in ` +
      `${shown(entry)} it is ${shown(value)}.`,
  );
}

function isCount(value: unknown, least: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) < SIZE_LIMIT;
}

function readShape(entry: Entry): Axis[] {
  const { shape } = entry;
  if (Array.isArray(shape) && shape.every((axis) => isName(axis) || isCount(axis, 0))) {
    return shape;
  }
  throw new ContractError(
    `In the contract, 'shape' must be a list of sizes and axis names, the sizes below ` +
      `${SIZE_LIMIT}, the names of at most ${LONGEST_NAME} characters; in ${shown(entry)} it is ` +
      `${shown(shape)}.`,
  );
}

function readArraySpec(entry: Entry): ArraySpec {
  const spec = {
    name: readName(entry, "name"),
    dtype: readName(entry, "dtype"),
    shape: readShape(entry),
  };
  if (!("lengths_of" in entry)) return spec;
  return { ...spec, lengthsOf: readName(entry, "lengths_of") };
}

function readStateSpec(entry: Entry): StateSpec {
  return {
    input: readName(entry, "input"),
    output: readName(entry, "output"),
    dtype: readName(entry, "dtype"),
    initial: readName(entry, "initial"),
    shape: readShape(entry),
  };
}

function readAxisSizes(entries: Entry, key: string): Map<string, number> {
  const sizes = asObject(entries[key] ?? {}, `'${key}'`);
  if (!Object.values(sizes).every(Number.isInteger)) {
    throw new ContractError(
      `In the contract, '${key}' must give a size for each axis; it is ${shown(sizes)}.`,
    );
  }
  return new Map(Object.entries(sizes as Record<string, number>).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function readStreaming(value: unknown): Streaming {
  const entry = asObject(value, "'streaming'");
  const { ok, because = null, multiple = 1, delay = 0 } = entry;
  if (typeof ok !== "boolean" || (because !== null && typeof because !== "string")) {
    throw new ContractError(
      `In the contract, 'streaming' must say 'ok' true or false; it is ${shown(entry)}.`,
    );
  }
  if (!isCount(multiple, 1) || !isCount(delay, 0)) {
    throw new ContractError(
      "In the contract, 'streaming' must say 'multiple' and 'delay' in steps; it is " +
        `${shown(entry)}.`,
    );
  }
  return { ok, multiple, delay, ...(because === null ? {} : { because }) };
}
