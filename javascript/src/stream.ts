// SPDX-License-Identifier: Apache-2.0
/** The stream: a sequence that is fed chunk by chunk and holds its state itself. */

import type { Tensor } from "onnxruntime-common";

import { type Contract, checkChunk, checkStreaming, stateInputs } from "./contract.ts";
import { InputError, StateError, StateportError } from "./errors.ts";
import type { Model } from "./model.ts";
import { arraysOf, type State } from "./state.ts";
import type { ArrayLike } from "./tensor.ts";
import {
  type Call,
  checkInputs,
  checkState,
  type Inputs,
  namedInputs,
  type Sizes,
} from "./validation.ts";
import { byCodePoint } from "./words.ts";

const disposeSymbol: typeof Symbol.dispose = Symbol.dispose ?? Symbol.for("Symbol.dispose");

/**
 * A sequence that is fed chunk by chunk. Calls are made in their order, one after the other: a
 * second call waits for the first. A call that fails leaves the state unchanged.
 */
export class Stream {
  readonly #model: Model;
  readonly #contract: Contract;
  #state: State | undefined;
  #sizes: ReadonlyMap<string, number> = new Map();
  #waiting = 0;
  #last: Promise<unknown> | undefined;
  #ended = false;

  /** @internal */
  constructor(model: Model) {
    checkStreaming(model.contract);
    this.#model = model;
    this.#contract = model.contract;
  }

  /**
   * Feeds the next chunk. The arrays are copied at once, so that their memory can be used again.
   *
   * @param x the chunk, or several inputs by name.
   * @returns the output, or several outputs by name.
   * @throws InputError the chunk does not fit the contract or the batch size of this sequence.
   * @throws EngineError the engine failed.
   */
  async push(x: ArrayLike | Inputs): Promise<Tensor & Record<string, Tensor>> {
    const outputs = await this.run(namedInputs(this.#contract, x, "push({name: array})"));
    const { outputs: specs } = this.#contract;
    return (specs.length === 1 ? outputs[specs[0]!.name] : outputs) as never;
  }

  /** Feeds the next chunk, with inputs and outputs by name; as `push`. */
  async run(inputs: Inputs): Promise<Record<string, Tensor>> {
    this.#checkAlive();
    const call = checkInputs(this.#contract, inputs);
    checkChunk(this.#contract, call.sizes);
    return this.#inOrder(() => this.#step(call));
  }

  /**
   * The state after the last call that has ended.
   *
   * @throws StateError the sequence has not begun, so that its batch size is not known yet.
   */
  get state(): State {
    if (!this.#state) {
      throw new StateError(
        "The stream has no state yet, because its batch size is not known. Feed the first chunk, " +
          "or call restore(state).",
      );
    }
    return this.#state;
  }

  /**
   * Continues from a state of this stream or of another one, after the calls that wait.
   *
   * @throws StateError the state does not fit the contract.
   */
  restore(state: State): void {
    this.#checkAlive();
    checkState(this.#contract, state, new Map());
    this.#change(() => this.#begin(state));
  }

  /** Discards the state, after the calls that wait: the next chunk begins a new sequence. */
  reset(): void {
    this.#checkAlive();
    this.#change(() => {
      this.#state = undefined;
      this.#sizes = new Map();
    });
  }

  /** Discards the state for good. Calls that wait still end. */
  dispose(): void {
    this.#ended = true;
    this.#change(() => {
      this.#state = undefined;
    });
  }

  [disposeSymbol](): void {
    this.dispose();
  }

  #checkAlive(): void {
    if (this.#ended) {
      throw new StateportError("The stream has been disposed of; make another: model.stream().");
    }
  }

  /** Does something when all calls before it have ended: at once, where there are none. */
  #inOrder<T>(work: () => T | Promise<T>): Promise<T> {
    const before = this.#waiting ? this.#last : undefined;
    this.#waiting++;
    const turn = this.#turn(before, work);
    this.#last = turn;
    return turn;
  }

  async #turn<T>(before: Promise<unknown> | undefined, work: () => T | Promise<T>): Promise<T> {
    try {
      if (before) await before.catch(() => undefined);
      return await work();
    } finally {
      this.#waiting--;
    }
  }

  /** Changes the state: at once, or after the calls that wait. */
  #change(work: () => void): void {
    if (this.#waiting) void this.#inOrder(work);
    else work();
  }

  async #step(call: Call): Promise<Record<string, Tensor>> {
    this.#checkSizes(call.sizes);
    const before = this.#state ?? this.#model.firstState(call.sizes);
    const { outputs, state } = await this.#model.checkedCall(call, before);
    this.#follow(state);
    return outputs;
  }

  #checkSizes(sizes: Sizes): void {
    for (const [axis, size] of this.#sizes) {
      const given = sizes.get(axis) ?? size;
      if (given !== size) {
        throw new InputError(
          `This chunk has ${axis} ${given}, but the stream carries the state of ${axis} ${size}. ` +
            "Call reset() first to begin a new sequence.",
        );
      }
    }
  }

  /** The state after a call, whose arrays have the same shapes as before. */
  #follow(state: State): void {
    if (this.#state) this.#state = state;
    else this.#begin(state);
  }

  #begin(state: State): void {
    const arrays = arraysOf(state);
    const sizes: Sizes = new Map();
    for (const { name, shape } of stateInputs(this.#contract)) {
      for (const [position, axis] of shape.entries()) {
        if (typeof axis === "string") sizes.set(axis, arrays.get(name)!.dims[position]!);
      }
    }
    this.#state = state;
    this.#sizes = new Map([...sizes].sort(([a], [b]) => byCodePoint(a, b)));
  }
}
