// SPDX-License-Identifier: Apache-2.0
/** Runs the recurrent networks that `stateport export` wrote, in Node and in the browser. */

export { Tensor } from "onnxruntime-common";
export type { Axis } from "./arrays.js";
export type { ArraySpec, Contract, StateSpec, Streaming } from "./contract.js";
export type { EngineName } from "./engine.js";
export {
  ContractError,
  EngineError,
  EngineUnavailable,
  FileError,
  InputError,
  StateError,
  StateportError,
  StreamingError,
} from "./errors.js";
export { type LoadOptions, load } from "./load.js";
export type { Model, Outputs, Result } from "./model.js";
export { State } from "./state.js";
export type { Stream } from "./stream.js";
export type { Inputs } from "./validation.js";
