// SPDX-License-Identifier: Apache-2.0
/** Values from outside as they stand in messages: as Python's package writes them. */

const INVISIBLE =
  /[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/gu;
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;
/** What build servers execute; see printable.py. */
const COMMAND =
  /##|(?<![\p{L}\p{N}_])::|::(?=error|warning|notice|debug|group|endgroup|echo|[a-z]+-)/giu;
/** The longest text of a value, in characters. */
const LONGEST = 80;
const START = 38;
const END = 39;
/** The most items of a list, entries of an object, and levels of both. */
const MOST_ITEMS = 6;
const MOST_ENTRIES = 4;
const DEEPEST = 3;

/** The text on one line, with an escape such as `\x1b` for each invisible character. */
export function printable(text: string): string {
  return text
    .replace(UNPRINTABLE, (found) => (found === " " ? found : escaped(found)))
    .replace(INVISIBLE, escaped)
    .replace(COMMAND, (found) => found[0] + escaped(found[1]!));
}

/** A text as Python's `repr` writes it. */
export function quoted(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inner = text
    .replace(mark === "'" ? /[\\']/g : /\\/g, "\\$&")
    .replace(UNPRINTABLE, (found) => (found === " " ? found : escaped(found)));
  return mark + inner + mark;
}

/** A value from outside as Python's `repr` writes it, with the middle of a long one left out. */
export function shown(value: unknown, level = DEEPEST): string {
  if (typeof value === "string") return shownText(value);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return String(value);

  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  const keys = Object.keys(value);
  if (!isList) keys.sort();
  if (keys.length && level <= 0) return `${open}...${close}`;

  const most = isList ? MOST_ITEMS : MOST_ENTRIES;
  const parts = keys.slice(0, most).map((key) => {
    const part = shown((value as Record<string, unknown>)[key], level - 1);
    return isList ? part : `${shownText(key)}: ${part}`;
  });
  if (keys.length > most) parts.push("...");
  return `${open}${parts.join(", ")}${close}`;
}

/** The class of a value, for a message: `an Array`, `a number`. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  const kind = typeof value === "object" ? (value.constructor?.name ?? "object") : typeof value;
  return `${/^[aeiou]/i.test(kind) ? "an" : "a"} ${kind}`;
}

/** A dtype and a shape as text: `float32[batch, time, 5]`. */
export function describe(dtype: string, shape: Iterable<unknown>): string {
  return `${dtype}[${[...shape].join(", ")}]`;
}

/**
 * A sentence with the known name that is most like this one; empty where none is: the first that
 * begins like it, or else the most similar one.
 */
export function didYouMean(name: string, known: readonly string[]): string {
  const beginning = name.toLowerCase();
  const begun = known.find((text) => text.toLowerCase().startsWith(beginning));
  if ([...beginning].length >= 2 && begun !== undefined) return ` Did you mean ${quoted(begun)}?`;

  let best: string | undefined;
  let [bestRatio, bestExact] = [0.6, 0];
  for (const text of known) {
    const ratio = likeness([...text.toLowerCase()], [...beginning]);
    const exact = likeness([...text], [...name]);
    if (ratio > bestRatio || (ratio === bestRatio && exact > bestExact)) {
      [best, bestRatio, bestExact] = [text, ratio, exact];
    }
  }
  return best === undefined ? "" : ` Did you mean ${quoted(best)}?`;
}

/** Compares texts by their code points, as Python and UTF-8 order them. */
export function byCodePoint(a: string, b: string): number {
  const left = [...a];
  const right = [...b];
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    const difference = left[at]!.codePointAt(0)! - right[at]!.codePointAt(0)!;
    if (difference) return difference;
  }
  return left.length - right.length;
}

function escaped(character: string): string {
  const code = character.codePointAt(0)!;
  const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
  if (short) return short;
  if (code < 0x100) return `\\x${hex(code, 2)}`;
  return code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, "0");
}

function shownText(value: string): string {
  const short = quoted(value.slice(0, LONGEST));
  if (short.length <= LONGEST) return short;
  const both = quoted(value.slice(0, START) + value.slice(-END));
  return `${both.slice(0, START)}...${both.slice(-END)}`;
}

/** `difflib.SequenceMatcher(a=a, b=b).ratio()`. */
function likeness(a: string[], b: string[]): number {
  const total = a.length + b.length;
  return total ? (2 * matches(a, b)) / total : 1;
}

function matches(a: string[], b: string[]): number {
  let [atA, atB, size] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let length = 0;
      while (i + length < a.length && j + length < b.length && a[i + length] === b[j + length]) {
        length++;
      }
      if (length > size) [atA, atB, size] = [i, j, length];
    }
  }
  if (!size) return 0;
  const before = matches(a.slice(0, atA), b.slice(0, atB));
  return size + before + matches(a.slice(atA + size), b.slice(atB + size));
}
