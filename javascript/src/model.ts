// SPDX-License-Identifier: Apache-2.0
/** The model: one loaded network, `(inputs, state) -> (outputs, state)`. */

import type { Tensor } from "onnxruntime-common";
import { own } from "./arrays.js";
import type { ArraySpec, Contract, StateSpec } from "./contract.js";
import { type Engine, checkSame } from "./engine.js";
import { InputError, StateportError } from "./errors.js";
import { type State, adopt, arraysOf } from "./state.js";
import { Stream } from "./stream.js";
import { type Call, type Inputs, checkInputs, checkState, initialState } from "./validation.js";

/** The arrays that a call returned, by name. */
export type Outputs = Record<string, Tensor>;
/** The outputs of a call by name, and under `state` what the next call takes. */
export type Result = Outputs & { state: State };

/** One loaded network. A call returns the next state; the model itself does not change. */
export class Model {
  readonly #contract: Contract;
  readonly #engine: Engine;
  readonly #initial: ReadonlyMap<string, Tensor>;
  readonly #outputs: string[];
  #released: Promise<void> | undefined;
  readonly #running = new Set<Promise<unknown>>();

  /** Use `load`. */
  constructor(contract: Contract, engine: Engine, initial: ReadonlyMap<string, Tensor>) {
    this.#contract = contract;
    this.#engine = engine;
    this.#initial = initial;
    this.#outputs = [...contract.outputs.map((s) => s.name), ...contract.states.map((s) => s.output)];
  }

  /** What the file promises. */
  get contract(): Contract {
    return this.#contract;
  }

  /** The inputs that are not states. */
  get inputs(): readonly ArraySpec[] {
    return this.#contract.inputs;
  }

  /** The outputs that are not states. */
  get outputs(): readonly ArraySpec[] {
    return this.#contract.outputs;
  }

  /** The pairs of an input and an output that are states. */
  get states(): readonly StateSpec[] {
    return this.#contract.states;
  }

  /** "ort-node" or "ort-web". */
  get engine(): string {
    return this.#engine.name;
  }

  /** The engine's library and its version. */
  get engineVersion(): string {
    return this.#engine.version;
  }

  /**
   * Calls the network.
   *
   * @param inputs - tensors by name, with the dtypes and shapes of the contract.
   * @param state - the state to start from; by default the initial state of a sequence.
   * @returns the outputs by name, and the next state as `state`.
   */
  async run(inputs: Inputs, state?: State): Promise<Result> {
    if (this.#contract.outputs.some(({ name }) => name === "state")) {
      throw new InputError(
        "The network has an output 'state', the name under which run returns the next state. Use " +
          "call(inputs, state), which returns {outputs, state}.",
      );
    }
    const result = await this.call(inputs, state);
    return Object.assign(result.outputs, { state: result.state }) as Result;
  }

  /** As `run`, with the outputs apart from the state. */
  async call(inputs: Inputs, state?: State): Promise<{ outputs: Outputs; state: State }> {
    const call = checkInputs(this.#contract, inputs);
    if (state === undefined || state === null) {
      return this.#step(call, initialState(this.#contract, this.#initial, call.sizes));
    }
    checkState(this.#contract, state, call.sizes);
    return this.#step(call, state);
  }

  /** A new sequence that holds its state itself, and starts from the initial state. */
  stream(): Stream {
    return new Stream(this.#contract, this.#initial, (call, state) => this.#step(call, state));
  }

  /** Frees the network, as soon as the calls that run have ended. */
  dispose(): Promise<void> {
    this.#released ??= Promise.allSettled(this.#running).then(() => this.#engine.release());
    return this.#released;
  }

  async #step(call: Call, state: State): Promise<{ outputs: Outputs; state: State }> {
    if (this.#released) {
      throw new StateportError("The model was disposed of, so that it cannot run. Load it again.");
    }

    const arrays = arraysOf(state);
    const running = this.#engine.run(new Map([...call.arrays, ...arrays]), this.#outputs);
    this.#running.add(running);
    let results: Map<string, Tensor>;
    try {
      results = await running;
    } finally {
      this.#running.delete(running);
    }

    const next = new Map<string, Tensor>();
    for (const { input, output } of this.#contract.states) {
      const value = results.get(output) as Tensor;
      checkSame(this.#engine, output, value, arrays.get(input) as Tensor);
      next.set(input, value);
    }
    const outputs: Outputs = Object.create(null);
    for (const { name } of this.#contract.outputs) outputs[name] = own(results.get(name) as Tensor);
    const leftover = (call.sizes.get("time") ?? 0) % this.#contract.streaming.multiple;
    return { outputs, state: adopt(next, leftover) };
  }
}

export interface Model extends Disposable, AsyncDisposable {}

disposable(Model);
disposable(Stream);

/** `using` and `await using`, where the platform has them. */
function disposable(kind: { prototype: { dispose(): unknown } }): void {
  for (const symbol of [Symbol.dispose, Symbol.asyncDispose]) {
    if (symbol) Object.defineProperty(kind.prototype, symbol, { value: kind.prototype.dispose });
  }
}
