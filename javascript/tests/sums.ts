// A small network written byte by byte: `hn = h0 + x`, `y = hn`, for any dtype that Add takes.

import { Tensor } from "../src/index.ts";

type Field = Uint8Array | string | number;

/** One field of Protocol Buffers: a number, or a text or message after its length. */
function field(number: number, value: Field): Uint8Array {
  if (typeof value === "number") return Buffer.from([...varint(number << 3), ...varint(value)]);
  const content = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(content.length)]), content]);
}

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}

function message(...fields: Uint8Array[]): Uint8Array {
  return Buffer.concat(fields);
}

const NUMBERS: Record<string, number> = { float32: 1, int32: 6, int64: 7, float16: 10, float64: 11 };

function port(name: string, dtype: string): Uint8Array {
  const axes = [field(2, "batch"), field(1, 2)].map((axis) => field(1, axis));
  const tensor = message(field(1, NUMBERS[dtype]!), field(2, message(...axes)));
  return message(field(1, name), field(2, field(1, tensor)));
}

function node(operator: string, inputs: string[], outputs: string[]): Uint8Array {
  return message(
    ...inputs.map((name) => field(1, name)),
    ...outputs.map((name) => field(2, name)),
    field(4, operator),
  );
}

/** The file of the network. */
export function sums(
  dtype = "float32",
  { output = "y", initial, beside, streaming = { ok: true } as object }: Options = {},
): Uint8Array {
  const spec = { dtype, shape: ["batch", 2] };
  const start = initial ? "file" : "zeros";
  const contract = {
    version: 1,
    inputs: [{ name: "x", ...spec }],
    outputs: [{ name: output, ...spec }],
    states: [{ input: "h0", output: "hn", ...spec, initial: start }],
    streaming,
  };
  const weights = initial ? [field(5, firstValue(dtype, initial))] : [];
  if (beside) weights.push(field(5, weightBeside(dtype, beside)));
  const last = beside ? node("Add", ["hn", "w"], [output]) : node("Identity", ["hn"], [output]);
  const graph = message(
    field(1, node("Add", ["h0", "x"], ["hn"])),
    field(1, last),
    field(2, "sums"),
    ...weights,
    ...["x", "h0"].map((name) => field(11, port(name, dtype))),
    ...[output, "hn"].map((name) => field(12, port(name, dtype))),
  );
  const metadata = message(field(1, "stateport.contract"), field(2, JSON.stringify(contract)));
  return message(field(1, 9), field(7, graph), field(8, field(2, 20)), field(14, metadata));
}

interface Options {
  output?: string;
  /** The first value of the state: one row. */
  initial?: Uint8Array;
  /** By key, where the row that is added to each output lies: in a file beside this one. */
  beside?: Record<string, string>;
  streaming?: object;
}

function weightBeside(dtype: string, entries: Record<string, string>): Uint8Array {
  return message(
    field(1, 2),
    field(2, NUMBERS[dtype]!),
    field(8, "w"),
    ...Object.entries(entries).map(([key, text]) => field(13, message(field(1, key), field(2, text)))),
    field(14, 1), // external
  );
}

function firstValue(dtype: string, bytes: Uint8Array): Uint8Array {
  return message(
    field(1, 1),
    field(1, 2),
    field(2, NUMBERS[dtype]!),
    field(8, "stateport.initial.h0"),
    field(9, bytes),
  );
}

/** Rows of two numbers as float32. */
export function rows(...numbers: number[]): Tensor {
  return new Tensor("float32", Float32Array.from(numbers), [numbers.length / 2, 2]);
}
