// SPDX-License-Identifier: Apache-2.0
/** Models, streams and states by themselves. */

import { readFileSync } from "node:fs";
import { Tensor } from "onnxruntime-common";
import { beforeAll, expect, test } from "vitest";
import { InputError, type Model, State, StateportError, load } from "../src/index.js";
import { DTYPE_ORDER } from "../src/arrays.js";
import { bytes, file, filled, numbers } from "./files.js";

let model: Model;
const chunk = (...dims: number[]): Tensor => {
  const values = Array.from({ length: dims.reduce((a, b) => a * b) }, (_, i) => Math.sin(i));
  return new Tensor("float32", Float32Array.from(values), dims);
};

beforeAll(async () => {
  model = await load(file("reference.onnx"));
});

test("the contract", () => {
  expect(model.inputs.map(({ name }) => name)).toEqual(["x"]);
  expect(model.outputs.map(({ name }) => name)).toEqual(["y"]);
  expect(model.states.map(({ input, output }) => [input, output])).toEqual([
    ["h0", "hn"],
    ["c0", "cn"],
  ]);
  expect(model.engine).toBe("ort-node");
  expect(model.engineVersion).toMatch(/^onnxruntime-node \d/);
});

test.each([
  ["a Buffer", () => readFileSync(file("learned.onnx"))],
  ["bytes", () => bytes("learned.onnx")],
  ["an ArrayBuffer", () => bytes("learned.onnx").buffer as ArrayBuffer],
  ["a URL", () => new URL(`file://${file("learned.onnx")}`)],
  ["a data URL", () => `data:;base64,${readFileSync(file("learned.onnx")).toString("base64")}`],
])("%s gives what the path gives", async (_, content) => {
  const x = chunk(2, 3, 5);
  const expected = await (await load(file("learned.onnx"))).run({ x });
  const actual = await (await load(content())).run({ x });
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  expect(actual.state.equals(expected.state)).toBe(true);
});

test("chunks give what the whole sequence gives", async () => {
  const x = chunk(1, 6, 5);
  const whole = await model.run({ x });
  const stream = model.stream();
  const values: number[] = [];
  for (let t = 0; t < 6; t++) {
    const step = new Tensor("float32", (x.data as Float32Array).slice(5 * t, 5 * t + 5), [1, 1, 5]);
    values.push(...numbers(await stream.push(step)));
  }
  for (const [i, value] of numbers(whole.y as Tensor).entries()) {
    expect(values[i]).toBeCloseTo(value, 5);
  }
  const { state } = await model.run({ x }, whole.state);
  expect(numbers(state.get("h0") as Tensor)).not.toEqual(numbers(stream.state.get("h0") as Tensor));
});

test("calls that nobody waits for run in order, on the arrays as they were", async () => {
  const inOrder = model.stream();
  const expected: number[][] = [];
  for (let i = 0; i < 20; i++) {
    expected.push(numbers(await inOrder.push(filled({ dtype: "float32", shape: [1, 1, 5], value: i }))));
  }

  const stream = model.stream();
  const shared = filled({ dtype: "float32", shape: [1, 1, 5], value: 0 });
  const calls = expected.map((_, i) => {
    (shared.data as Float32Array).fill(i);
    return stream.push(shared);
  });
  stream.reset();
  const again = stream.push(filled({ dtype: "float32", shape: [3, 1, 5], value: 0 }));
  expect((await Promise.all(calls)).map(numbers)).toEqual(expected);
  expect((await again).dims).toEqual([3, 1, 10]);
});

test("a call that fails leaves the state as it was, and the next one runs", async () => {
  const stream = model.stream();
  await stream.push(chunk(1, 2, 5));
  const before = stream.state;
  const wrong = stream.push(chunk(2, 2, 5));
  const right = stream.push(chunk(1, 2, 5));
  await expect(wrong).rejects.toThrow(InputError);
  await right;
  stream.restore(before);
  expect(stream.state.equals(before)).toBe(true);
});

test("a state never changes", async () => {
  const h0 = chunk(1, 1, 10);
  const state = new State({ h0, c0: chunk(1, 1, 10) });
  const saved = state.serialize();
  (h0.data as Float32Array).fill(7);
  ((state.get("h0") as Tensor).data as Float32Array).fill(7);
  await model.run({ x: chunk(1, 2, 5) }, state);
  expect(state.serialize()).toEqual(saved);
  expect(state.equals(State.deserialize(saved))).toBe(true);
});

test("all dtypes have the bytes and the order that safetensors writes in Python", () => {
  const arrays = DTYPE_ORDER.map((dtype, i) => [
    `${i % 3}${dtype}`,
    filled({ dtype, shape: [2, i % 3], value: 1 }),
  ]);
  const state = new State({ ...Object.fromEntries(arrays), s: new Tensor("float32", [3], []) });
  const python = bytes("dtypes.safetensors");
  expect(Buffer.compare(state.serialize(), python)).toBe(0);
  expect(State.deserialize(python).serialize()).toEqual(python);
});

