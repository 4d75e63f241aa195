// SPDX-License-Identifier: Apache-2.0
/** What goes between a model and the worker in which it computes. */

import type { EngineOptions, Feeds } from "./engines.ts";

/** The first message: a file to open. `runtime` is the address of ONNX Runtime's module. */
export interface Opening {
  readonly file: string | Uint8Array;
  readonly source: string;
  readonly options: EngineOptions;
  readonly hasHalf: boolean;
  readonly runtime: string | undefined;
}

/** A call, whose answer has its number. */
export interface Asked {
  readonly number: number;
  readonly feeds: Feeds;
  readonly outputs: readonly string[];
}

/** An answer: the engine's name and version to the opening (number 0), outputs to a call. */
export interface Answered {
  readonly number: number;
  readonly value?: unknown;
  readonly error?: { readonly name: string; readonly message: string };
}
