// SPDX-License-Identifier: Apache-2.0
// The process behind the engine `ort-node`: it runs one model with the npm package `stateport`.
//
// Messages go both ways in frames: the length of a JSON text in 4 bytes (little-endian), the text,
// and the bytes of the arrays that the text lists under `arrays`, as {name, dtype, shape}. Arrays
// of a request are the graph's inputs, those of an answer its outputs. An answer has `error` in
// place of arrays if the call failed. The process ends when its stdin does.

import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, path, threads] = process.argv.slice(2);
const send = process.stdout.write.bind(process.stdout);
// Libraries print, and stdout is for frames.
process.stdout.write = process.stderr.write.bind(process.stderr);
for (const name of ["log", "info", "debug"]) console[name] = console.error;

/** What came and is not yet read, and who waits for more. */
const received = { parts: [], size: 0, more: undefined, ended: false };
process.stdin.on("data", (part) => {
  received.parts.push(part);
  received.size += part.length;
  received.more?.();
});
process.stdin.on("end", () => {
  received.ended = true;
  received.more?.();
});

/** The next bytes, in memory of their own; undefined where stdin has ended. */
async function bytes(count) {
  while (received.size < count) {
    if (received.ended) return undefined;
    await new Promise((more) => {
      received.more = more;
    });
  }
  const all = Buffer.concat(received.parts);
  received.parts = count < all.length ? [all.subarray(count)] : [];
  received.size = all.length - count;
  // Copied, so that the memory is aligned for numbers of any size.
  return new Uint8Array(all.subarray(0, count)).buffer;
}

function answer(header, arrays = []) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  send(Buffer.concat([length, text, ...arrays]));
}

const CLASSES = {
  bool: Uint8Array, float16: Uint16Array, float32: Float32Array, float64: Float64Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};

async function request() {
  const length = await bytes(4);
  if (length === undefined) return undefined;
  const header = JSON.parse(Buffer.from(await bytes(new DataView(length).getUint32(0, true))));
  const arrays = new Map();
  for (const { name, dtype, shape } of header.arrays) {
    const Values = CLASSES[dtype];
    const count = shape.reduce((product, size) => product * size, 1);
    const data = new Values(await bytes(count * Values.BYTES_PER_ELEMENT));
    arrays.set(name, { type: dtype, dims: shape, data });
  }
  return { outputs: header.outputs, arrays };
}

/** Runs the model: the states that Python carries go in, and the next ones come out. */
async function call(stateport, model, { outputs, arrays }) {
  const pick = (names) => Object.fromEntries(names.map((name) => [name, arrays.get(name)]));
  const inputs = pick(model.inputs.map((spec) => spec.name));
  const states = pick(model.states.map((spec) => spec.input));
  const result = await model.call(inputs, new stateport.State(states));
  const given = new Map(Object.entries(result.outputs));
  for (const spec of model.states) given.set(spec.output, result.state.get(spec.input));

  const named = outputs.map((name) => [name, given.get(name)]);
  const described = named.map(([name, { type, dims }]) => ({ name, dtype: type, shape: dims }));
  const memory = named.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  answer({ arrays: described }, memory);
}

async function main() {
  if (Number.parseInt(process.versions.node) < 20) {
    answer({ error: process.version, code: "OldNode" });
    return;
  }
  const require = createRequire(`${resolve(folder)}/`);
  const stateport = await import(pathToFileURL(require.resolve("stateport")));
  if (path === undefined) {
    const { version } = require("onnxruntime-node/package.json");
    answer({ version: `onnxruntime-node ${version}, Node ${process.versions.node}` });
    return;
  }

  const model = await stateport.load(path, { engine: "node", threads: Number(threads) });
  answer({ version: `${model.engineVersion}, Node ${process.versions.node}` });
  for (let next = await request(); next !== undefined; next = await request()) {
    try {
      await call(stateport, model, next);
    } catch (error) {
      answer({ error: error.message });
    }
  }
  await model.dispose();
}

main().catch((error) => answer({ error: error.message, code: error.code ?? error.name }));
