// The messages for wrong inputs, states and files are those of Python: one table, checked from both
// sides. tests/javascript/messages.py writes it.

import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { type Contract, contractOf, parseContract } from "../src/contract.ts";
import type { Engine } from "../src/engines.ts";
import { Model } from "../src/model.ts";
import { readOutline } from "../src/outline.ts";
import { State } from "../src/state.ts";
import { type ArrayLike, zeros } from "../src/tensor.ts";

interface Call {
  name: string;
  contract: string;
  call: string;
  given: any;
  state: any;
  error: string;
  message: string;
  javascript?: string;
}

const TABLE = JSON.parse(
  readFileSync(new URL("../../tests/javascript/messages.json", import.meta.url), "utf8"),
);

/** An engine that returns zeros, and each state as it came. */
function fakeEngine(contract: Contract): Engine {
  return {
    name: "zeros",
    version: "zeros 1",
    run: async (feeds) => {
      const states = contract.states.map((spec) => [spec.output, feeds[spec.input]!]);
      const outputs = contract.outputs.map((spec) => [spec.name, zeros(spec.dtype, [])]);
      return Object.fromEntries([...states, ...outputs]);
    },
    dispose: async () => {},
  };
}

/** An array of the table, or arrays by name. */
function read(entry: any): any {
  if (typeof entry !== "object" || entry === null) return entry;
  if (!("dtype" in entry)) {
    return Object.fromEntries(Object.entries(entry).map(([name, part]) => [name, read(part)]));
  }
  const array = zeros(entry.dtype, entry.shape);
  const { data } = array as unknown as { data: any };
  const isBig = data instanceof BigInt64Array || data instanceof BigUint64Array;
  // 1 as float16
  const fill = entry.dtype === "float16" && entry.fill ? 0x3c00 : entry.fill;
  data.fill(isBig ? BigInt(fill) : fill);
  return array satisfies ArrayLike;
}

async function refusal(work: () => unknown): Promise<Error> {
  try {
    await work();
  } catch (error) {
    return error as Error;
  }
  throw new Error("it is not refused");
}

async function call({ contract: name, call, given, state }: Call): Promise<unknown> {
  const contract = parseContract(JSON.stringify(TABLE.contracts[name]));
  const model = new Model(contract, fakeEngine(contract), new Map());
  if (call === "run") {
    return model.run(read(given), state === null ? undefined : new State(read(state)));
  }
  if (call === "go on" || call === "save") {
    const { state: unfinished } = await model.run(read(given));
    return call === "save" ? unfinished.serialize() : model.run(read(given), unfinished);
  }
  const stream = model.stream();
  if (call === "state") return stream.state;
  if (call === "restore") {
    return stream.restore(typeof given === "object" ? new State(read(given)) : given);
  }
  for (const chunk of call === "push again" ? given : [given]) await stream.push(read(chunk));
  return undefined;
}

describe("wrong inputs and states", () => {
  test.each(TABLE.calls as Call[])("$name", async (entry) => {
    const error = await refusal(() => call(entry));
    expect(error.name).toBe(entry.error);
    expect(error.message).toBe(entry.javascript ?? entry.message);
  });
});

interface Refused {
  name: string;
  hex: string;
  text: string;
  by_hand: boolean;
  error: string;
  message: string;
}

const bytes = (hex: string): Uint8Array => Buffer.from(hex, "hex");

describe("wrong files", () => {
  test.each(TABLE.files as Refused[])("$name", async ({ hex, error: name, message }) => {
    const error = await refusal(async () => contractOf(await readOutline(bytes(hex), "m.onnx")));
    expect(`${error.name}: ${error.message}`).toBe(`${name}: ${message}`);
  });
});

describe("wrong contracts", () => {
  test.each(TABLE["broken contracts"] as Refused[])("$name", async (entry) => {
    const outline = await readOutline(bytes(TABLE.graph), "m.onnx");
    const metadata = new Map([["stateport.contract", entry.text]]);
    const error = await refusal(() => contractOf({ ...outline, metadata }));
    expect(error.name).toBe(entry.error);
    if (!entry.by_hand) expect(error.message).toBe(entry.message);
    else expect(error.message).toMatch(/^The contract is malformed: .* Export the network again\.$/);
  });
});

describe("what is no saved state", () => {
  test.each(TABLE["broken states"] as Refused[])("$name", async ({ hex, error: name, message }) => {
    const error = await refusal(() => State.deserialize(bytes(hex)));
    expect(`${error.name}: ${error.message}`).toBe(`${name}: ${message}`);
  });
});

describe("saved states have the same bytes", () => {
  test.each(TABLE.states as Array<{ arrays: object; hex: string }>)("$arrays", (entry) => {
    const state = new State(read(entry.arrays));
    expect(Buffer.from(state.serialize()).toString("hex")).toBe(entry.hex);

    const again = State.deserialize(Buffer.from(entry.hex, "hex"));
    expect(again.names.sort()).toEqual(Object.keys(entry.arrays).sort());
    expect(Buffer.from(again.serialize()).toString("hex")).toBe(entry.hex);
  });
});

test("a saved state that is cut off or changed is refused, or is another state", async () => {
  const content = Buffer.from(TABLE.states[0].hex, "hex");
  for (let end = 0; end < content.length; end++) {
    const error = await refusal(() => State.deserialize(content.subarray(0, end)));
    expect(error.name).toBe("FileError");
  }
  for (let at = 0; at < content.length; at++) {
    const changed = Buffer.from(content);
    changed[at]! ^= 0xff;
    try {
      State.deserialize(changed);
    } catch (error) {
      expect((error as Error).name).toBe("FileError");
    }
  }
});

test("a file that is cut off or changed gives one clear error, or is read", async () => {
  const content = Buffer.from(TABLE["late file"], "hex");
  for (let at = 0; at < content.length; at++) {
    const changed = Buffer.from(content);
    changed[at]! ^= 0xff;
    for (const bytes of [changed, content.subarray(0, at)]) {
      const error = await refusal(async () => contractOf(await readOutline(bytes, "m.onnx")));
      expect(["FileError", "ContractError"]).toContain(error.name);
    }
  }
});
