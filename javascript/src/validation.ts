// SPDX-License-Identifier: Apache-2.0
/** Checks arrays against a contract. Nothing is cast, reshaped or replaced silently. */

import type { Tensor } from "onnxruntime-common";

import {
  type ArraySpec,
  type Contract,
  checkLimits,
  specText,
  stateInputs,
  type StateSpec,
} from "./contract.ts";
import { InputError, StateError } from "./errors.ts";
import { adopted, arraysOf, checkCanGoOn, State } from "./state.ts";
import { type ArrayLike, copied, isArray, memoryProblem, repeated, zeros } from "./tensor.ts";
import { byCodePoint, describe, didYouMean, kindOf, quoted } from "./words.ts";

export type Sizes = Map<string, number>;
export type Inputs = Readonly<Record<string, ArrayLike>>;

/** The inputs of a call, checked and copied, and the sizes of the dynamic axes. */
export interface Call {
  readonly arrays: ReadonlyMap<string, Tensor>;
  readonly sizes: Sizes;
}

type Refusal = new (message: string) => InputError;

/**
 * Checks every input, and copies it, so that a caller may use the memory again.
 *
 * @throws InputError an input does not fit the contract.
 */
export function checkInputs(contract: Contract, inputs: Inputs): Call {
  if (typeof inputs !== "object" || inputs === null || Array.isArray(inputs) || isArray(inputs)) {
    throw new InputError(
      `The inputs are ${kindOf(inputs)}; an object of Tensors by name was expected.`,
    );
  }
  checkNames(contract, contract.inputs, Object.keys(inputs), "input", InputError);

  const sizes: Sizes = new Map();
  for (const spec of contract.inputs) checkArray(spec, inputs[spec.name], sizes, InputError);
  for (const spec of contract.inputs) {
    if (spec.lengthsOf !== undefined) {
      checkLengths(spec, inputs[spec.name]!, sizes.get(spec.lengthsOf)!);
    }
  }
  checkLimits(contract, sizes);
  const arrays = new Map<string, Tensor>();
  for (const { name } of contract.inputs) arrays.set(name, copied(inputs[name]!));
  return { arrays, sizes };
}

/**
 * Checks that a state fits the contract and a call with these axis sizes.
 *
 * @throws StateError it does not, or a sequence cannot go on from it.
 */
export function checkState(contract: Contract, state: State, sizes: Sizes): void {
  if (!(state instanceof State)) {
    throw new StateError(
      `The state is ${kindOf(state)}; a State was expected. Pass the state that the last call ` +
        "returned, or new State({name: array}). Without a state, a call starts from the initial " +
        "state.",
    );
  }
  checkCanGoOn(state);
  const arrays = arraysOf(state);
  const specs = stateInputs(contract);
  checkNames(contract, specs, [...arrays.keys()], "state", StateError);
  const known: Sizes = new Map(sizes);
  for (const spec of specs) checkArray(spec, arrays.get(spec.name), known, StateError);
}

/**
 * The initial state of a sequence.
 *
 * @throws StateError the size of an axis is not known, or there is not enough memory.
 */
export function initialState(
  contract: Contract,
  stored: ReadonlyMap<string, ArrayLike>,
  sizes: Sizes,
): State {
  const axes = contract.states.flatMap((spec) => spec.shape);
  const unknown = axes.filter((axis) => typeof axis === "string" && !sizes.has(axis)) as string[];
  if (unknown.length) {
    throw new StateError(
      "The initial state cannot be made: no input has the axis " +
        `${quoted(unknown.sort(byCodePoint)[0]!)}, so that its size is not known. Pass a state.`,
    );
  }
  try {
    return adopted(
      new Map(contract.states.map((spec) => [spec.input, firstValue(spec, stored, sizes)])),
    );
  } catch (error) {
    const text = [...sizes].sort().map(([axis, size]) => `${axis} ${size}`);
    throw new StateError(
      `There is no memory for a state of ${text.join(", ")}: ${error}. Use a smaller batch.`,
    );
  }
}

/**
 * The model's inputs by name: its only input may come as it is.
 *
 * @throws InputError the model has several inputs, and one array came.
 */
export function namedInputs(contract: Contract, x: ArrayLike | Inputs, call: string): Inputs {
  const [first, ...others] = contract.inputs;
  const isNamed = typeof x === "object" && x !== null && !isArray(x) && !ArrayBuffer.isView(x);
  if (isNamed && !Array.isArray(x)) return x as Inputs;
  if (!first || others.length) {
    const names = contract.inputs.map(specText).join(", ");
    throw new InputError(
      `The model takes ${contract.inputs.length} inputs (${names}); pass them by name: ${call}.`,
    );
  }
  return { [first.name]: x as ArrayLike };
}

