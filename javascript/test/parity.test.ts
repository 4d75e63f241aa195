// SPDX-License-Identifier: Apache-2.0
/** The recorded cases give the recorded answers, and streams go from Python to Node and back. */

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Tensor } from "onnxruntime-common";
import { describe, expect, inject, test } from "vitest";
import { type Inputs, type Model, type Outputs, State, load } from "../src/index.js";
import { bytesIn, fromBytes, itemSize, product } from "../src/arrays.js";
import { type Described, type RecordedCase, arrays, bytes, file, json, numbers } from "./files.js";

const described = json<Record<string, Described>>("cases.json");
const repository = fileURLToPath(new URL("../..", import.meta.url));

describe.each(Object.entries(described))("%s", (_, { file: name, cases, handover }) => {
  test("the recorded answers", async () => {
    const model = await load(file(name));
    const recorded = arrays(name.replace(".onnx", ".cases"));
    for (const [number, recordedCase] of cases.entries()) {
      const answers = await runCase(model, recordedCase, recorded, number);
      for (const [output, values] of answers) {
        const worst = worstShare(values, recorded, `${number}`, output);
        expect(worst, `${recordedCase.name}: ${output}`).toBeLessThanOrEqual(1);
      }
    }
    await model.dispose();
  });

  test.runIf(handover)("a stream from Python to Node and back", async () => {
    const saved = bytes(name.replace(".onnx", ".state"));
    const state = State.deserialize(saved);
    expect(Buffer.compare(state.serialize(), saved)).toBe(0);

    const model = await load(file(name));
    const stream = model.stream();
    stream.restore(state);
    const outputs = await stream.run(part(name, "part1"));
    expectClose(outputs, part(name, "whole1"));

    writeFileSync(file("node.state"), stream.state.serialize());
    const paths = [name, "node.state", name.replace(".onnx", ".part2"), "node.answers"].map(file);
    execFileSync(inject("python"), ["-m", "tests.javascript.go_on", ...paths], { cwd: repository });
    expectClose(Object.fromEntries(arrays("node.answers")), part(name, "whole2"));
    expect(readFileSync(file("node.state")).length).toBe(saved.length);
  });
});

function part(name: string, kind: string): Inputs {
  return Object.fromEntries(arrays(name.replace(".onnx", `.${kind}`)));
}

function expectClose(actual: Outputs, expected: Inputs): void {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort());
  for (const [name, tensor] of Object.entries(expected)) {
    const answer = actual[name] as Tensor;
    expect([answer.type, ...answer.dims]).toEqual([tensor.type, ...tensor.dims]);
    const values = numbers(answer);
    const allowed = tensor.type === "float16" ? 0.01 : 1e-5;
    for (const [i, value] of numbers(tensor).entries()) {
      expect(Math.abs((values[i] as number) - value)).toBeLessThan(allowed * (1 + Math.abs(value)));
    }
  }
}

/** Runs the calls of a case, and returns all answers to each output one behind the other. */
async function runCase(
  model: Model,
  { calls, through, initial }: RecordedCase,
  recorded: ReadonlyMap<string, Tensor>,
  number: number,
): Promise<Map<string, number[]>> {
  const answers = new Map<string, number[]>();
  const record = (name: string, tensor: Tensor): void => {
    const all = answers.get(name) ?? [];
    for (const value of numbers(tensor)) all.push(value);
    answers.set(name, all);
  };
  const first = initial.map((name) => [name, recorded.get(`${number}/initial/${name}`)]);
  let state = initial.length ? new State(Object.fromEntries(first)) : undefined;
  const stream = through === "stream" ? model.stream() : undefined;
  if (state && stream) stream.restore(state);

  const at = new Map<string, number>();
  for (const call of calls) {
    const inputs = nextInputs(call, recorded, number, at);
    let outputs: Outputs;
    if (stream) [outputs, state] = [await stream.run(inputs), stream.state];
    else ({ outputs, state } = await model.call(inputs, state));
    for (const { name } of model.outputs) record(name, outputs[name] as Tensor);
    for (const { input, output } of model.states) record(output, state.get(input) as Tensor);
  }
  return answers;
}

function nextInputs(
  call: Readonly<Record<string, number[]>>,
  recorded: ReadonlyMap<string, Tensor>,
  number: number,
  at: Map<string, number>,
): Inputs {
  const inputs: Record<string, Tensor> = {};
  for (const [name, dims] of Object.entries(call)) {
    const all = recorded.get(`${number}/inputs/${name}`) as Tensor;
    const start = at.get(name) ?? 0;
    const end = start + product(dims) * itemSize(all.type);
    inputs[name] = fromBytes(all.type, dims, bytesIn(all).subarray(start, end));
    at.set(name, end);
  }
  return inputs;
}

/** The largest error as a share of what is allowed. */
function worstShare(
  values: readonly number[],
  recorded: ReadonlyMap<string, Tensor>,
  number: string,
  output: string,
): number {
  const of = (kind: string): number[] =>
    numbers(recorded.get(`${number}/${kind}/${output}`) as Tensor);
  const [index, truth, allowed] = [of("index"), of("truth"), of("allowed")];
  let worst = index.length ? 0 : Number.POSITIVE_INFINITY;
  for (const [i, position] of index.entries()) {
    const error = Math.abs((values[position] ?? Number.NaN) - (truth[i] as number));
    if (error === 0) continue;
    const share = error / (allowed[i] as number);
    worst = share <= worst ? worst : share;
    if (Number.isNaN(share)) return Number.POSITIVE_INFINITY;
  }
  return worst;
}
