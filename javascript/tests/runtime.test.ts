// Real networks in onnxruntime-node and, in Node as well, in onnxruntime-web's WebAssembly.

import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { afterAll, describe, expect, test } from "vitest";

import { contractOf } from "../src/contract.ts";
import { InputError, load, State, StateError, StateportError, Tensor } from "../src/index.ts";
import { readOutline } from "../src/outline.ts";
import { rows, sums } from "./sums.ts";

const FOLDER = mkdtempSync(join(tmpdir(), "stateport-"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

const numbers = (array: unknown) => Array.from((array as Tensor).data as Float32Array);

describe.each(["node", "web"] as const)("the engine %s", (engine) => {
  test("a call takes a state and returns the next one", async () => {
    await using model = await load(sums(), { engine });
    expect(model.engine).toBe(`ort-${engine}`);
    expect(model.engineVersion).toMatch(/^onnxruntime 1\.30/);
    expect(model.inputs.map((spec) => spec.name)).toEqual(["x"]);
    expect(model.outputs.map((spec) => spec.name)).toEqual(["y"]);
    expect(model.states.map((spec) => spec.input)).toEqual(["h0"]);
    expect(model.contract.streaming.ok).toBe(true);

    const first = await model.run({ x: rows(1, 2) });
    const { y, state } = await model.run({ x: rows(1, 2) }, first.state);
    expect(numbers(y)).toEqual([2, 4]);
    expect(numbers(state.get("h0"))).toEqual([2, 4]);
    expect(numbers(first.state.get("h0"))).toEqual([1, 2]);
  });

  test("a stream carries its state, and goes on from any", async () => {
    await using model = await load(sums(), { engine });
    const stream = model.stream();
    expect(() => stream.state).toThrow(StateError);
    expect(numbers(await stream.push(rows(1, 2)))).toEqual([1, 2]);
    const saved = stream.state;
    expect(numbers(await stream.push(rows(1, 2)))).toEqual([2, 4]);
    stream.restore(State.deserialize(saved.serialize()));
    expect(numbers(await stream.push(rows(1, 2)))).toEqual([2, 4]);
    stream.reset();
    expect(numbers(await stream.push(rows(5, 6, 7, 8)))).toEqual([5, 6, 7, 8]);
    await expect(stream.push(rows(1, 2))).rejects.toThrow("Call reset() first");
    stream.dispose();
    await expect(stream.push(rows(1, 2))).rejects.toThrow(StateportError);
  });

  test("calls of one stream queue, in order, and take their arrays at once", async () => {
    await using model = await load(sums(), { engine });
    const stream = model.stream();
    const x = rows(1, 1);
    const first = stream.push(x);
    (x.data as Float32Array).fill(10);
    const second = stream.push(x);
    const wrong = stream.push(rows(1, 2, 3, 4));
    stream.reset();
    const third = stream.push(x);
    await expect(wrong).rejects.toThrow("but the stream carries the state of batch 1");
    expect(numbers(await first)).toEqual([1, 1]);
    expect(numbers(await second)).toEqual([11, 11]);
    expect(numbers(await third)).toEqual([10, 10]);
  });

  test("calls of one model may overlap, and take their arrays at once", async () => {
    await using model = await load(sums(), { engine });
    const x = rows(1, 2);
    const calls = Array.from({ length: 6 }, (_, n) => {
      (x.data as Float32Array).fill(n);
      return model.run({ x });
    });
    const answers = await Promise.all(calls);
    expect(answers.map(({ y }) => numbers(y)[0])).toEqual([0, 1, 2, 3, 4, 5]);
    expect(answers[0]!.y).toBeInstanceOf(Tensor);
    expect(answers[0]!.state.equals(answers[1]!.state)).toBe(false);
    expect(answers[3]!.state.equals((await model.run({ x: rows(3, 3) })).state)).toBe(true);
  });

  test("streams of one model never see each other", async () => {
    await using model = await load(sums(), { engine });
    const streams = Array.from({ length: 8 }, () => model.stream());
    for (let step = 1; step <= 5; step++) {
      const answers = await Promise.all(streams.map((stream, n) => stream.push(rows(n, n))));
      expect(answers.map((y) => numbers(y)[0])).toEqual(streams.map((_, n) => step * n));
    }
  });

  test.each([
    ["float64", Float64Array.of(0.1, 1e300)],
    ["int32", Int32Array.of(-7, 2 ** 30)],
    ["int64", BigInt64Array.of(2n ** 53n + 1n, -1n)],
    ["float16", Uint16Array.of(0x3c00, 0x4200)],
  ] as const)("%s keeps every bit", async (dtype, data) => {
    await using model = await load(sums(dtype), { engine });
    const { y, state } = await model.run({ x: { type: dtype, dims: [1, 2], data } });
    expect(y!.type).toBe(dtype);
    expect(new Uint8Array((y!.data as Uint8Array).buffer)).toEqual(new Uint8Array(data.buffer));
    const again = State.deserialize(state.serialize()).get("h0")!;
    expect(again.data).toEqual(data);
  });

  test("a state may start from values in the file, repeated for each row", async () => {
    const initial = new Uint8Array(Float32Array.of(10, 20).buffer);
    await using model = await load(sums("float32", { initial }), { engine });
    const { y } = await model.run({ x: rows(1, 2, 3, 4) });
    expect(numbers(y)).toEqual([11, 22, 13, 24]);
  });

  test("what the engine refuses is an EngineError, and a disposed model says so", async () => {
    const broken = Buffer.from(sums());
    broken.write("Adx", broken.indexOf("Add"));
    await expect(load(broken, { engine })).rejects.toThrow(/^ONNX Runtime cannot load The content: /);

    const model = await load(sums(), { engine });
    const running = model.run({ x: rows(1, 2) });
    await model.dispose();
    await model.dispose();
    expect(numbers((await running).y)).toEqual([1, 2]);
    await expect(model.run({ x: rows(1, 2) })).rejects.toThrow("has been disposed of");
  });
});

test("a file is read from its path, its URL and a server", async () => {
  const path = join(FOLDER, "model.onnx");
  writeFileSync(path, sums());
  const server = createServer((request, response) => {
    response.statusCode = request.url === "/model.onnx" ? 200 : 404;
    response.end(sums());
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  for (const source of [path, pathToFileURL(path), `${base}/model.onnx`, new Uint8Array(sums()).buffer, `data:;base64,${Buffer.from(sums()).toString("base64")}`]) {
    using model = await load(source as string);
    expect(numbers((await model.run({ x: rows(1, 2) })).y)).toEqual([1, 2]);
  }
  await expect(load(`${base}/absent`, { engine: "node" })).rejects.toThrow(/could not be read: .*404/);
  const absent = join(FOLDER, "absent.onnx");
  await expect(load(absent, { engine: "node" })).rejects.toThrow(
    `${absent} could not be read: No such file or directory.`,
  );
  server.close();
});

test("a network that has an output called state has call in place of run", async () => {
  await using model = await load(sums("float32", { output: "state" }), { engine: "node" });
  await expect(model.run({ x: rows(1, 2) })).rejects.toThrow("model.call(inputs, state)");
  const { outputs, state } = await model.call({ x: rows(1, 2) });
  expect(numbers(outputs.state)).toEqual([1, 2]);
  expect(state).toBeInstanceOf(State);
});

test("a folder is no file", async () => {
  await expect(load(FOLDER)).rejects.toThrow(`${FOLDER} is a folder; an ONNX file was expected.`);
});

describe("weights in a file beside the model", () => {
  const folder = join(FOLDER, "beside");
  const path = join(folder, "model.onnx");
  const beside = { location: "w.bin", offset: "4", length: "8" };
  const written = (entries: Record<string, string>) => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(path, sums("float32", { beside: entries }));
    writeFileSync(join(folder, "w.bin"), new Uint8Array(Float32Array.of(0, 10, 20).buffer));
  };

  test("are read in Node from its path alone", async () => {
    written(beside);
    await using model = await load(path);
    expect(numbers((await model.run({ x: rows(1, 2) })).y)).toEqual([11, 22]);
    await expect(load(readFileSync(path))).rejects.toThrow("keeps weights in 'w.bin', which is not");
    await expect(load(path, { engine: "web" })).rejects.toThrow("session: {externalData:");
  });

  test.each(["node", "web"] as const)("are passed with the content: %s", async (engine) => {
    written(beside);
    const data = new Uint8Array(readFileSync(join(folder, "w.bin")));
    const session = { externalData: [{ path: "w.bin", data }] };
    await using model = await load(readFileSync(path), { engine, session });
    expect(numbers((await model.run({ x: rows(1, 2) })).y)).toEqual([11, 22]);
  });

  test("must be there, whole, and in the folder of the model", async () => {
    written({ ...beside, length: "16" });
    await expect(load(path)).rejects.toThrow("has 12 bytes where 20 are needed");
    written({ ...beside, location: "absent.bin" });
    await expect(load(path)).rejects.toThrow("'absent.bin', which is not there");
    writeFileSync(join(FOLDER, "w.bin"), new Uint8Array(12));
    for (const location of ["../w.bin", join(folder, "w.bin"), "link.bin"]) {
      written({ ...beside, location });
      rmSync(join(folder, "link.bin"), { force: true });
      symlinkSync(join(FOLDER, "w.bin"), join(folder, "link.bin"));
      await expect(load(path)).rejects.toThrow("lies outside its own folder");
    }
  });
});

test("a file that is cut off or changed gives one clear error", async () => {
  const whole = new Uint8Array(sums("float32", { initial: new Uint8Array(8) }));
  for (let end = 0; end < whole.length; end += 3) {
    await expect(load(whole.subarray(0, end))).rejects.toThrow(StateportError);
  }
  let seed = 1;
  const random = (below: number) => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  const outcomes = new Set<string>();
  for (let number = 0; number < 500; number++) {
    const broken = whole.slice();
    for (let times = 0; times < 3; times++) broken[random(whole.length)] = random(256);
    const error = await readOutline(broken, "It").then(contractOf).catch((reason: Error) => reason);
    outcomes.add(error instanceof Error ? error.name : "read");
  }
  expect([...outcomes].sort()).toEqual(["ContractError", "FileError", "read"]);
});

test("a file of too many parts is refused before it is read", async () => {
  const parts = new Uint8Array(400_000);
  for (let at = 0; at < parts.length; at += 2) parts.set([0x42, 0], at);
  await expect(load(parts)).rejects.toThrow("has more than 116666 parts, too many for its size");
});

test("wrong options and sources are refused", async () => {
  const file = sums();
  await expect(load(file, { thread: 2 } as object)).rejects.toThrow("Did you mean 'threads'?");
  await expect(load(file, { engine: "cuda" as "node" })).rejects.toThrow("no engine 'cuda'");
  await expect(load(file, { engine: "node", threads: 0 })).rejects.toThrow(InputError);
  await expect(load(3 as unknown as string, { engine: "node" })).rejects.toThrow("is a number");
});

test("arrays whose memory does not fit are refused", async () => {
  await using model = await load(sums(), { engine: "node" });
  const wrong = { type: "float32", dims: [1, 2], data: new Float32Array(3) };
  await expect(model.run({ x: wrong })).rejects.toThrow("its data have 12 bytes");
  const mixed = { type: "float32", dims: [1, 2], data: new Int32Array(2) };
  await expect(model.run({ x: mixed })).rejects.toThrow("its data are an Int32Array");
  expect(() => new State({ h0: wrong })).toThrow(StateError);
});

test("a state is a value", async () => {
  const x = rows(1, 2);
  const state = new State({ h0: x });
  (x.data as Float32Array).fill(9);
  (state.get("h0")!.data as Float32Array).fill(9);
  expect(numbers(state.get("h0"))).toEqual([1, 2]);
  expect([...state].map(([name]) => name)).toEqual(["h0"]);
  expect(String(state)).toBe("State(h0=float32[1, 2])");
});
