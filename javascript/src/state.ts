// SPDX-License-Identifier: Apache-2.0
/** The state: the named arrays that one call returns and the next one takes. */

import type { Tensor } from "onnxruntime-common";
import { bytesIn, copied, describe, isDtype, isTensor, sameShape } from "./arrays.js";
import { FileError, StateError } from "./errors.js";
import { readArrays, writeArrays } from "./safetensors.js";
import { kindOf, quoted } from "./text.js";

const NOTHING = {};
const FORMAT = { "stateport.state": "1" };

/** For this package alone: the arrays themselves, and a state of arrays that nobody else has. */
export let arraysOf: (state: State) => ReadonlyMap<string, Tensor>;
export let adopt: (arrays: Map<string, Tensor>, leftover?: number) => State;
export let checkCanGoOn: (state: State) => void;

/**
 * The state of a sequence, or of a batch of sequences. It never changes: arrays are copied when it
 * is made, and when they are asked for.
 */
export class State {
  #arrays: ReadonlyMap<string, Tensor>;
  /** The steps at the end of a call that are not in the state; a sequence cannot go on then. */
  #leftover = 0;

  static {
    arraysOf = (state) => state.#arrays;
    adopt = (arrays, leftover = 0) => {
      const state = new State(NOTHING);
      state.#arrays = arrays;
      state.#leftover = leftover;
      return state;
    };
    checkCanGoOn = (state) => state.#checkCanGoOn();
  }

  /** Makes a state of arrays by the names of the model's state inputs. */
  constructor(arrays: Readonly<Record<string, Tensor>>) {
    if (typeof arrays !== "object" || arrays === null || Array.isArray(arrays)) {
      throw new StateError(
        `The state is made of ${kindOf(arrays)}; an object of arrays by name was expected.`,
      );
    }
    this.#arrays = new Map(
      Object.entries(arrays).map(([name, array]) => [name, checkedCopy(name, array)]),
    );
  }

  /** The names of the arrays. */
  get names(): string[] {
    return [...this.#arrays.keys()];
  }

  /** A copy of an array; undefined where there is none of that name. */
  get(name: string): Tensor | undefined {
    const array = this.#arrays.get(name);
    return array && copied(array);
  }

  /** Whether names, dtypes, shapes and all bytes are equal. */
  equals(other: State): boolean {
    if (this.#arrays.size !== other.#arrays.size) return false;
    return [...this.#arrays].every(([name, array]) => sameBytes(array, other.#arrays.get(name)));
  }

  /** The content of the safetensors file that Python's `State.save` writes. */
  serialize(): Uint8Array {
    this.#checkCanGoOn();
    return writeArrays(this.#arrays, FORMAT);
  }

  /** Reads a state from what `serialize`, or Python's `State.save`, wrote. */
  static deserialize(content: Uint8Array | ArrayBuffer): State {
    if (!(content instanceof Uint8Array || content instanceof ArrayBuffer)) {
      throw new StateError(
        `The state is read from ${kindOf(content)}; the bytes that State.serialize returned were ` +
          "expected.",
      );
    }
    const bytes = content instanceof Uint8Array ? content : new Uint8Array(content);
    const [arrays, metadata] = readArrays(bytes, "The content");
    if (metadata["stateport.state"] !== "1") {
      throw new FileError(
        "The content holds no stateport state; State.save, Pool.save and `stateport run " +
          "--state-out` write such files.",
      );
    }
    return adopt(arrays);
  }

  toString(): string {
    const arrays = [...this.#arrays].map(([name, a]) => `${name}=${describe(a.type, a.dims)}`);
    return `State(${arrays.join(", ")})`;
  }

  #checkCanGoOn(): void {
    if (!this.#leftover) return;
    throw new StateError(
      `The call that returned this state left its last ${this.#leftover} steps out of it: their ` +
        "number is not a multiple of what the network takes at a time, so the sequence cannot go " +
        "on. Feed a multiple, and keep the rest for the next call.",
    );
  }
}

function checkedCopy(name: string, array: unknown): Tensor {
  if (!name) {
    throw new StateError(
      `A state is named ${quoted(name)}; the name of a model's input was expected.`,
    );
  }
  if (!isTensor(array)) {
    throw new StateError(`State ${quoted(name)} is ${kindOf(array)}; a Tensor was expected.`);
  }
  if (!isDtype(array.type)) {
    throw new StateError(
      `State ${quoted(name)} is a Tensor of ${array.type}; a Tensor of numbers was expected.`,
    );
  }
  try {
    return copied(array);
  } catch (error) {
    throw new StateError(`State ${quoted(name)} is no whole Tensor: ${(error as Error).message}.`);
  }
}

function sameBytes(array: Tensor, other: Tensor | undefined): boolean {
  if (!other || !sameShape(array, other)) return false;
  const bytes = bytesIn(other);
  return bytesIn(array).every((byte, i) => byte === bytes[i]);
}
