// SPDX-License-Identifier: Apache-2.0
/** Checks arrays against a contract. Nothing is cast, reshaped or replaced silently. */

import type { Tensor } from "onnxruntime-common";
import { copied, describe, isTensor, makerOf, repeated, zeros } from "./arrays.js";
import { type ArraySpec, type Contract, checkLimits, specText, stateInputs } from "./contract.js";
import { InputError, StateError } from "./errors.js";
import { State, adopt, arraysOf, checkCanGoOn } from "./state.js";
import { didYouMean, kindOf, quoted } from "./text.js";

/** The arrays of a call by name. */
export type Inputs = Readonly<Record<string, Tensor>>;
export type Sizes = ReadonlyMap<string, number>;
type Refusal = new (message: string) => InputError;

/** The inputs of a call, checked and copied, and the sizes of the dynamic axes. */
export interface Call {
  readonly arrays: ReadonlyMap<string, Tensor>;
  readonly sizes: Sizes;
}

/** Checks every input. The copies make it harmless that a caller fills its arrays anew. */
export function checkInputs(contract: Contract, inputs: Inputs): Call {
  if (typeof inputs !== "object" || inputs === null || Array.isArray(inputs)) {
    throw new InputError(
      `The inputs are ${kindOf(inputs)}; an object of arrays by name was expected.`,
    );
  }
  checkNames(contract.inputs, Object.keys(inputs), "input", InputError);

  const sizes = new Map<string, number>();
  const arrays = new Map<string, Tensor>();
  for (const spec of contract.inputs) {
    const value: unknown = inputs[spec.name];
    checkArray(spec, value, sizes, InputError);
    arrays.set(spec.name, wholeCopy(spec, value as Tensor));
  }

  for (const spec of contract.inputs) {
    if (spec.lengthsOf !== undefined) {
      checkLengths(spec, arrays.get(spec.name) as Tensor, sizes.get(spec.lengthsOf) as number);
    }
  }
  checkLimits(contract, sizes);
  return { arrays, sizes };
}

/** Checks that a state fits the contract and a call with these axis sizes. */
export function checkState(contract: Contract, state: State, sizes: Sizes): void {
  if (!(state instanceof State)) {
    throw new StateError(
      `The state is ${kindOf(state)}; a stateport.State was expected. Pass the state that the last ` +
        "call returned, or new State({name: array}). Without a state, a call starts from the " +
        "initial state.",
    );
  }

  checkCanGoOn(state);
  const specs = stateInputs(contract);
  checkNames(specs, state.names, "state", StateError);
  const known = new Map(sizes);
  for (const spec of specs) checkArray(spec, arraysOf(state).get(spec.name), known, StateError);
}

/** The initial state of a sequence whose first call has these axis sizes. */
export function initialState(
  contract: Contract,
  stored: ReadonlyMap<string, Tensor>,
  sizes: Sizes,
): State {
  const specs = contract.states;
  const axes = specs.flatMap(({ shape }) => shape.filter((axis) => typeof axis === "string"));
  const unknown = axes.filter((axis) => !sizes.has(axis)).sort()[0];
  if (unknown !== undefined) {
    throw new StateError(
      `The initial state cannot be made: no input has the axis ${quoted(unknown)}, so that its ` +
        "size is not known. Pass a state.",
    );
  }

  const arrays = new Map<string, Tensor>();
  try {
    for (const { input, dtype, shape, initial } of specs) {
      const dims = shape.map((axis) =>
        typeof axis === "number" ? axis : (sizes.get(axis) as number),
      );
      const first = initial === "file" ? stored.get(input) : undefined;
      arrays.set(input, first ? repeated(first, dims) : zeros(dtype, dims));
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const text = [...sizes].sort().map((pair) => pair.join(" "));
    throw new StateError(
      `There is no memory for a state of ${text.join(", ")}: ${error.message}. Use a smaller batch.`,
    );
  }
  return adopt(arrays);
}

/** The sizes of the dynamic axes of a state. */
export function sizesOf(contract: Contract, state: State): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const { input, shape } of contract.states) {
    const dims = arraysOf(state).get(input)?.dims ?? [];
    shape.forEach((axis, i) => {
      if (typeof axis === "string") sizes.set(axis, dims[i] as number);
    });
  }
  return sizes;
}

/** The model's only input by its name. */
export function namedInput(contract: Contract, x: unknown): Inputs {
  const [only] = contract.inputs;
  if (contract.inputs.length !== 1 || !only) {
    const names = contract.inputs.map(specText).join(", ");
    throw new InputError(
      `The model takes ${contract.inputs.length} inputs (${names}); pass them by name: ` +
        "run({name: array}).",
    );
  }
  return { [only.name]: x as Tensor };
}

