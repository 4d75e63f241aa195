// SPDX-License-Identifier: Apache-2.0
// What the engines `ort-node` and `ort-web` share: messages, and calls of a model of the npm package.
//
// Messages go both ways in frames: the length of a JSON text in 4 bytes (little-endian), the text,
// and the bytes of the arrays that the text lists under `arrays`, as {name, dtype, shape}. Arrays
// of a request are the graph's inputs, those of an answer its outputs. An answer has `error` in
// place of arrays if the call failed.

const CLASSES = {
  bool: Uint8Array, float16: Uint16Array, float32: Float32Array, float64: Float64Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};

/** One frame in memory of its own; `arrays` are the bytes of each array. */
export function frame(header, arrays = []) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = arrays.reduce((sum, array) => sum + array.length, 4 + text.length);
  const bytes = new Uint8Array(size);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  let at = 4;
  for (const part of [text, ...arrays]) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** What to say of an error that came before the first call. */
export function failure(error) {
  return frame({ error: error.message, code: error.code ?? error.name });
}

/** Reads one request. `read(count)` promises that many bytes, in memory of their own, or undefined. */
export async function readRequest(read) {
  const length = await read(4);
  if (length === undefined) return undefined;
  const text = await read(new DataView(length).getUint32(0, true));
  const header = JSON.parse(new TextDecoder().decode(text));
  const arrays = new Map();
  for (const { name, dtype, shape } of header.arrays) {
    const Values = CLASSES[dtype];
    const count = shape.reduce((product, size) => product * size, 1);
    const data = new Values(await read(count * Values.BYTES_PER_ELEMENT));
    arrays.set(name, { type: dtype, dims: shape, data });
  }
  return { outputs: header.outputs, arrays };
}

/** Runs the model: the states that Python carries go in, and the next ones come out, in a frame. */
export async function answer(stateport, model, request) {
  try {
    return await called(stateport, model, request);
  } catch (error) {
    return frame({ error: error.message });
  }
}

async function called(stateport, model, { outputs, arrays }) {
  const pick = (names) => Object.fromEntries(names.map((name) => [name, arrays.get(name)]));
  const inputs = pick(model.inputs.map((spec) => spec.name));
  const states = pick(model.states.map((spec) => spec.input));
  const result = await model.call(inputs, new stateport.State(states));
  const given = new Map(Object.entries(result.outputs));
  for (const spec of model.states) given.set(spec.output, result.state.get(spec.input));

  const named = outputs.map((name) => [name, given.get(name)]);
  const described = named.map(([name, { type, dims }]) => ({ name, dtype: type, shape: dims }));
  const memory = named.map(([, { data }]) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return frame({ arrays: described }, memory);
}
