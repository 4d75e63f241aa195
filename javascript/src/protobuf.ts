// SPDX-License-Identifier: Apache-2.0
/** Protocol Buffers' wire format, with every length checked against the bytes that are there. */

/** The bytes do not follow the format. */
export class Malformed extends Error {}

/** The value of one field: a number, or the bytes of a text or a message. */
export type Value = number | bigint | Uint8Array;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const MOST_BYTES = 10;
/** The bytes of a number that fit into a double without loss. */
const EXACT_BYTES = 7;

/** The fields of one message, in order. */
export function* fields(data: Uint8Array): Generator<[number: number, value: Value]> {
  let at = 0;
  while (at < data.length) {
    let key: number | bigint;
    [key, at] = varint(data, at);
    if (key < 8) throw new Malformed("a field has the number zero");
    const number = Math.floor(Number(key) / 8);
    const wire = Number(BigInt(key) & 7n);

    // The value is the number itself, or the length of the bytes that follow.
    let value: number | bigint = wire === 1 ? 8 : 4;
    if (wire !== 1 && wire !== 5) [value, at] = varint(data, at);
    if (wire === 0) {
      yield [number, value];
      continue;
    }

    if (wire > 2 && wire !== 5) throw new Malformed(`a field has the unknown wire type ${wire}`);
    const left = data.length - at;
    if (value > left) {
      throw new Malformed(`a field claims ${value} bytes where ${left} are left`);
    }
    const end = at + Number(value);
    yield [number, data.subarray(at, end)];
    at = end;
  }
}

/** The bytes of a field that is a text or a message. */
export function bytes(value: Value): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new Malformed("a number is where a text or a message should be");
}

/** A field as a signed integer of 64 bits; beyond 2**53 it is rounded. */
export function integer(value: Value): number {
  if (value instanceof Uint8Array) throw new Malformed("a message is where a number should be");
  return typeof value === "number" ? value : Number(BigInt.asIntN(64, value));
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
export function integers(value: Value, most: number): number[] {
  if (!(value instanceof Uint8Array)) return [integer(value)];
  const numbers: number[] = [];
  for (let at = 0; at < value.length && numbers.length < most; ) {
    let number: number | bigint;
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

/** The number at a position, and the position after it. */
function varint(data: Uint8Array, at: number): [number: number | bigint, next: number] {
  let low = 0;
  let high = 0n;
  for (let position = 0; position < MOST_BYTES && at + position < data.length; position++) {
    const byte = data[at + position]!;
    if (position < EXACT_BYTES) low += (byte & 0x7f) * 2 ** (7 * position);
    else high |= BigInt(byte & 0x7f) << BigInt(7 * position);
    if (byte < 0x80) {
      const value = high ? BigInt.asUintN(64, high | BigInt(low)) : low;
      return [value, at + position + 1];
    }
  }
  throw new Malformed("a number does not end, or is too long");
}
