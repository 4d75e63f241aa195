// SPDX-License-Identifier: Apache-2.0
/** The state: the named arrays that one call returns and the next one takes. */

import type { Tensor } from "onnxruntime-common";

import { FileError, StateError } from "./errors.ts";
import { read, write } from "./safetensors.ts";
import { type ArrayLike, copied, DTYPE_NAMES, isArray, kindOf, memoryProblem } from "./tensor.ts";
import { describe, quoted } from "./words.ts";

const FORMAT = { "stateport.state": "1" };

/** The arrays of a state, and the steps that it lacks, for the package alone. */
interface Content {
  arrays: ReadonlyMap<string, ArrayLike>;
  /** The steps at the end of a call that are not in the state. */
  leftover: number;
}

const CONTENTS = new WeakMap<State, Content>();

/**
 * The state of a sequence, or of a batch of sequences: arrays by the names of the model's state
 * inputs. It is a value: it copies what it is made of, gives out copies, and never changes.
 */
export class State {
  /** @throws StateError a name is no name, or a value no array. */
  constructor(arrays: Readonly<Record<string, ArrayLike>> | ReadonlyMap<string, ArrayLike>) {
    const entries = arrays instanceof Map ? arrays : new Map(Object.entries(arrays));
    const copies = new Map<string, Tensor>();
    for (const [name, array] of entries) {
      checkEntry(name, array);
      copies.set(name, copied(array));
    }
    CONTENTS.set(this, { arrays: copies, leftover: 0 });
  }

  /** The names of the arrays. */
  get names(): string[] {
    return [...contentOf(this).arrays.keys()];
  }

  /** A copy of one array; undefined where there is none of this name. */
  get(name: string): Tensor | undefined {
    const array = contentOf(this).arrays.get(name);
    return array && copied(array);
  }

  /** The names with copies of the arrays. */
  *[Symbol.iterator](): IterableIterator<[name: string, array: Tensor]> {
    for (const [name, array] of contentOf(this).arrays) yield [name, copied(array)];
  }

  /**
   * The state as the content of a safetensors file: the same bytes as Python's `State.save`.
   *
   * @throws StateError a sequence cannot go on from this state.
   */
  serialize(): Uint8Array {
    checkCanGoOn(this);
    return write(contentOf(this).arrays, FORMAT);
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
    const parts = [...contentOf(this).arrays].map(
      ([name, { type, dims }]) => `${name}=${describe(type, dims)}`,
    );
    return `State(${parts.join(", ")})`;
  }
}

/** A state of arrays that nobody else refers to, which are not copied. */
export function adopted(arrays: ReadonlyMap<string, ArrayLike>, leftover = 0): State {
  const state: State = Object.create(State.prototype);
  CONTENTS.set(state, { arrays, leftover });
  return state;
}

/** The arrays of a state, not copied: they must not be changed. */
export function arraysOf(state: State): ReadonlyMap<string, ArrayLike> {
  return contentOf(state).arrays;
}

/** Refuses a state that lacks the last steps of the call that returned it. */
export function checkCanGoOn(state: State): void {
  const { leftover } = contentOf(state);
  if (leftover) {
    throw new StateError(
      `The call that returned this state left its last ${leftover} steps out of it: their number ` +
        "is not a multiple of what the network takes at a time, so the sequence cannot go on. " +
        "Feed a multiple, and keep the rest for the next call.",
    );
  }
}

function contentOf(state: State): Content {
  return CONTENTS.get(state)!;
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
  const problem = DTYPE_NAMES.includes(array.type) ? memoryProblem(array) : "its dtype is none";
  if (problem) {
    throw new StateError(
      `State ${quoted(name)} is ${describe(array.type, array.dims)}, but ${problem}; an array of ` +
        "numbers was expected.",
    );
  }
}
