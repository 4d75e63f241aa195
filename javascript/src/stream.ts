// SPDX-License-Identifier: Apache-2.0
/** The stream: a sequence that is fed chunk by chunk and holds its state itself. */

import type { Tensor } from "onnxruntime-common";
import { isTensor } from "./arrays.js";
import { type Contract, checkChunk, checkStreaming } from "./contract.js";
import { InputError, StateError, StateportError } from "./errors.js";
import type { Outputs } from "./model.js";
import { State } from "./state.js";
import {
  type Call,
  type Inputs,
  checkInputs,
  checkState,
  initialState,
  namedInput,
  sizesOf,
} from "./validation.js";

type Step = (call: Call, state: State) => Promise<{ outputs: Outputs; state: State }>;

/**
 * A sequence that is fed chunk by chunk.
 *
 * Calls may be made without waiting for earlier ones: each starts when the one before has ended, in
 * the order in which they were made; so do `restore` and `reset`. A call that fails leaves the state
 * as it was.
 */
export class Stream {
  readonly #contract: Contract;
  readonly #initial: ReadonlyMap<string, Tensor>;
  readonly #step: Step;
  #state: State | undefined;
  #sizes = new Map<string, number>();
  #disposed = false;
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  /** Use `Model.stream`. */
  constructor(contract: Contract, initial: ReadonlyMap<string, Tensor>, step: Step) {
    checkStreaming(contract);
    this.#contract = contract;
    this.#initial = initial;
    this.#step = step;
  }

  /**
   * Feeds the next chunk, and returns its output, or several outputs by name.
   *
   * @param x - the only input, or several inputs by name.
   */
  async push<T = Tensor>(x: Tensor | Inputs): Promise<T> {
    const byName = !isTensor(x) && isPlainObject(x);
    const outputs = await this.run(byName ? (x as Inputs) : namedInput(this.#contract, x));
    const [only, ...others] = this.#contract.outputs;
    return (only && !others.length ? outputs[only.name] : outputs) as T;
  }

  /** Feeds the next chunk, with inputs and outputs by name. */
  async run(inputs: Inputs): Promise<Outputs> {
    this.#checkUsable();
    const call = checkInputs(this.#contract, inputs);
    checkChunk(this.#contract, call.sizes);
    return this.#inTurn(async () => {
      this.#checkSizes(call);
      const state = this.#state ?? initialState(this.#contract, this.#initial, call.sizes);
      const result = await this.#step(call, state);
      this.#become(result.state);
      return result.outputs;
    });
  }

  /** The state after the last call that has ended. */
  get state(): State {
    if (this.#state) return this.#state;
    throw new StateError(
      "The stream has no state yet, because its batch size is not known. Feed the first chunk, or " +
        "call restore(state).",
    );
  }

  /** Continues from a state of this stream or of another one. Its batch size may differ. */
  restore(state: State): void {
    this.#checkUsable();
    checkState(this.#contract, state, new Map());
    this.#change(() => this.#become(state));
  }

  /** Discards the state: the next chunk begins a new sequence, with any batch size. */
  reset(): void {
    this.#change(() => this.#become(undefined));
  }

  /** Frees the state. Calls that were made before still end. */
  dispose(): void {
    this.reset();
    this.#disposed = true;
  }

  #checkUsable(): void {
    if (this.#disposed) {
      throw new StateportError("The stream was disposed of. Make another one: model.stream().");
    }
  }

  /** Refuses a chunk of other axis sizes than those of the state. */
  #checkSizes({ sizes }: Call): void {
    for (const axis of [...this.#sizes.keys()].sort()) {
      const size = this.#sizes.get(axis);
      const came = sizes.get(axis) ?? size;
      if (came !== size) {
        throw new InputError(
          `This chunk has ${axis} ${came}, but the stream carries the state of ${axis} ${size}. ` +
            "Call reset() first to begin a new sequence.",
        );
      }
    }
  }

  #become(state: State | undefined): void {
    if (!state || !this.#state) this.#sizes = state ? sizesOf(this.#contract, state) : new Map();
    this.#state = state;
  }

  /** Changes the state at once, or after the calls that were made before. */
  #change(change: () => void): void {
    if (this.#waiting) void this.#inTurn(async () => change());
    else change();
  }

  #inTurn<T>(call: () => Promise<T>): Promise<T> {
    this.#waiting += 1;
    const turn = this.#last.then(call).finally(() => (this.#waiting -= 1));
    this.#last = turn.catch(() => undefined);
    return turn;
  }
}

export interface Stream extends Disposable {}

function isPlainObject(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