function firstValue(
  spec: StateSpec,
  stored: ReadonlyMap<string, ArrayLike>,
  sizes: Sizes,
): ArrayLike {
  const shape = spec.shape.map((axis) => (typeof axis === "number" ? axis : sizes.get(axis)!));
  const first = spec.initial === "file" ? stored.get(spec.input) : undefined;
  return first ? repeated(first, shape) : zeros(spec.dtype, shape);
}

function checkNames(
  contract: Contract,
  specs: readonly ArraySpec[],
  names: readonly string[],
  kind: string,
  Refused: Refusal,
): void {
  // Usually they are the same, in the same order.
  if (names.length === specs.length && specs.every(({ name }, at) => name === names[at])) return;

  const expected = specs.map((spec) => spec.name);
  const arrays = specs.map(specText).join(", ") || `no ${kind} at all`;
  for (const name of [...names].sort(byCodePoint)) {
    if (expected.includes(name)) continue;
    const hint = adviceOnState(contract, name) || didYouMean(name, expected);
    throw new Refused(`There is no ${kind} ${quoted(name)}; the model takes ${arrays}.${hint}`);
  }
  for (const name of [...expected].sort(byCodePoint)) {
    if (names.includes(name)) continue;
    throw new Refused(`The ${kind} ${quoted(name)} is missing; the model takes ${arrays}.`);
  }
}

/** What to do about a state among the inputs: the file has it there, a call has it apart. */
function adviceOnState(contract: Contract, name: string): string {
  if (!contract.states.some(({ input }) => input === name)) return "";
  return ` ${quoted(name)} is a state: pass it apart from the inputs, as the state of the call.`;
}

function checkArray(spec: ArraySpec, value: unknown, sizes: Sizes, Refused: Refusal): void {
  if (!isArray(value)) {
    throw new Refused(
      `${quoted(spec.name)} is ${kindOf(value)}; a Tensor ${describe(spec.dtype, spec.shape)} ` +
        "was expected.",
    );
  }
  const problem = findProblem(spec, value, sizes) ?? memory(spec, value);
  if (problem) throw new Refused(problem);
}

function dimensions(count: number): string {
  return count === 1 ? "1 dimension" : `${count} dimensions`;
}

/** The message for an array of a wrong dtype or shape. Sizes of dynamic axes are added. */
function findProblem(spec: ArraySpec, value: ArrayLike, sizes: Sizes): string | undefined {
  const actual = () => `${quoted(spec.name)} is ${describe(value.type, value.dims)}`;
  const expected = () => `the model takes ${describe(spec.dtype, spec.shape)}`;
  if (value.type !== spec.dtype) {
    return `${actual()}; ${expected()}. Convert it: new Tensor('${spec.dtype}', data, dims).`;
  }
  const rank = spec.shape.length;
  if (value.dims.length !== rank) {
    return `${actual()}, ${dimensions(value.dims.length)}; ${expected()}, ${dimensions(rank)}.`;
  }
  for (let position = 0; position < rank; position++) {
    const axis = spec.shape[position]!;
    const size = value.dims[position]!;
    if (typeof axis === "number") {
      if (size !== axis) {
        return `${actual()}; ${expected()}: dimension ${position} must be ${axis}, not ${size}.`;
      }
      continue;
    }
    if (size === 0) return `${actual()}: axis ${quoted(axis)} is empty; it must be at least 1.`;
    const known = sizes.get(axis) ?? size;
    sizes.set(axis, known);
    if (known !== size) {
      return (
        `${actual()}, so axis ${quoted(axis)} is ${size}, but it is ${known} in the other inputs ` +
        `of this call; ${expected()}.`
      );
    }
  }
  return undefined;
}

function memory(spec: ArraySpec, value: ArrayLike): string | undefined {
  const problem = memoryProblem(value);
  if (!problem) return undefined;
  return `${quoted(spec.name)} is ${describe(value.type, value.dims)}, but ${problem}.`;
}

/** Checks the lengths of rows. Engines do not: with a wrong one they read beyond the data. */
function checkLengths(spec: ArraySpec, lengths: ArrayLike, longest: number): void {
  for (const length of lengths.data as Iterable<number | bigint>) {
    if (length >= 1 && length <= longest) continue;
    throw new InputError(
      `${quoted(spec.name)} holds the length ${length}; each row of this call must be 1 to ` +
        `${longest} long, the size of its axis ${quoted(spec.lengthsOf!)}. Leave out empty rows.`,
    );
  }
}
