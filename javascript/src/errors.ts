// SPDX-License-Identifier: Apache-2.0
/** The errors, in one tree: those of the Python package, with the same words. */

import { printable } from "./words.ts";

/** The longest message, in characters. An engine may quote any part of a file. */
const LONGEST = 4000;
const LONGEST_QUOTE = 600;

/** Base of all errors that stateport throws on purpose. */
export class StateportError extends Error {
  override name = "StateportError";

  constructor(message: string, options?: ErrorOptions) {
    super(printable(shortened(message, LONGEST)), options);
  }
}

/** A file cannot be read, or has the wrong format. */
export class FileError extends StateportError {
  override name = "FileError";
}

/** The contract of a file is missing, malformed, or contradicts its graph. */
export class ContractError extends StateportError {
  override name = "ContractError";
}

/** An input does not fit the contract. */
export class InputError extends StateportError {
  override name = "InputError";
}

/** A state does not fit the contract, or this call. */
export class StateError extends InputError {
  override name = "StateError";
}

/** The network cannot be run chunk by chunk. */
export class StreamingError extends StateportError {
  override name = "StreamingError";
}

/** The engine could not load or run the graph. */
export class EngineError extends StateportError {
  override name = "EngineError";
}

/** The engine is not installed, or does not work here. */
export class EngineUnavailable extends EngineError {
  override name = "EngineUnavailable";
}

/** The message of a value that other code threw, on one line. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return shortened(text.trim().replace(/\s+/g, " "), LONGEST_QUOTE);
}

function shortened(text: string, longest: number): string {
  const rest = text.length - longest;
  if (rest <= 0) return text;
  return `${text.slice(0, longest)}... and ${rest.toLocaleString("en")} characters more`;
}