test("int64, bool, uint8 and float64 go through unchanged", async () => {
  const carrying = await load(file("carrying.onnx"));
  const big = 2n ** 62n + 1n;
  const inputs = {
    "in int64": new Tensor("int64", BigInt64Array.of(big, -big), [2]),
    "in int32": new Tensor("int32", Int32Array.of(-5, 5), [2]),
    "in bool": new Tensor("bool", Uint8Array.of(1, 0), [2]),
    "in uint8": new Tensor("uint8", Uint8Array.of(255, 0), [2]),
    "in float64": new Tensor("float64", Float64Array.of(1e300, Number.NaN), [2]),
    "in float16": new Tensor("float16", Uint16Array.of(0x3c00, 0x7e00), [2]),
  };
  const { outputs, state } = await carrying.call(inputs);
  expect(outputs["out bool"]).toBeInstanceOf(Tensor);
  for (const [name, { type, data }] of Object.entries(inputs)) {
    const output = outputs[name.replace("in", "out")] as Tensor;
    expect([output.type, output.data]).toEqual([type, data]);
  }
  const next = await carrying.call(inputs, state);
  expect(next.state.equals(state)).toBe(true);
});

test("a network with an output named state has call alone", async () => {
  const named = await load(file("named-state.onnx"));
  const x = chunk(1, 2, 5);
  await expect(named.run({ x })).rejects.toThrow("Use call(inputs, state)");
  const { outputs, state } = await named.call({ x });
  expect(outputs.state?.dims).toEqual([1, 2, 5]);
  expect(state.names).toEqual(["h0", "c0"]);
});

test("a file without a contract is refused", async () => {
  await expect(load(file("silent.onnx"))).rejects.toThrow("carries no contract");
});

test("every cut of a file is refused with one clear error", async () => {
  const whole = bytes("learned.onnx");
  for (let end = 0; end < whole.length; end += 37) {
    await expect(load(whole.subarray(0, end))).rejects.toThrow(StateportError);
  }
});

test("a file with wrong bytes is taken or refused, and nothing else", async () => {
  const whole = bytes("learned.onnx");
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  for (let i = 0; i < 300; i++) {
    const broken = whole.slice();
    for (let k = 0; k < 3; k++) broken[random(whole.length)] = random(256);
    const error = await load(broken, { threads: 0 }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(StateportError);
  }
});

test("options are checked", async () => {
  const path = file("reference.onnx");
  await expect(load(path, { thread: 2 } as object)).rejects.toThrow("Did you mean 'threads'?");
  await expect(load(path, { threads: 0 })).rejects.toThrow("threads is 0; a whole number");
  await expect(load(path, { engine: "gpu" as "node" })).rejects.toThrow("There is no engine 'gpu'");
  await expect(load(3 as unknown as string)).rejects.toThrow("The model is a number");
});

test("a model and a stream that were disposed of refuse calls", async () => {
  const short = await load(file("reference.onnx"));
  const stream = short.stream();
  const running = short.run({ x: chunk(1, 2, 5) });
  await short.dispose();
  await running;
  await expect(short.run({ x: chunk(1, 2, 5) })).rejects.toThrow("was disposed of");
  await expect(stream.push(chunk(1, 2, 5))).rejects.toThrow("was disposed of");
  stream.dispose();
  await expect(stream.push(chunk(1, 2, 5))).rejects.toThrow("The stream was disposed of");
  expect(typeof short[Symbol.dispose]).toBe("function");
  await short[Symbol.asyncDispose]();
});

test("the engine for the browser gives the same in Node", async () => {
  const web = await load(bytes("reference.onnx"), { engine: "web" });
  const x = chunk(2, 4, 5);
  const [ours, theirs] = [await web.run({ x }), await model.run({ x })];
  for (const [i, value] of numbers(theirs.y as Tensor).entries()) {
    expect(numbers(ours.y as Tensor)[i]).toBeCloseTo(value, 5);
  }
  const both = await Promise.all([web.run({ x }), web.run({ x })]);
  expect(both[0].state.equals(both[1].state)).toBe(true);
  await web.dispose();
});

test("the README's lines run", async () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const [, code = ""] = /```javascript\n(.*?)```/s.exec(readme) ?? [];
  expect(code.split("\n").filter(Boolean).length).toBeLessThanOrEqual(10);
  const [first = "", ...lines] = code.split("\n");
  expect(first).toBe('import { State, Tensor, load } from "stateport";');

  const shown: unknown[] = [];
  const AsyncFunction = (async () => undefined).constructor as FunctionConstructor;
  const run = new AsyncFunction("State", "Tensor", "load", "console", lines.join("\n"));
  const ours = (path: string) => load(file(path.replace("model", "reference")));
  await run(State, Tensor, ours, { log: (value: unknown) => shown.push(value) });
  expect(shown).toEqual([[1, 16, 10]]);
});
