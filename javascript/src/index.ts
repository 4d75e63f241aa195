// SPDX-License-Identifier: Apache-2.0
/** Runs the recurrent networks that `stateport export` wrote, with their state in your hands. */

export { Tensor } from "onnxruntime-common";

export type {
  ArraySpec,
  Axis,
  Contract,
  StateSpec,
  Streaming,
} from "./contract.ts";
export type { EngineOptions, Runtime } from "./engines.ts";
export {
  ContractError,
  EngineError,
  EngineUnavailable,
  FileError,
  InputError,
  StateError,
  StateportError,
  StreamingError,
} from "./errors.ts";
export { load, type Source } from "./load.ts";
export type { Answer, Model } from "./model.ts";
export { State } from "./state.ts";
export type { Stream } from "./stream.ts";
export type { ArrayLike } from "./tensor.ts";
