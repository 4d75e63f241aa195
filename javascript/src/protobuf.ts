// SPDX-License-Identifier: Apache-2.0
/** Protocol Buffers' wire format, with every length checked against the bytes that are there. */

/** The bytes do not follow the format. */
export class MalformedError extends Error {}

/** The value of a field: a number, or the bytes of a text or a message. */
export type Value = number | bigint | Uint8Array;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const MOST_BYTES = 10;
/** The bytes of a number that fit into a double without loss. */
const EXACT_BYTES = 7;

/** The fields of one message, in order, as (number, value) pairs. */
export function* fields(data: Uint8Array): Generator<[number, Value]> {
  let at = 0;
  while (at < data.length) {
    let key: number | bigint;
    [key, at] = varint(data, at);
    const wire = Number(BigInt(key) & 7n);
    const number = Math.floor(Number(key) / 8);
    if (number < 1) throw new MalformedError("a field has the number zero");

    // The value is the number itself, or the length of the bytes that follow.
    let value: number | bigint = wire === 1 ? 8 : 4;
    if (wire !== 1 && wire !== 5) [value, at] = varint(data, at);
    if (wire === 0) {
      yield [number, value];
      continue;
    }

    if (wire > 2 && wire !== 5) {
      throw new MalformedError(`a field has the unknown wire type ${wire}`);
    }
    const left = data.length - at;
    if (value > left) {
      throw new MalformedError(`a field claims ${value} bytes where ${left} are left`);
    }
    const start = at;
    at += Number(value);
    yield [number, data.subarray(start, at)];
  }
}

/** The number at a position, and the position after it. */
function varint(data: Uint8Array, at: number): [number | bigint, number] {
  let low = 0;
  let high = 0n;
  for (let i = 0; i < MOST_BYTES; i++) {
    const byte = data[at + i];
    if (byte === undefined) break;

    if (i < EXACT_BYTES) low += (byte & 0x7f) * 2 ** (7 * i);
    else high |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) {
      const value = high ? BigInt.asUintN(64, high | BigInt(low)) : low;
      return [value, at + i + 1];
    }
  }
  throw new MalformedError("a number does not end, or is too long");
}

/** The bytes of a field that is a text or a message. */
export function bytesOf(value: Value): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new MalformedError("a number is where a text or a message should be");
}

/** A field as a signed integer of 64 bits; beyond 2**53 it is rounded. */
export function intOf(value: Value): number {
  if (typeof value === "number") return value;
  if (typeof value === "bigint") return Number(BigInt.asIntN(64, value));
  throw new MalformedError("a message is where a number should be");
}

/** A field as a text. */
export function textOf(value: Value): string {
  const bytes = bytesOf(value);
  try {
    return UTF8.decode(bytes);
  } catch {
    throw new MalformedError("a name is not UTF-8");
  }
}

/** The integers of one field of a repeated integer, packed or not; of many the first `most`. */
export function intsOf(value: Value, most: number): number[] {
  if (!(value instanceof Uint8Array)) return [intOf(value)];

  const numbers: number[] = [];
  let at = 0;
  while (at < value.length && numbers.length < most) {
    let number: number | bigint;
    [number, at] = varint(value, at);
    numbers.push(intOf(number));
  }
  return numbers;
}

/** The key and the value of a StringStringEntryProto. */
export function entryOf(value: Value): [string, string] {
  let key = "";
  let text = "";
  for (const [number, content] of fields(bytesOf(value))) {
    if (number === 1) key = textOf(content);
    else if (number === 2) text = textOf(content);
  }
  return [key, text];
}
