// SPDX-License-Identifier: Apache-2.0
/** Protocol Buffers' wire format, as far as the outline of an ONNX file needs it. */

/** The bytes do not follow the format. */
export class Malformed extends Error {}

/** The value of one field: a number, or the bytes of a text or a message. */
export type Value = bigint | Uint8Array;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The fields of one message, in order. */
export function* fields(data: Uint8Array): Generator<[number: number, value: Value]> {
  let at = 0;
  while (at < data.length) {
    let key: bigint;
    [key, at] = varint(data, at);
    if (key < 8n) throw new Malformed("a field has the number zero");
    const number = Number(key >> 3n);
    const wire = Number(key & 7n);

    let value = wire === 1 ? 8n : 4n;
    if (wire !== 1 && wire !== 5) [value, at] = varint(data, at);
    if (wire === 0) {
      yield [number, value];
      continue;
    }

    if (wire !== 1 && wire !== 2 && wire !== 5) {
      throw new Malformed(`a field has the unknown wire type ${wire}`);
    }
    if (value > data.length - at) {
      throw new Malformed(`a field claims ${value} bytes where ${data.length - at} are left`);
    }
    const end = at + Number(value);
    yield [number, data.subarray(at, end)];
    at = end;
  }
}

/** The bytes of a field that is a text or a message. */
export function bytes(value: Value): Uint8Array {
  if (typeof value === "bigint") {
    throw new Malformed("a number is where a text or a message should be");
  }
  return value;
}

/** A field as a signed integer of 64 bits. */
export function integer(value: Value): bigint {
  if (typeof value !== "bigint") throw new Malformed("a message is where a number should be");
  return BigInt.asIntN(64, value);
}

/** A field as a text. */
export function text(value: Value): string {
  const content = bytes(value);
  try {
    return UTF8.decode(content);
  } catch {
    throw new Malformed("a name is not UTF-8");
  }
}

/** The integers of one field: one, or several that are packed, of which the first are read. */
export function integers(value: Value, most: number): bigint[] {
  if (typeof value === "bigint") return [integer(value)];
  const numbers: bigint[] = [];
  for (let at = 0; at < value.length && numbers.length < most; ) {
    let number: bigint;
    [number, at] = varint(value, at);
    numbers.push(integer(number));
  }
  return numbers;
}

/** The key and the value of a StringStringEntryProto. */
export function entry(value: Value): [key: string, text: string] {
  const pair: [string, string] = ["", ""];
  for (const [number, content] of fields(bytes(value))) {
    if (number === 1 || number === 2) pair[number - 1] = text(content);
  }
  return pair;
}

function varint(data: Uint8Array, at: number): [number: bigint, next: number] {
  let value = 0n;
  for (let position = 0; position < 10 && at + position < data.length; position++) {
    const byte = data[at + position]!;
    value |= BigInt(byte & 0x7f) << BigInt(7 * position);
    if (byte < 0x80) return [BigInt.asUintN(64, value), at + position + 1];
  }
  throw new Malformed("a number does not end, or is too long");
}