function checkNames(
  specs: readonly ArraySpec[],
  names: readonly string[],
  kind: string,
  Refused: Refusal,
): void {
  // Usually they are the same, in the same order.
  if (names.length === specs.length && specs.every(({ name }, i) => name === names[i])) return;

  const expected = new Set(specs.map(({ name }) => name));
  const actual = new Set(names);
  const arrays = specs.map(specText).join(", ") || `no ${kind} at all`;
  for (const name of [...actual].sort()) {
    if (expected.has(name)) continue;
    throw new Refused(
      `There is no ${kind} ${quoted(name)}; the model takes ${arrays}.` +
        didYouMean(name, expected),
    );
  }
  for (const name of [...expected].sort()) {
    if (actual.has(name)) continue;
    throw new Refused(`The ${kind} ${quoted(name)} is missing; the model takes ${arrays}.`);
  }
}

function checkArray(
  spec: ArraySpec,
  value: unknown,
  sizes: Map<string, number>,
  Refused: Refusal,
): void {
  if (!isTensor(value)) {
    const advice = Array.isArray(value) || ArrayBuffer.isView(value) ? ` ${construction(spec)}` : "";
    throw new Refused(
      `${quoted(spec.name)} is ${kindOf(value)}; a Tensor ${describe(spec.dtype, spec.shape)} was ` +
        `expected.${advice}`,
    );
  }
  const problem = findProblem(spec, value, sizes);
  if (problem) throw new Refused(problem);
}

/** The message for an array of a wrong dtype or shape. Sizes of axes are added to `sizes`. */
function findProblem(
  spec: ArraySpec,
  value: Tensor,
  sizes: Map<string, number>,
): string | undefined {
  const actual = (): string => `${quoted(spec.name)} is ${describe(value.type, value.dims)}`;
  const expected = (): string => `the model takes ${describe(spec.dtype, spec.shape)}`;
  if (value.type !== spec.dtype) {
    return `${actual()}; ${expected()}. ${conversion(spec, value.type)}`;
  }

  const rank = spec.shape.length;
  if (value.dims.length !== rank) {
    const came = value.dims.length;
    return `${actual()}, ${came} dimensions; ${expected()}, ${rank} dimensions.`;
  }

  for (const [position, axis] of spec.shape.entries()) {
    const size = value.dims[position] as number;
    if (typeof axis === "number") {
      if (size === axis) continue;
      return `${actual()}; ${expected()}: dimension ${position} must be ${axis}, not ${size}.`;
    }
    if (size === 0) return `${actual()}: axis ${quoted(axis)} is empty; it must be at least 1.`;

    const known = sizes.get(axis) ?? size;
    if (known !== size) {
      return (
        `${actual()}, so axis ${quoted(axis)} is ${size}, but it is ${known} in the other inputs ` +
        `of this call; ${expected()}.`
      );
    }
    sizes.set(axis, size);
  }
  return undefined;
}

/** How a tensor of another dtype is converted. */
function conversion({ name, dtype }: ArraySpec, from: string): string {
  const is64 = (type: string): boolean => type.endsWith("int64");
  const cast = is64(dtype) ? ", BigInt" : is64(from) ? ", Number" : "";
  const data = `${makerOf(dtype).name}.from(${name}.data${cast})`;
  return `Convert it: new Tensor(${quoted(dtype)}, ${data}, ${name}.dims).`;
}

function construction({ dtype }: ArraySpec): string {
  return `Convert it: new Tensor(${quoted(dtype)}, x, [sizes]).`;
}

function wholeCopy({ name }: ArraySpec, value: Tensor): Tensor {
  try {
    return copied(value);
  } catch (error) {
    throw new InputError(`${quoted(name)} is no whole Tensor: ${(error as Error).message}.`);
  }
}

/** Checks the lengths of rows. Engines do not: with a wrong one they read beyond the data. */
function checkLengths(spec: ArraySpec, lengths: Tensor, longest: number): void {
  for (const length of lengths.data as Iterable<number | bigint>) {
    if (length >= 1 && length <= longest) continue;
    throw new InputError(
      `${quoted(spec.name)} holds the length ${length}; each row of this call must be 1 to ` +
        `${longest} long, the size of its axis ${quoted(spec.lengthsOf as string)}. Leave out ` +
        "empty rows.",
    );
  }
}
