// SPDX-License-Identifier: Apache-2.0
/** What Python refuses is refused here, by an error of the same name with the same message. */

import { expect, test } from "vitest";
import { type Inputs, State, StateportError, load } from "../src/index.js";
import { type Filled, bytes, file, filled, json, tensors } from "./files.js";

interface Entry {
  readonly do: string;
  readonly file: string;
  readonly inputs?: Record<string, Filled>;
  readonly state?: Record<string, Filled>;
  readonly chunks?: Filled[];
  readonly then?: string;
  readonly error: string;
  readonly message: string;
}

const entries = json<Entry[]>("messages.json");

test("the table is long", () => {
  expect(entries.length).toBeGreaterThan(80);
});

test.each(entries.map((entry, i) => [i, entry.do, entry.file, entry] as const))(
  "%i: %s %s",
  async (_, __, ___, entry) => {
    const error = await refused(entry);
    expect(error).toBeInstanceOf(StateportError);
    const { name, message } = error as StateportError;
    expect(`${name}: ${message.replace(/ Convert it: .*/, "")}`).toBe(
      `${entry.error}: ${entry.message}`,
    );
  },
);

async function refused(entry: Entry): Promise<unknown> {
  try {
    await perform(entry);
  } catch (error) {
    return error;
  }
  return undefined;
}

async function perform(entry: Entry): Promise<void> {
  if (entry.do === "deserialize") return void State.deserialize(bytes(entry.file));
  if (entry.do === "load") return void (await load(file(entry.file)));

  const model = await load(file(`${entry.file}.onnx`));
  const inputs: Inputs = tensors(entry.inputs ?? {});
  const state = entry.state && new State(tensors(entry.state));
  if (entry.do === "run") {
    await model.run(inputs, state);
  } else if (entry.do === "leftover") {
    const { state: next } = await model.run(inputs);
    if (entry.then === "run") await model.run(inputs, next);
    next.serialize();
  } else {
    const stream = model.stream();
    if (entry.do === "unborn") stream.state;
    if (entry.do === "restore") stream.restore(state as State);
    for (const chunk of entry.chunks ?? []) await stream.push(filled(chunk));
  }
}
