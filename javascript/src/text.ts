// SPDX-License-Identifier: Apache-2.0
/** Values and names in messages, in the words of the Python package. */

const LONGEST = 80;
const MOST_ITEMS = 6;
const MOST_ENTRIES = 4;
const DEEPEST = 3;
const CLOSE = 0.6;

const ESCAPES: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
/** Everything that is invisible, changes the direction of writing, or is a space but U+0020. */
const UNPRINTABLE = /(?! )[\p{C}\p{Z}]/gu;
/** Invisible characters that Unicode classifies as letters or marks. */
const INVISIBLE =
  /[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/gu;
/** What build servers would execute. */
const COMMAND =
  /##|(?<![\p{L}\p{N}_])::|::(?=error|warning|notice|debug|group|endgroup|echo|[a-z]+-)/giu;

/** The text on one line, with an escape in place of each invisible character. */
export function printable(text: string): string {
  return text
    .replace(UNPRINTABLE, escape)
    .replace(INVISIBLE, escape)
    .replace(COMMAND, (pair) => `${pair[0]}\\x${hex(pair.charCodeAt(1), 2)}`);
}

function escape(character: string): string {
  const known = ESCAPES[character];
  if (known !== undefined) return known;

  const code = character.codePointAt(0) as number;
  if (code < 0x100) return `\\x${hex(code, 2)}`;
  return code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, "0");
}

/** A text in quotes, as Python writes it. */
export function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replaceAll("\\", "\\\\").replace(UNPRINTABLE, escape);
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

/** A value from outside on one line, with the middle of a long one left out. */
export function shown(value: unknown, level = DEEPEST): string {
  if (typeof value === "string") return shownText(value);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return String(value);

  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  const keys = isList ? value.map(String) : Object.keys(value).sort();
  if (!keys.length) return `${open}${close}`;
  if (level <= 0) return `${open}...${close}`;

  const most = isList ? MOST_ITEMS : MOST_ENTRIES;
  const parts = isList
    ? value.slice(0, most).map((item) => shown(item, level - 1))
    : keys.slice(0, most).map((key) => {
        const entry = (value as Record<string, unknown>)[key];
        return `${shownText(key)}: ${shown(entry, level - 1)}`;
      });
  if (keys.length > most) parts.push("...");
  return `${open}${parts.join(", ")}${close}`;
}

function shownText(value: string): string {
  const short = quoted(value.slice(0, LONGEST));
  if (short.length <= LONGEST) return short;

  const head = (LONGEST - 3) >> 1;
  const tail = LONGEST - 3 - head;
  const both = quoted(value.slice(0, head) + value.slice(-tail));
  return `${both.slice(0, head)}...${both.slice(-tail)}`;
}

/** The class of a value, for a message: `an Array`, `a Float32Array`. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  const kind =
    typeof value === "object" ? (value.constructor?.name ?? "object") : typeof value;
  return `${/^[aeiou]/i.test(kind) ? "an" : "a"} ${kind}`;
}

/** A sentence with the known name that is most like this one; empty where none is. */
export function didYouMean(name: string, known: Iterable<string>): string {
  const wanted = name.toLowerCase();
  let best = "";
  let bestScore = CLOSE;
  for (const candidate of known) {
    const score = likeness(candidate.toLowerCase(), wanted);
    const better = score > bestScore || (score === bestScore && candidate > best);
    if (better) [best, bestScore] = [candidate, score];
  }
  return best && ` Did you mean ${quoted(best)}?`;
}

/** How alike two texts are, from 0 to 1, as Python's difflib computes it. */
function likeness(a: string, b: string): number {
  const total = a.length + b.length;
  return total ? (2 * matches(a, b)) / total : 1;
}

function matches(a: string, b: string): number {
  let [start, other, length] = [0, 0, 0];
  let previous = new Map<number, number>();
  for (let i = 0; i < a.length; i++) {
    const current = new Map<number, number>();
    for (let j = 0; j < b.length; j++) {
      if (a[i] !== b[j]) continue;
      const run = (previous.get(j - 1) ?? 0) + 1;
      current.set(j, run);
      if (run > length) [start, other, length] = [i - run + 1, j - run + 1, run];
    }
    previous = current;
  }
  if (!length) return 0;

  const before = matches(a.slice(0, start), b.slice(0, other));
  return length + before + matches(a.slice(start + length), b.slice(other + length));
}
