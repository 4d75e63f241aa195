// SPDX-License-Identifier: Apache-2.0
/** JSON from outside: bounded, and without a key that is named twice. */

import { shown } from "./text.js";

const MOST = 16 << 20;
const DEEPEST = 64;
const TOKEN = /"(?:[^"\\]|\\.)*"(\s*:)?|[[\]{}]/gs;

/** The most bytes of a JSON text. */
export const MOST_JSON: number = MOST;

/** The value of a JSON text; an `Error` says why it is none. */
export function parseJson(text: string): unknown {
  if (text.length > MOST) throw new Error(`it has more than ${MOST} characters`);
  checkNesting(text);
  const document: unknown = JSON.parse(text);
  checkKeys(text);
  return document;
}

function checkNesting(text: string): void {
  let depth = 0;
  for (const [token] of text.matchAll(TOKEN)) {
    if (token === "{" || token === "[") depth += 1;
    else if (token === "}" || token === "]") depth -= 1;
    if (depth > DEEPEST) throw new Error(`it is nested more than ${DEEPEST} levels deep`);
  }
}

/** Refuses a key that an object has twice; readers differ in which of the two they take. */
function checkKeys(text: string): void {
  const objects: Set<string>[] = [];
  for (const [token, colon] of text.matchAll(TOKEN)) {
    if (token === "{" || token === "[") objects.push(new Set());
    else if (token === "}" || token === "]") objects.pop();
    if (colon === undefined) continue;

    const key: string = JSON.parse(token.slice(0, -colon.length));
    const keys = objects.at(-1);
    if (keys?.has(key)) throw new Error(`it names the key ${shown(key)} twice`);
    keys?.add(key);
  }
}
