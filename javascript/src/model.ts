// SPDX-License-Identifier: Apache-2.0
/** The model: one loaded network, `(inputs, state) -> (outputs, state)`, which never changes. */

import type { Tensor } from "onnxruntime-common";

import { type ArraySpec, type Contract, type StateSpec, stateOutputs } from "./contract.ts";
import type { Engine } from "./engines.ts";
import { EngineError, StateportError } from "./errors.ts";
import { adopted, arraysOf, type State } from "./state.ts";
import { Stream } from "./stream.ts";
import { type ArrayLike, isAlike, own } from "./tensor.ts";
import {
  type Call,
  checkInputs,
  checkState,
  initialState,
  type Inputs,
  type Sizes,
} from "./validation.ts";
import { describe, quoted } from "./words.ts";

/** What one call returns. */
export interface Answer {
  outputs: Record<string, Tensor>;
  state: State;
}

const disposeSymbol: typeof Symbol.dispose = Symbol.dispose ?? Symbol.for("Symbol.dispose");
const asyncDisposeSymbol: typeof Symbol.asyncDispose =
  Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose");

/** One loaded network. Calls do not change it, and may overlap. Make one with `load`. */
export class Model {
  /** What the file promises. */
  readonly contract: Contract;
  readonly #engine: Engine;
  readonly #initial: ReadonlyMap<string, ArrayLike>;
  readonly #names: readonly string[];

  /** @internal */
  constructor(contract: Contract, engine: Engine, initial: ReadonlyMap<string, ArrayLike>) {
    this.contract = contract;
    this.#engine = engine;
    this.#initial = initial;
    this.#names = [...contract.outputs, ...stateOutputs(contract)].map((spec) => spec.name);
  }

  /** The inputs that are not states. */
  get inputs(): readonly ArraySpec[] {
    return this.contract.inputs;
  }

  /** The outputs that are not states. */
  get outputs(): readonly ArraySpec[] {
    return this.contract.outputs;
  }

  /** The pairs of an input and an output that are states. */
  get states(): readonly StateSpec[] {
    return this.contract.states;
  }

  /** The name of the engine that executes the graph: "ort-node" or "ort-web". */
  get engine(): string {
    return this.#engine.name;
  }

  /** The engine's library and its version. */
  get engineVersion(): string {
    return this.#engine.version;
  }

  /**
   * Calls the network: `const { y, state } = await model.run({ x }, before)`.
   *
   * @param inputs the inputs by name. They are copied at once, so that their memory can be used again.
   * @param state the state to start from; by default the initial state of a sequence.
   * @returns the outputs by name and, as `state`, the state after the last step.
   * @throws InputError an input does not fit the contract.
   * @throws StateError the state does not fit the contract or the inputs.
   * @throws EngineError the engine failed.
   */
  async run(
    inputs: Inputs,
    state?: State,
  ): Promise<Record<string, Tensor> & { state: State }> {
    if (this.outputs.some((spec) => spec.name === "state")) {
      throw new StateportError(
        "The network has an output 'state', which run would return under the name of its state. " +
          "Say const { outputs, state } = await model.call(inputs, state).",
      );
    }
    const answer = await this.call(inputs, state);
    return { ...answer.outputs, state: answer.state } as never;
  }

  /** As `run`, with the outputs in an object of their own. */
  async call(inputs: Inputs, state?: State): Promise<Answer> {
    const call = checkInputs(this.contract, inputs);
    if (state !== undefined && state !== null) checkState(this.contract, state, call.sizes);
    return this.checkedCall(call, state ?? this.firstState(call.sizes));
  }

  /**
   * A new sequence that holds its state itself.
   *
   * @throws StreamingError the contract says that this network cannot stream.
   */
  stream(): Stream {
    return new Stream(this);
  }

  /** Frees what the engine holds, once the calls that run have ended. */
  dispose(): Promise<void> {
    return this.#engine.dispose();
  }

  [disposeSymbol](): void {
    void this.dispose();
  }

  [asyncDisposeSymbol](): Promise<void> {
    return this.dispose();
  }

  /** @internal The initial state of a sequence. */
  firstState(sizes: Sizes): State {
    return initialState(this.contract, this.#initial, sizes);
  }

  /** @internal A call with inputs and a state that are checked. */
  async checkedCall({ arrays, sizes }: Call, state: State): Promise<Answer> {
    const before = arraysOf(state);
    const feeds: Record<string, ArrayLike> = Object.create(null);
    for (const [name, array] of arrays) feeds[name] = array;
    for (const [name, array] of before) feeds[name] = array;
    const results = await this.#engine.run(feeds, this.#names);

    const { outputs, states, streaming } = this.contract;
    const next = new Map<string, ArrayLike>();
    for (const { input, output } of states) {
      const value = this.#given(results, output);
      this.#checkAlike(output, value, before.get(input)!);
      next.set(input, value);
    }
    const leftover = (sizes.get("time") ?? 0) % streaming.chunkMultiple;
    const named: Record<string, Tensor> = Object.create(null);
    for (const { name } of outputs) named[name] = own(this.#given(results, name));
    return { outputs: named, state: adopted(next, leftover) };
  }

  #given(results: Readonly<Record<string, ArrayLike>>, name: string): ArrayLike {
    if (Object.hasOwn(results, name)) return results[name]!;
    throw new EngineError(`${this.engine} gave no ${name}; it was asked for.`);
  }

  /** Refuses a state of another dtype or shape than the one that went in. */
  #checkAlike(name: string, actual: ArrayLike, promised: ArrayLike): void {
    if (isAlike(actual, promised)) return;
    throw new EngineError(
      `${this.engine} gave ${describe(actual.type, actual.dims)} for ${quoted(name)}, where ` +
        `${describe(promised.type, promised.dims)} was promised.`,
    );
  }
}
