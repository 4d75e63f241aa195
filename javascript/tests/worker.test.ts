// Models in a worker, as the package is built: `make javascript` builds it before the tests.

import { setTimeout as later } from "node:timers/promises";

import { describe, expect, test } from "vitest";

import type * as Package from "../src/index.ts";
import { rows, sums } from "./sums.ts";

const built = "../dist/index.js";
const { EngineError, InputError, load, StateportError } = (await import(built)) as typeof Package;

const numbers = (array: unknown) => Array.from((array as Package.Tensor).data as Float32Array);

describe.each(["node", "web"] as const)("the engine %s in a worker", (engine) => {
  test("calls and streams are as without one", async () => {
    await using model = await load(sums(), { engine, worker: true });
    expect(model.engine).toBe(`ort-${engine}`);
    expect(model.engineVersion).toMatch(/^onnxruntime 1\.30/);
    const first = await model.run({ x: rows(1, 2) });
    const { y, state } = await model.run({ x: rows(1, 2) }, first.state);
    expect(numbers(y)).toEqual([2, 4]);
    expect(numbers(state.get("h0"))).toEqual([2, 4]);
    expect(numbers(first.state.get("h0"))).toEqual([1, 2]);

    const stream = model.stream();
    const answers = await Promise.all([stream.push(rows(1, 2)), stream.push(rows(3, 4))]);
    expect(answers.map(numbers)).toEqual([[1, 2], [4, 6]]);
    expect(() => model.stream().state).toThrow("Feed the first chunk");
    await expect(stream.push(rows(1, 2, 3, 4))).rejects.toThrow(InputError);
  });

  test("calls that wait end before the model does", async () => {
    const model = await load(sums(), { engine, worker: true });
    const call = model.run({ x: rows(1, 2) });
    const end = model.dispose();
    expect(numbers((await call).y)).toEqual([1, 2]);
    await end;
    await model.dispose();
    await expect(model.run({ x: rows(1, 2) })).rejects.toThrow(StateportError);
    await expect(model.run({ x: rows(1, 2) })).rejects.toThrow("load it again to call it");
  });

  test("what ONNX Runtime refuses is said as without a worker", async () => {
    const broken = Buffer.from(sums()).toString("latin1").replace("Add", "Adx");
    const content = new Uint8Array(Buffer.from(broken, "latin1"));
    const said = async (worker: boolean) => load(content, { engine, worker }).catch((error) => error);
    const [here, there] = [await said(false), await said(true)];
    expect(there).toBeInstanceOf(EngineError);
    expect(there.message).toBe(here.message);
  });
});

test("what cannot go into a worker is refused", async () => {
  const runtime = await import("onnxruntime-node");
  await expect(load(sums(), { worker: true, runtime })).rejects.toThrow("leave out runtime");
  const session = { extra: { f: () => 1 } };
  await expect(load(sums(), { worker: true, session })).rejects.toThrow("Leave it out, or worker");
  const worker = 1 as unknown as boolean;
  await expect(load(sums(), { worker })).rejects.toThrow("worker is 1; true or false was expected");
});

test("the thread of the caller goes on", async () => {
  await using model = await load(sums(), { worker: true });
  let isDone = false;
  const x = { type: "float32", dims: [1_000_000, 2], data: new Float32Array(2_000_000) };
  const call = model.run({ x }).then(() => {
    isDone = true;
  });
  await later(0);
  expect(isDone).toBe(false);
  await call;
});
