// SPDX-License-Identifier: Apache-2.0
/** The state: the named arrays that one call returns and the next one takes. */

import type { Tensor } from "onnxruntime-common";

import { FileError, StateError } from "./errors.ts";
import { read, write } from "./safetensors.ts";
import { type ArrayLike, bytesOf, copied, isAlike, isArray, isDtype, memoryProblem } from "./tensor.ts";
import { describe, kindOf, quoted } from "./words.ts";

const FORMAT = { "stateport.state": "1" };
const NOTHING: Arrays = new Map();

type Arrays = ReadonlyMap<string, ArrayLike>;

/** A state of arrays that nobody else refers to, which are not copied. */
export let adopted: (arrays: Arrays, leftover?: number) => State;
/** The arrays of a state, not copied: they must not be changed. */
export let arraysOf: (state: State) => Arrays;
/** Refuses a state that lacks the last steps of the call that returned it. */
export let checkCanGoOn: (state: State) => void;

/**
 * The state of a sequence, or of a batch of sequences: arrays by the names of the model's state
 * inputs. It is a value: it copies what it is made of, gives out copies, and never changes.
 */
export class State {
  #arrays: Arrays;
  /** The steps at the end of a call that are not in the state. */
  #leftover = 0;

  static {
    adopted = (arrays, leftover = 0) => {
      const state = new State(NOTHING);
      state.#arrays = arrays;
      state.#leftover = leftover;
      return state;
    };
    arraysOf = (state) => state.#arrays;
    checkCanGoOn = (state) => state.#checkCanGoOn();
  }

  /** @throws StateError a name is no name, or a value no array. */
  constructor(arrays: Readonly<Record<string, ArrayLike>> | Arrays) {
    if (arrays === NOTHING) {
      this.#arrays = NOTHING;
      return;
    }
    const entries = arrays instanceof Map ? arrays : new Map(Object.entries(arrays));
    const copies = new Map<string, Tensor>();
    for (const [name, array] of entries) {
      checkEntry(name, array);
      copies.set(name, copied(array));
    }
    this.#arrays = copies;
  }

  /** The names of the arrays. */
  get names(): string[] {
    return [...this.#arrays.keys()];
  }

  /** A copy of one array; undefined where there is none of this name. */
  get(name: string): Tensor | undefined {
    const array = this.#arrays.get(name);
    return array && copied(array);
  }

  /** The names with copies of the arrays. */
  *[Symbol.iterator](): IterableIterator<[name: string, array: Tensor]> {
    for (const [name, array] of this.#arrays) yield [name, copied(array)];
  }

  /** Whether names, dtypes, shapes and all bytes are equal. */
  equals(other: State): boolean {
    const [ours, theirs] = [this.#arrays, other.#arrays];
    return ours.size === theirs.size && [...ours].every(([name, array]) => {
      const same = theirs.get(name);
      return same !== undefined && isAlike(array, same) && hasBytes(array, bytesOf(same));
    });
  }

  /**
   * The state as the content of a safetensors file: the same bytes as Python's `State.save`.
   *
   * @throws StateError a sequence cannot go on from this state.
   */
  serialize(): Uint8Array {
    this.#checkCanGoOn();
    return write(this.#arrays, FORMAT);
  }

  /**
   * Reads a state that `serialize`, or Python's `State.save` or `to_bytes`, wrote.
   *
   * @throws FileError the bytes do not hold a state.
   */
  static deserialize(content: Uint8Array | ArrayBuffer): State {
    const bytes = content instanceof ArrayBuffer ? new Uint8Array(content) : content;
    if (!(bytes instanceof Uint8Array)) {
      throw new StateError(
        `The state is read from ${kindOf(bytes)}; the bytes that State.serialize returned were ` +
          "expected.",
      );
    }
    const { arrays, metadata } = read(bytes, "The content");
    if (metadata["stateport.state"] !== "1") {
      throw new FileError(
        "The content holds no stateport state; State.save, Pool.save and `stateport run " +
          "--state-out` write such files.",
      );
    }
    return adopted(arrays);
  }

  toString(): string {
    const parts = [...this.#arrays].map(
      ([name, { type, dims }]) => `${name}=${describe(type, dims)}`,
    );
    return `State(${parts.join(", ")})`;
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

function hasBytes(array: ArrayLike, bytes: Uint8Array): boolean {
  return bytesOf(array).every((byte, at) => byte === bytes[at]);
}

function checkEntry(name: unknown, array: unknown): void {
  if (typeof name !== "string" || !name) {
    throw new StateError(
      `A state is named ${typeof name === "string" ? quoted(name) : String(name)}; the name of a ` +
        "model's input was expected.",
    );
  }
  if (!isArray(array)) {
    throw new StateError(`State ${quoted(name)} is ${kindOf(array)}; a Tensor was expected.`);
  }
  const problem = isDtype(array.type) ? memoryProblem(array) : "its dtype is none";
  if (problem) {
    throw new StateError(
      `State ${quoted(name)} is ${describe(array.type, array.dims)}, but ${problem}; an array of ` +
        "numbers was expected.",
    );
  }
}
